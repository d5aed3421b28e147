"""How far a direction can be trusted: figures with their intervals, controls to hold them against, and plain words.

A direction can look good by chance, by the length of the texts, or because anything as long would do as much. Each
figure here stands for one such doubt. Held-out figures are of the validation examples, on which the direction's place
was chosen too: they flatter it somewhat, and the controls, which were chosen by nothing, not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.activations import ResidualReader, is_out_of_memory
from steering.contrast import ContrastSet
from steering.errors import DirectionError, OutOfMemoryError, SteeringError
from steering.progress import Progress, silent
from steering.scoring import BYPASS, INDUCE, KL, Scorer, pairs_first

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.finding import Prepared
    from steering.models import ChatModel

N_CONTROLS = 20  # of either kind: 19 is the fewest that a direction like them outdoes only 1 time in 20
HALVINGS = 20
RESAMPLES = 9_999  # of a bootstrap; as many at a time as RESAMPLED_AT_ONCE, for they lie in memory
RESAMPLED_AT_ONCE = 1_000
ROWS_AT_ONCE = 4  # directions in a pass: enough for a GPU, and still a pass short enough to be cancelled after
# Of pairs of examples, one of either side: length is as good a ruler as the direction if it fails with no more than 1
# pair in 20 that the direction gets right.
LENGTH_NEARLY = 0.05
# Halves agree by c = s / (s + e), s being the squared length of what all examples share and e the noise of a half. The
# whole has half that noise, so 2c / (1 + c) of its squared length is shared (Spearman and Brown): two thirds at 0.5.
SPLIT_HALF_LOW = 0.5

WHAT = "Scoring controls"
INTERVALS = {
    "separation": "95 % by bootstrap over examples (percentiles)",
    "length_ruler": "95 % by bootstrap over examples (percentiles)",
    "split_half": "mean of the halvings, their 2.5 and 97.5 percentiles",
    "wrong_way": "95 % by Wilson's formula",
    "scores": "95 % by bootstrap over examples (percentiles)",
    "random": "mean of the directions, the lowest and the highest of them; as long as the direction",
    "shuffled": "mean of the directions, the lowest and the highest of them; as long as the direction",
}

Samples = Sequence[NDArray[np.float64]]
Half = tuple[NDArray[np.intp], NDArray[np.intp]]  # row numbers of its positive and of its negative examples
Values = dict[str, NDArray[np.float64]]  # by score, one number an example


@dataclass(frozen=True)
class Figure:
    """A number, how uncertain it is, and over how many it was taken.

    Attributes:
        value: NaN if it could not be measured.
        low, high: its interval, of the kind that INTERVALS says; both equal ``value`` where there is none, as for a
            single example or where resampling changes nothing.
        n: examples, halvings or directions; 0 if there was nothing to measure.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        return self.low < self.high

    def as_card(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN: None instead."""
        return {name: x if math.isfinite(x) else None for name, x in asdict(self).items()}

    def words(self, form: str = ".2f") -> str:
        """The value and its 95 % interval."""
        if not math.isfinite(self.value):
            return "an unknown number"
        value, low, high = (format(x, form) for x in (self.value, self.low, self.high))
        return f"{value} (95% interval {low} to {high})" if self.has_interval else f"{value} (no interval)"


UNKNOWN = Figure(math.nan, math.nan, math.nan, 0)


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


def trust(
    model: ChatModel,
    prepared: Prepared,
    direction: Direction,
    *,
    candidates: Candidates,
    scorer: Scorer,
    n_random: int = N_CONTROLS,
    n_shuffled: int = N_CONTROLS,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> TrustCard:
    """Measure how far a direction can be trusted.

    It costs about what scoring ``1 + n_random + n_shuffled`` candidates to the end costs.

    Args:
        prepared, candidates, scorer: those the direction was found with; a :class:`steering.finding.Finder` has them.
        n_random, n_shuffled: how many controls of either kind; of shuffled ones there are fewer where the training
            examples are too few to be halved in so many ways.
        progress: told after every batch of examples and after every pass.

    Raises:
        Cancelled: if ``progress`` raises it.
        DirectionError: if the direction does not fit the model, or was read where this set has no candidates.
        SteeringError: if there is to be no control of one kind.
        OutOfMemoryError: if even one example, or one direction, does not fit into memory.
    """
    _require_use(model, direction, candidates, n_random, n_shuffled)
    train, validation = prepared.train, prepared.validation
    to_learn, along = _read(model, prepared, direction, batch_size, progress)
    seeds = np.random.SeedSequence(seed).spawn(3)
    halvings, isotropic, labels = (np.random.default_rng(one) for one in seeds)
    random = _random_controls(direction, n_random, isotropic)
    shuffled = _shuffled_controls(direction, candidates, to_learn, n_shuffled, labels)
    own, *others = _values(scorer, [direction, *random, *shuffled], progress)
    ruler, longer = _length_ruler(model, validation, seed)
    return TrustCard(
        data=prepared.data.name,
        data_sha256=prepared.data.sha256,
        n_train=(len(train.positive), len(train.negative)),
        n_validation=(len(validation.positive), len(validation.negative)),
        seed=seed,
        separation=_bootstrapped(along, _auroc, seed),
        length_ruler=ruler,
        longer=longer,
        split_half=_split_half(to_learn, halvings),
        wrong_way=_wrong_way(scorer, own),
        scores={score: _bootstrapped([values], np.mean, seed) for score, values in own.items()},
        random=_range(others[:n_random]),
        shuffled=_range(others[n_random:]),
    )


def _require_use(
    model: ChatModel, direction: Direction, candidates: Candidates, n_random: int, n_shuffled: int
) -> None:
    direction.require_fit(model)
    if direction.position not in candidates.positions:
        raise DirectionError(
            f"“{direction.name}” was read at position {direction.position}, which this set does not have: its "
            f"positions are {candidates.positions}. Choose the set it was made from."
        )
    if len(direction.ablation_basis) > 1:
        raise DirectionError(
            f"“{direction.name}” ablates {len(direction.ablation_basis)} directions at once, and only a single one can "
            "be held against controls. Choose one of them."
        )
    if min(n_random, n_shuffled) < 1:
        raise SteeringError(
            f"A direction cannot be held against {n_random} random and {n_shuffled} shuffled ones: "
            "ask for at least one of either kind."
        )


@dataclass(frozen=True, eq=False)
class _Learned:
    """The training examples at one place: float64 ``[n, d_model]``, positives first, on either side pairs first.

    What is drawn keeps pairs together: two texts that answer one prompt share more than texts of one side do, and that
    is not the idea. Draws are row numbers.
    """

    stream: Tensor
    n_positive: int
    n_pairs: int

    def difference(self, half: Half) -> Tensor:
        """Difference in means, float64 ``[d_model]``."""
        positive, negative = half
        return self.stream[torch.from_numpy(positive)].mean(dim=0) - self.stream[torch.from_numpy(negative)].mean(dim=0)

    def halves(self, rng: np.random.Generator) -> list[Half]:
        """Two disjoint halves, drawn at random."""
        pairs = rng.permutation(self.n_pairs)
        orders = [
            first + np.concatenate([pairs, rng.permutation(np.arange(self.n_pairs, size))])
            for first, size in ((0, self.n_positive), (self.n_positive, len(self.stream) - self.n_positive))
        ]
        return [(orders[0][start::2], orders[1][start::2]) for start in (0, 1)]

    def halvings(self, n: int, rng: np.random.Generator) -> list[list[Half]]:
        """At most ``n`` different pairs of halves; none if a side has a single example."""
        if min(self.n_positive, len(self.stream) - self.n_positive) < 2:
            return []
        drawn = (self.halves(rng) for _ in range(n))
        return list({frozenset(frozenset(np.concatenate(half)) for half in one): one for one in drawn}.values())


def _read(
    model: ChatModel, prepared: Prepared, direction: Direction, batch_size: int, progress: Progress
) -> tuple[_Learned, Samples]:
    """The training examples at the direction's place, and how far along it either side's validation examples lie.

    Of each example only that place is kept.
    """
    positive, negative, n_pairs = pairs_first(prepared.train)
    examples = [*positive, *negative, *prepared.validation.positive, *prepared.validation.negative]
    reader = ResidualReader(model, examples, batch_size)
    row = reader.positions.index(direction.position)
    stream = torch.empty(len(examples), model.d_model, dtype=torch.float64)
    for indices, batch, _ in reader.read(progress):
        stream[indices] = batch[:, row, direction.layer].double()
    n_train = len(positive) + len(negative)
    along = (stream[n_train:] @ direction.unit.double()).numpy()
    return (
        _Learned(stream[:n_train], len(positive), n_pairs),
        np.split(along, [len(prepared.validation.positive)]),
    )


def _random_controls(direction: Direction, n: int, rng: np.random.Generator) -> list[Direction]:
    """Isotropic directions as long as r, themselves ablated."""
    vectors = torch.from_numpy(rng.standard_normal((n, len(direction.vector)))).float()
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    return [replace(direction, vector=direction.norm * unit, ablation_basis=unit[None]) for unit in units]


def _shuffled_controls(
    direction: Direction, candidates: Candidates, to_learn: _Learned, n: int, rng: np.random.Generator
) -> list[Direction]:
    """What the labels give once they are swapped in a half of the examples, made as the direction was.

    Swapping a half, and not any examples, leaves as much of the idea on either side, so that it cancels. Labels
    permuted freely leave a rest of it, which scaled to ‖r‖ can be most of such a direction where the sides differ much:
    the clearer the idea, the less would it differ from its controls.
    """
    row, controls = candidates.positions.index(direction.position), []
    for one, other in to_learn.halvings(n, rng):
        vectors = candidates.vectors.clone()
        vectors[row, direction.layer] = (to_learn.difference(one) - to_learn.difference(other)).float() / 2
        try:
            found = replace(candidates, vectors=vectors).direction(
                direction.position, direction.layer, projected=direction.card.get("projected", False)
            )
        except DirectionError:  # the sides do not differ any more
            continue
        basis = found.ablation_basis if direction.is_centred else found.unit[None]
        controls.append(replace(direction, vector=direction.norm * found.unit, ablation_basis=basis))
    return controls


def _values(scorer: Scorer, directions: Sequence[Direction], progress: Progress) -> list[Values]:
    """What is behind each direction's scores, a few directions a pass; fewer if memory runs out."""
    values: list[Values] = []
    size = ROWS_AT_ONCE
    while len(values) < len(directions):
        part = directions[len(values) :][:size]
        found: list[dict[str, list[Tensor]]] = [{score: [] for score in scorer.totals} for _ in part]
        try:
            for i, step in enumerate(scorer.steps):
                progress(WHAT, len(values) + len(part) * i / len(scorer.steps), len(directions))
                for one, result in zip(found, scorer.run(step.name, part), strict=True):
                    for score, numbers in result.items():
                        one[score].append(numbers)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemoryError(
                    "There is not enough memory to score even one direction. Give shorter examples or choose a "
                    "smaller model."
                ) from error
            size //= 2
            continue
        values += [{score: torch.cat(numbers).numpy() for score, numbers in one.items()} for one in found]
    progress(WHAT, len(directions), len(directions))
    return values


def _auroc(positive: NDArray[np.float64], negative: NDArray[np.float64], axis: int = -1) -> Any:
    """The Mann-Whitney U statistic over the number of pairs; ties count half."""
    from scipy.stats import mannwhitneyu

    # The method is that of a p-value, which is not used; the others would cost more.
    statistic = mannwhitneyu(positive, negative, axis=axis, method="asymptotic").statistic
    return statistic / (positive.shape[axis] * negative.shape[axis])


def _bootstrapped(samples: Samples, statistic: Callable[..., Any], seed: int) -> Figure:
    """``statistic(*samples)`` with its interval over examples, each sample being resampled by itself.

    The interval is the plain one of percentiles: it is defined too where nothing varies, and is then empty.
    """
    from scipy.stats import bootstrap

    value, n = float(statistic(*samples)), sum(map(len, samples))
    if not math.isfinite(value) or min(map(len, samples)) < 2:
        return Figure(value, value, value, n)
    low, high = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=RESAMPLED_AT_ONCE, method="percentile", random_state=seed
    ).confidence_interval
    return Figure(value, float(low), float(high), n)


def _length_ruler(model: ChatModel, validation: ContrastSet, seed: int) -> tuple[Figure, str]:
    """How well the number of tokens of what carries the idea tells the sides apart, and which side is longer by it."""
    sides = {
        name: np.array(
            [len(model.tokenizer(one.text, add_special_tokens=False)["input_ids"]) for one in examples], dtype=float
        )
        for name, examples in (("positive", validation.positive), ("negative", validation.negative))
    }
    positive_longer = float(_auroc(sides["positive"], sides["negative"]))
    if positive_longer >= 0.5:
        longer = "positive" if positive_longer > 0.5 else "neither"
        return _bootstrapped([sides["positive"], sides["negative"]], _auroc, seed), longer
    return _bootstrapped([sides["negative"], sides["positive"]], _auroc, seed), "negative"


def _split_half(to_learn: _Learned, rng: np.random.Generator) -> Figure:
    """Mean cosine between the halves' differences and the middle 95 % of the halvings; unknown for a single example.

    A half without a difference agrees with nothing, which counts as 0.
    """
    halvings = to_learn.halvings(HALVINGS, rng)
    if not halvings:
        return UNKNOWN
    differences = [(to_learn.difference(one), to_learn.difference(other)) for one, other in halvings]
    cosines = [float(torch.nn.functional.cosine_similarity(one, other, dim=0)) for one, other in differences]
    low, high = np.percentile(cosines, [2.5, 97.5])
    return Figure(float(np.mean(cosines)), float(low), float(high), len(cosines))


def _wrong_way(scorer: Scorer, own: Values) -> dict[str, Figure]:
    """By score, the share of examples on which the direction does not do what it should; no number counts so too."""
    unsteered = scorer.unsteered
    right = {
        BYPASS: own[BYPASS] < unsteered.positive.numpy(),
        INDUCE: own[INDUCE] > unsteered.negative.numpy(),
    }
    return {score: _wilson(int((~as_it_should).sum()), len(as_it_should)) for score, as_it_should in right.items()}


def _wilson(count: int, n: int) -> Figure:
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(method="wilson")
    return Figure(count / n, float(low), float(high), n)


def _range(controls: Sequence[Values]) -> dict[str, Figure]:
    """By score, the mean over directions with the lowest and the highest of them."""
    if not controls:
        return dict.fromkeys((BYPASS, INDUCE, KL), UNKNOWN)
    means = {score: np.array([one[score].mean() for one in controls]) for score in (BYPASS, INDUCE, KL)}
    return {
        score: Figure(float(values.mean()), float(values.min()), float(values.max()), len(values))
        for score, values in means.items()
    }
