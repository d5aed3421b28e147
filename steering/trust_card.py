"""The trust card: what was measured of a direction, and what it means in plain words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from steering.figures import Figure
from steering.scoring import BYPASS, INDUCE, KL

# Of pairs of examples, one of either side: length is as good a ruler as the direction if it fails with no more than 1
# pair in 20 that the direction gets right.
LENGTH_NEARLY = 0.05
# Halves agree by c = s / (s + e), s being the squared length of what all examples share and e the noise of a half. The
# whole has half that noise, so 2c / (1 + c) of its squared length is shared (Spearman and Brown): two thirds at 0.5.
SPLIT_HALF_LOW = 0.5

INTERVALS = {
    "separation": "95 % by bootstrap over examples (percentiles)",
    "length_ruler": "95 % by bootstrap over examples (percentiles)",
    "split_half": "mean of the halvings, their 2.5 and 97.5 percentiles",
    "wrong_way": "95 % by Wilson's formula",
    "scores": "95 % by bootstrap over examples (percentiles)",
    "random": "mean of the directions, the lowest and the highest of them; as long as the direction",
    "shuffled": "mean of the directions, the lowest and the highest of them; as long as the direction",
}


@dataclass(frozen=True)
class TrustCard:
    """What was measured of one direction. INTERVALS says what each figure's interval is.

    Attributes:
        data, data_sha256: the contrast set it was made from.
        n_train, n_validation: how many examples of the positive and the negative side.
        seed: of halvings, controls and resamples.
        separation: AUROC along r̂ on the validation examples, the chance that a positive one lies further along it.
        length_ruler: AUROC of the number of tokens of what carries the idea, counted so that it is at least 0.5.
        longer: whose texts are the longer ones by it, ``"positive"``, ``"negative"`` or ``"neither"``.
        split_half: cosine of the differences in means of two disjoint halves of the training examples.
        wrong_way: share of the examples behind ``"bypass"`` whose metric ablation does not lower, and of those behind
            ``"induce"`` whose metric addition (c = 1) does not raise.
        scores: the direction's ``"bypass"``, ``"induce"`` and ``"kl"``.
        random: the same of isotropic directions as long as r; the random direction itself is ablated.
        shuffled: the same of differences in means with the labels swapped in a random half of the training examples,
            made in every other way as the direction was and scaled to its length, so that only where they point
            differs.
    """

    data: str
    data_sha256: str
    n_train: tuple[int, int]
    n_validation: tuple[int, int]
    seed: int
    separation: Figure
    length_ruler: Figure
    longer: str
    split_half: Figure
    wrong_way: dict[str, Figure]
    scores: dict[str, Figure]
    random: dict[str, Figure]
    shuffled: dict[str, Figure]

    @property
    def better_than_controls(self) -> dict[str, bool]:
        """By score: whether bypass lies below, and induce above, that of every random and every shuffled control.

        If the labels meant nothing, the direction would be like the n shuffled ones, and beyond all of them about once
        in n + 1 times: the argument of a permutation test. Random directions show what any push of this length does.
        """
        controls = (self.random, self.shuffled)
        return {
            BYPASS: all(self.scores[BYPASS].value < control[BYPASS].low for control in controls),
            INDUCE: all(self.scores[INDUCE].value > control[INDUCE].high for control in controls),
        }

    @property
    def length_tells_as_much(self) -> bool:
        """Whether the length of the texts tells the sides apart nearly as well as the direction."""
        ruler = self.length_ruler.value
        return ruler > 0.5 + LENGTH_NEARLY and ruler >= self.separation.value - LENGTH_NEARLY

    @property
    def is_unstable(self) -> bool:
        """Whether the halves' cosine is low."""
        return self.split_half.value < SPLIT_HALF_LOW

    def as_card(self) -> dict[str, Any]:
        """Plain JSON for a direction's card; every figure is ``{"value", "low", "high", "n"}``."""
        card = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        verdicts = {"better_than_controls": self.better_than_controls, "sentences": self.sentences()}
        return card | verdicts | {"intervals": dict(INTERVALS)}

    def sentences(self) -> list[str]:
        """The card in plain words, with what speaks against the direction."""
        said = [
            f"Learned from {_sides(self.n_train)} examples of “{self.data}”, checked on {_sides(self.n_validation)} "
            "others, on which its place was chosen too.",
            self._separation_words(),
            self._length_words(),
            self._stability_words(),
            f"Taken out, it does not lower the metric on {_share(self.wrong_way[BYPASS])}; added, it does not raise it "
            f"on {_share(self.wrong_way[INDUCE])}.",
            self._control_words(BYPASS, "Taken out"),
            self._control_words(INDUCE, "Added"),
            f"Where the idea is absent, taking it out moves the next token by {self.scores[KL].words('.3f')} nats; "
            f"{_controls(self, KL, '.3f')}.",
        ]
        if not all(figure.has_interval for figure in (self.separation, *self.scores.values())):
            said.append(
                "A figure without an interval comes from a single example, or from examples that resampling does not "
                "change. That does not make it exact: check with more examples."
            )
        return said

    def _separation_words(self) -> str:
        said = (
            "Of two examples it was not made from, one of either side, the one that shows the idea lies further along "
            f"it in {self.separation.words('.0%')} of cases."
        )
        return said if self.separation.low > 0.5 else f"{said} That is no better than chance."

    def _length_words(self) -> str:
        if self.longer == "neither":
            return "The number of tokens does not tell the sides apart."
        said = (
            f"The number of tokens alone tells them apart in {self.length_ruler.words('.0%')} of cases: "
            f"the {self.longer} texts are the longer ones."
        )
        if not self.length_tells_as_much:
            return said
        return (
            f"{said} That is nearly as well as the direction does, so it may mean length rather than the idea. "
            "Give sides of equal length."
        )

    def _stability_words(self) -> str:
        figure = self.split_half
        if not figure.n:
            return "How much it depends on the examples is not known: a side has a single one to learn from. Give more."
        said = (
            f"Directions from two halves of the training examples have a cosine of {figure.value:.2f} (of {figure.n} "
            f"halvings 95% lie between {figure.low:.2f} and {figure.high:.2f})."
        )
        if not self.is_unstable:
            return said
        return (
            f"{said} That is low: other examples of the same idea would give another direction. "
            "Give more examples, or examples that differ in the idea alone."
        )

    def _control_words(self, score: str, how: str) -> str:
        said = f"{how}, it brings the metric to {self.scores[score].words()}; {_controls(self, score, '.2f')}."
        if not self.better_than_controls[score]:
            return f"{said} It does no better than these controls."
        odds = self.shuffled[score].n + 1
        return f"{said} It goes beyond all of them, which labels without meaning would do about 1 time in {odds}."


def _plain(value: Any) -> Any:
    """``value`` as JSON reads it back."""
    if isinstance(value, Figure):
        return value.as_card()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _sides(counts: tuple[int, int]) -> str:
    return f"{counts[0]} positive and {counts[1]} negative"


def _share(figure: Figure) -> str:
    return f"{round(figure.value * figure.n)} of {figure.n} examples, {figure.words('.0%')}"


def _controls(card: TrustCard, score: str, form: str) -> str:
    """What the controls do, for the end of a sentence about the direction."""
    said = []
    for kind, controls in (("random directions", card.random), ("directions from shuffled labels", card.shuffled)):
        value, low, high = (format(x, form) for x in (controls[score].value, controls[score].low, controls[score].high))
        n = controls[score].n
        said.append(f"{n} {kind}: {value} on average ({low} to {high})" if n else f"no {kind} could be made")
    return ", ".join(said)
