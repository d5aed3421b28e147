"""The trust card: every figure against counting by hand, and what is said of directions that are not to be trusted."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product

import numpy as np
import oracle
import pytest
import torch
from family_tokenizers import CORPUS
from test_scoring import (
    CHECK,
    CHECK_REPLIES,
    TOKENS,
    TRAIN,
    TRAIN_REPLIES,
    Way,
    contrast,
    divergence,
    interventions,
    log_odds,
    plain_logits,
)
from torch import Tensor

from steering.contrast import ContrastSet, Example
from steering.directions import Candidates, Direction, difference_in_means
from steering.errors import Cancelled, DirectionError, OutOfMemoryError, SteeringError
from steering.finding import Prepared, prepare
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.neutral_means import centred
from steering.progress import Tick, no_tick
from steering.scoring import BYPASS, INDUCE, KL, KL_TOKENS, Scorer, Step, Unsteered, response_sequence, scorer_for
from steering.trust import INTERVALS, Figure, TrustCard, trust
from steering.trust_controls import Learned

Tiny = Callable[[str], ChatModel]
KINDS = {"prompts": "gemma2", "responses": "qwen2"}  # with the family each is tried on
PAIRED_TRAIN = contrast(["The sea is cold.", "A boat with a sail."], ["Make tea.", "Why is the sky blue?"], paired=True)
WORDS = sorted({word for text in CORPUS for word in re.findall(r"\b[a-z]{4,}\b", text)})[:30]
CLOSE = 1e-4


@dataclass(eq=False)
class Recording:
    """A scorer that keeps what it was asked for."""

    scorer: Scorer
    seen: list[tuple[str, Direction]] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.scorer, name)

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        self.seen += [(step, direction) for direction in directions]
        return self.scorer.run(step, directions, tick)

    @property
    def directions(self) -> list[Direction]:
        return list(dict.fromkeys(direction for _, direction in self.seen))


@dataclass(eq=False)
class Measured:
    """One card with everything it came from."""

    chat: ChatModel
    family: str
    prepared: Prepared
    candidates: Candidates
    direction: Direction
    scorer: Recording
    card: TrustCard

    @property
    def controls(self) -> list[Direction]:
        """The three random ones, then those from shuffled labels."""
        return self.scorer.directions[1:]


def made_ready(train: ContrastSet, check: ContrastSet) -> Prepared:
    tokens = None if train.has_responses else FirstTokens(TOKENS, ("a", "b"), "for this test")
    return Prepared(train, check, tokens, False, 0, train, False)


def measured(chat: ChatModel, family: str, prepared: Prepared, layer: int = 1, **options: int) -> Measured:
    """The card of the candidate at the last position."""
    candidates = difference_in_means(chat, prepared.train)
    direction = candidates.direction(candidates.positions[-1], layer)
    scorer = Recording(scorer_for(chat, prepared.validation, prepared.tokens))
    card = trust(chat, prepared, direction, candidates=candidates, scorer=scorer, **options)
    return Measured(chat, family, prepared, candidates, direction, scorer, card)


@pytest.fixture(scope="module")
def of_kind(tiny: Tiny) -> Callable[[str], Measured]:
    """A card of a set of prompts, and one of a set of responses; with three controls of either kind, made once."""

    def make(kind: str) -> Measured:
        sets = (TRAIN, CHECK) if kind == "prompts" else (TRAIN_REPLIES, CHECK_REPLIES)
        return measured(tiny(KINDS[kind]), KINDS[kind], made_ready(*sets), n_random=3, n_shuffled=3)

    return cache(make)


def stream(chat: ChatModel, example: Example, layer: int) -> Tensor:
    """Where an example is read: its prompt's last token, or the mean over its response, float64 ``[d_model]``."""
    prompt = chat.encode(list(example.messages))
    if example.response is None:
        return oracle.hidden_states(chat, prompt)[layer, -1]
    reply = chat.tokenizer(example.response, add_special_tokens=False)["input_ids"]
    return oracle.hidden_states(chat, prompt + reply)[layer, len(prompt) :].mean(dim=0)


def counted_auroc(high: Sequence[float], low: Sequence[float]) -> float:
    return float(np.mean([1.0 if one > other else 0.5 if one == other else 0.0 for one, other in product(high, low)]))


def plain_values(one: Measured, direction: Direction) -> dict[str, list[float]]:
    """What is behind the three scores of a direction, one prompt at a time in float64; and unsteered."""
    chat, check = one.chat, one.prepared.validation
    ways: dict[str, Way] = interventions(direction)

    def odds(example: Example, way: str) -> float:
        prompt, response = response_sequence(chat, example)
        if not response:
            return log_odds(plain_logits(chat, one.family, prompt, ways[way]))
        logits = plain_logits(chat, one.family, prompt + response, ways[way])[len(prompt) - 1 : -1]
        return float(logits.log_softmax(dim=-1)[range(len(response)), response].mean())

    def metric(side: list[Example], way: str) -> list[float]:
        if not check.has_responses:
            return [odds(example, way) for example in side]
        return [odds(p, way) - odds(n, way) for p, n in zip(check.positive, check.negative, strict=True)]

    def kl(example: Example) -> float:
        prompt, response = response_sequence(chat, example)
        base, other = (
            plain_logits(chat, one.family, prompt + response, ways[way])[len(prompt) - 1 :][: len(response) or 1]
            for way in ("as it is", "ablated")
        )
        return float(divergence(base, other)[:KL_TOKENS].mean())

    return {
        BYPASS: metric(check.positive, "ablated"),
        INDUCE: metric(check.negative, "added"),
        KL: [kl(example) for example in check.negative],
        "unsteered positive": metric(check.positive, "as it is"),
        "unsteered negative": metric(check.negative, "as it is"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_separation_and_length_equal_counting_pairs(kind: str, of_kind: Callable[[str], Measured]) -> None:
    one = of_kind(kind)
    check, unit = one.prepared.validation, one.direction.unit.double()
    along = [
        [float(stream(one.chat, e, one.direction.layer) @ unit) for e in side]
        for side in (check.positive, check.negative)
    ]
    assert one.card.separation.value == pytest.approx(counted_auroc(*along))
    assert one.card.separation.n == len(check.positive) + len(check.negative)
    lengths = [
        [len(one.chat.tokenizer(e.text, add_special_tokens=False)["input_ids"]) for e in side]
        for side in (check.positive, check.negative)
    ]
    positive_longer = counted_auroc(*lengths)
    assert one.card.length_ruler.value == pytest.approx(max(positive_longer, 1 - positive_longer))
    assert one.card.longer == ("positive" if positive_longer > 0.5 else "negative")
    assert 0 <= one.card.length_ruler.low < one.card.length_ruler.value < one.card.length_ruler.high <= 1


def test_separation_is_along_what_is_added_and_not_along_what_is_ablated(of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("responses")
    turned = replace(one.direction, ablation_basis=-one.direction.ablation_basis)
    card = trust(one.chat, one.prepared, turned, candidates=one.candidates, scorer=one.scorer.scorer, n_random=1)
    assert card.separation == one.card.separation


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_the_wrong_way_equal_the_plain_loop(kind: str, of_kind: Callable[[str], Measured]) -> None:
    one = of_kind(kind)
    plain = plain_values(one, one.direction)
    for score in (BYPASS, INDUCE, KL):
        figure = one.card.scores[score]
        assert figure.value == pytest.approx(np.mean(plain[score]), abs=CLOSE)
        assert figure.n == len(plain[score])
        draws = np.random.default_rng(7).choice(plain[score], (20_000, figure.n)).mean(axis=1)
        interval = np.percentile(draws, [2.5, 97.5])
        assert [figure.low, figure.high] == pytest.approx(interval, abs=0.05 * np.ptp(interval))
    counts = {
        BYPASS: sum(x >= y for x, y in zip(plain[BYPASS], plain["unsteered positive"], strict=True)),
        INDUCE: sum(x <= y for x, y in zip(plain[INDUCE], plain["unsteered negative"], strict=True)),
    }
    for score, count in counts.items():
        figure = one.card.wrong_way[score]
        assert (figure.value, figure.n) == (count / len(plain[score]), len(plain[score]))
        assert [figure.low, figure.high] == pytest.approx(wilson(count, figure.n))


def wilson(count: int, n: int) -> list[float]:
    z, p = 1.959964, count / n
    middle = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [max((middle - reach) / (1 + z * z / n), 0), min((middle + reach) / (1 + z * z / n), 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_controls_equal_the_plain_loop(kind: str, of_kind: Callable[[str], Measured]) -> None:
    one = of_kind(kind)
    assert one.scorer.directions[0] is one.direction
    for figures, controls in ((one.card.random, one.controls[:3]), (one.card.shuffled, one.controls[3:])):
        plain = [plain_values(one, control) for control in controls]
        assert controls
        for score in (BYPASS, INDUCE, KL):
            means = [float(np.mean(values[score])) for values in plain]
            expected = [np.mean(means), min(means), max(means)]
            assert [figures[score].value, figures[score].low, figures[score].high] == pytest.approx(expected, abs=CLOSE)
            assert figures[score].n == len(controls)


@pytest.mark.parametrize("kind", KINDS)
def test_controls_are_as_long_as_the_direction_and_made_as_it_was(
    kind: str, of_kind: Callable[[str], Measured]
) -> None:
    one = of_kind(kind)
    assert one.direction.is_centred == (kind == "responses")
    for control in one.controls:
        assert (control.layer, control.position) == (one.direction.layer, one.direction.position)
        assert control.norm == pytest.approx(one.direction.norm, rel=1e-5)
    assert not any(control.is_centred for control in one.controls[:3])
    half_swapped = swapped_differences(one)
    neutral = [
        torch.stack([stream(one.chat, e, layer) for e in one.prepared.train.negative]).mean(dim=0)
        for layer in range(one.chat.n_layers)
    ]
    for control in one.controls[3:]:
        cosines = [float(control.unit.double() @ vector / vector.norm()) for vector in half_swapped]
        assert max(cosines) == pytest.approx(1, abs=1e-4)
        vector = half_swapped[int(np.argmax(cosines))].float()
        ablated = centred(vector, torch.stack(neutral)) if kind == "responses" else vector
        assert float(control.ablation_unit @ ablated / ablated.norm()) == pytest.approx(1, abs=1e-3)


def test_controls_of_a_projected_direction_are_projected(of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    projected = one.candidates.direction(-1, 1, projected=True)
    scorer = Recording(one.scorer.scorer)
    trust(one.chat, one.prepared, projected, candidates=one.candidates, scorer=scorer, n_random=1, n_shuffled=3)
    mean = one.candidates.negative.means[-1, 1]
    for control in scorer.directions[2:]:
        assert float(control.unit @ mean / mean.norm()) == pytest.approx(0, abs=1e-5)


def swapped_differences(one: Measured) -> list[Tensor]:
    """All that the labels can give once those of one half are swapped, from unpaired examples."""
    layer = one.direction.layer
    halvings = []
    for side in (one.prepared.train.positive, one.prepared.train.negative):
        streams = torch.stack([stream(one.chat, e, layer) for e in side])
        rows = set(range(len(side)))
        halves = [(list(half), list(rows - set(half))) for half in combinations(rows, (len(side) + 1) // 2)]
        halvings.append([streams[half].mean(dim=0) - streams[other].mean(dim=0) for half, other in halves])
    return [(positive - negative) / 2 for positive, negative in product(*halvings)]


def test_the_halves_of_two_pairs_are_the_pairs(tiny: Tiny) -> None:
    one = measured(tiny("llama3"), "llama3", made_ready(PAIRED_TRAIN, CHECK), n_random=1, n_shuffled=20)
    first, second = (
        stream(one.chat, positive, 1) - stream(one.chat, negative, 1)
        for positive, negative in zip(PAIRED_TRAIN.positive, PAIRED_TRAIN.negative, strict=True)
    )
    cosine = float(first @ second / (first.norm() * second.norm()))
    figure = one.card.split_half
    assert [figure.value, figure.low, figure.high] == pytest.approx([cosine] * 3, abs=CLOSE)
    assert figure.n == one.card.shuffled[BYPASS].n == 1  # there is no other halving, and each counts once
    swapped = (first - second).float()
    assert abs(float(one.controls[-1].unit @ swapped / swapped.norm())) == pytest.approx(1, abs=CLOSE)


def test_the_halves_of_two_and_two_without_pairs(tiny: Tiny) -> None:
    train = replace(PAIRED_TRAIN, positive=[replace(e, pair=None) for e in PAIRED_TRAIN.positive])
    one = measured(tiny("llama3"), "llama3", made_ready(train, CHECK), n_random=1, n_shuffled=1)
    (a, b), (c, d) = ([stream(one.chat, e, 1) for e in side] for side in (train.positive, train.negative))
    cosines = [float(torch.nn.functional.cosine_similarity(x, y, dim=0)) for x, y in ((a - c, b - d), (a - d, b - c))]
    figure = one.card.split_half
    assert figure.n == 2
    assert figure.value == pytest.approx(np.mean(cosines), abs=CLOSE)
    assert [figure.low, figure.high] == pytest.approx(np.percentile(cosines, [2.5, 97.5]), abs=CLOSE)


@pytest.mark.parametrize(
    ("n_positive", "n_negative", "n_pairs"), [(2, 2, 0), (3, 2, 0), (5, 4, 3), (4, 4, 4), (7, 3, 1)]
)
def test_halves_are_disjoint_and_keep_pairs_together(n_positive: int, n_negative: int, n_pairs: int) -> None:
    learned = Learned(torch.zeros(n_positive + n_negative, 1), n_positive, n_pairs)
    drawn = set()
    for halves in learned.halvings(30, np.random.default_rng(0)):
        positive, negative = zip(*halves, strict=True)
        assert sorted(np.concatenate(positive)) == list(range(n_positive))
        assert sorted(np.concatenate(negative)) == list(range(n_positive, n_positive + n_negative))
        assert all(abs(len(one) - len(other)) <= 1 for one, other in (positive, negative))
        for half_positive, half_negative in halves:
            assert {i for i in half_positive if i < n_pairs} == {
                i - n_positive for i in half_negative if i - n_positive < n_pairs
            }
        drawn.add(frozenset(frozenset(np.concatenate(half).tolist()) for half in halves))
    assert len(drawn) == len(learned.halvings(30, np.random.default_rng(0))) >= 2


def sea_or_not() -> ContrastSet:
    """Sides that differ clearly."""
    return contrast([f"{word} sea sea sea" for word in WORDS[:24]], [f"{word} 42 42 42" for word in WORDS[:24]])


def nothing() -> ContrastSet:
    """Sides drawn by lot."""
    texts = [f"Tell me of a {one} and the {other}" for one in WORDS[:15] for other in WORDS[15:19]]
    random.Random(3).shuffle(texts)
    return contrast(texts[:30], texts[30:])


def planted(chat: ChatModel, family: str) -> Prepared:
    """A set with a metric that its direction moves both ways: the token it acts on most, on the training examples."""
    prepared = prepare(chat, sea_or_not(), n_train=16, n_validation=8)
    ways = interventions(difference_in_means(chat, prepared.train).direction(-1, 1))

    def moved(side: list[Example], more: str, less: str) -> Tensor:
        logs = [
            [plain_logits(chat, family, chat.encode(list(e.messages)), ways[way])[-1].log_softmax(dim=-1) for e in side]
            for way in (more, less)
        ]
        return torch.stack(logs[0]).mean(dim=0) - torch.stack(logs[1]).mean(dim=0)

    both = torch.minimum(
        moved(prepared.train.negative, "added", "as it is"), moved(prepared.train.positive, "as it is", "ablated")
    )
    return replace(prepared, tokens=FirstTokens((int(both.argmax()),), ("planted",), "for this test"))


def test_a_planted_direction_does_better_than_its_controls(tiny: Tiny) -> None:
    chat = tiny("gemma2")
    card = measured(chat, "gemma2", planted(chat, "gemma2")).card
    assert card.better_than_controls == {BYPASS: True, INDUCE: True}
    assert card.wrong_way[BYPASS].value == card.wrong_way[INDUCE].value == 0
    assert card.separation.value == 1
    assert not card.is_unstable
    said = " ".join(card.sentences())
    assert said.count("goes beyond all of them, which labels without meaning would do about 1 time in 21.") == 2
    assert "no better" not in said


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
@pytest.mark.parametrize("layer", [1, 2])
def test_labels_without_meaning_do_no_better_than_controls(name: str, layer: int, tiny: Tiny) -> None:
    chat = tiny(name)
    card = measured(chat, name, prepare(chat, nothing(), n_train=20, n_validation=10), layer).card
    assert card.better_than_controls == {BYPASS: False, INDUCE: False}
    assert card.is_unstable
    said = " ".join(card.sentences())
    assert said.count("It does no better than these controls.") == 2
    assert "That is no better than chance." in said
    assert "other examples of the same idea would give another direction" in said


def test_the_card_is_plain_json(of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    card = one.card.as_card()
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["data_sha256"] == one.prepared.data.sha256
    assert card["n_train"] == [3, 2]
    assert card["n_validation"] == [3, 10]
    assert card["sentences"] == one.card.sentences()
    assert set(card["intervals"]) <= set(card)

    def figures(value: object) -> list[dict[str, float]]:
        if not isinstance(value, dict):
            return []
        return [value] if "value" in value else [x for part in value.values() for x in figures(part)]

    found = [figure for name in INTERVALS for figure in figures(card[name])]
    assert len(found) == 3 + 2 + 3 * 3
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in found)
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found)


def test_a_seed_repeats_the_card(tiny: Tiny) -> None:
    chat, prepared = tiny("llama3"), made_ready(TRAIN, CHECK)
    cards = [measured(chat, "llama3", prepared, n_random=2, n_shuffled=2, seed=seed).card for seed in (5, 5, 6)]
    assert cards[0] == cards[1]
    assert cards[0].random != cards[2].random
    assert cards[0].separation.value == cards[2].separation.value


@pytest.mark.parametrize("stop", ["Reading examples", "Scoring controls"])
def test_cancelling_ends_it_at_the_next_pass(stop: str, of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    scorer = Recording(one.scorer.scorer)

    def progress(what: str, done: float, total: float) -> None:
        if what == stop and done > 0:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        trust(one.chat, one.prepared, one.direction, candidates=one.candidates, scorer=scorer, progress=progress)
    assert len({step for step, _ in scorer.seen}) == (0 if stop == "Reading examples" else 1)
    assert oracle.count_hooks(one.chat.model) == 0


def test_progress_is_told_at_every_pass(of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    told: list[tuple[str, float, float]] = []
    scorer = Recording(one.scorer.scorer)
    trust(
        one.chat,
        one.prepared,
        one.direction,
        candidates=one.candidates,
        scorer=scorer,
        n_random=3,
        n_shuffled=1,
        progress=lambda *now: told.append(now),
    )
    scoring = [(done, total) for what, done, total in told if what == "Scoring controls"]
    n_passes = 5 * len(scorer.scorer.steps)  # five directions, one a pass
    assert len(scoring) > 2 * n_passes  # before every block
    assert {round(done * n_passes / 5, 6) for done, _ in scoring} >= set(range(n_passes + 1))
    assert scoring == sorted(scoring)
    assert scoring[-1] == (5, 5)


def test_one_example_a_side_is_said(tiny: Tiny) -> None:
    single = contrast(["The sea is cold."], ["Make tea."])
    card = measured(tiny("llama3"), "llama3", made_ready(single, contrast(["A boat"], ["A soup"]))).card
    assert card.split_half.n == card.shuffled[KL].n == 0
    for figure in (card.separation, card.length_ruler, *card.scores.values()):
        assert figure.low == figure.value == figure.high
    assert card.better_than_controls == {BYPASS: False, INDUCE: False}
    said = " ".join(card.sentences())
    assert "is not known: a side has a single one to learn from" in said
    assert "no directions from shuffled labels could be made" in said
    assert "A figure without an interval" in said
    plain = json.loads(json.dumps(card.as_card(), allow_nan=False))
    assert plain["split_half"] == {"value": None, "low": None, "high": None, "n": 0}


class Constant:
    """A scorer whose every number is the same."""

    steps = (Step("all", {BYPASS: 3, INDUCE: 10, KL: 10}),)

    def __init__(self, value: float) -> None:
        self._numbers = {name: torch.full((n,), value).double() for name, n in self.steps[0].gives.items()}
        self.totals = self.steps[0].gives
        self.unsteered = Unsteered(self._numbers[BYPASS], self._numbers[INDUCE])
        self.largest_pass = 10**9
        self.passes: list[int] = []

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        if len(directions) > self.largest_pass:
            raise torch.OutOfMemoryError("out of memory")
        self.passes.append(len(directions))
        return [self._numbers for _ in directions]


@pytest.mark.parametrize("value", [0.1, math.nan, math.inf])
def test_values_that_do_not_vary_or_are_no_numbers(value: float, of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    card = trust(one.chat, one.prepared, one.direction, candidates=one.candidates, scorer=Constant(value), n_random=4)
    for score in (BYPASS, INDUCE, KL):
        figure = card.scores[score]
        assert figure.low == figure.high or math.isnan(value)
        assert figure.value == pytest.approx(value, nan_ok=True)
    assert card.wrong_way[BYPASS].value == card.wrong_way[INDUCE].value == 1
    assert card.better_than_controls == {BYPASS: False, INDUCE: False}
    json.dumps(card.as_card(), allow_nan=False)
    assert "A figure without an interval" in card.sentences()[-1]


def test_out_of_memory_takes_fewer_directions_a_pass(
    of_kind: Callable[[str], Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steering.trust.ROWS_ON_CPU", 4)  # as on a GPU
    one = of_kind("prompts")
    scorer = Constant(0.5)
    scorer.largest_pass = 2
    trust(one.chat, one.prepared, one.direction, candidates=one.candidates, scorer=scorer, n_random=2, n_shuffled=1)
    assert scorer.passes == [2, 2]
    scorer.largest_pass = 0
    with pytest.raises(OutOfMemoryError, match="not enough memory to score even one direction"):
        trust(one.chat, one.prepared, one.direction, candidates=one.candidates, scorer=scorer)


def test_what_cannot_be_measured_is_refused(of_kind: Callable[[str], Measured]) -> None:
    one = of_kind("prompts")
    given = {"candidates": one.candidates, "scorer": one.scorer}
    with pytest.raises(DirectionError, match="position 0, which this set does not have"):
        trust(one.chat, one.prepared, replace(one.direction, position=0), **given)
    with pytest.raises(DirectionError, match="ablates 2 directions at once"):
        trust(one.chat, one.prepared, oracle.make_direction(one.chat, rank=2), **given)
    with pytest.raises(SteeringError, match="ask for at least one of either kind"):
        trust(one.chat, one.prepared, one.direction, n_random=0, **given)


def made(**changes: object) -> TrustCard:
    """A card on which everything is well, but for ``changes``."""
    score = {BYPASS: -2.0, INDUCE: 2.0, KL: 0.05}
    card = TrustCard(
        data="sea",
        data_sha256="0",
        n_train=(128, 128),
        n_validation=(32, 32),
        seed=0,
        separation=Figure(0.95, 0.9, 0.99, 64),
        length_ruler=Figure(0.6, 0.5, 0.7, 64),
        longer="positive",
        split_half=Figure(0.9, 0.85, 0.95, 20),
        wrong_way={name: Figure(0.0, 0.0, 0.1, 32) for name in (BYPASS, INDUCE)},
        scores={name: Figure(x, x - 0.01, x + 0.01, 32) for name, x in score.items()},
        random={name: Figure(0.0, -1.0, 1.0, 20) for name in score},
        shuffled={name: Figure(0.0, -1.0, 1.0, 20) for name in score},
    )
    return replace(card, **changes)


def test_a_good_card_has_no_warning() -> None:
    said = " ".join(made().sentences())
    for warning in ("no better", "nearly as well", "That is low", "without an interval"):
        assert warning not in said
    assert "in 95% (95% interval 90% to 99%) of cases" in said
    assert "on 0 of 32 examples, 0% (95% interval 0% to 10%)" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"length_ruler": Figure(0.9, 0.8, 0.97, 64)}, "nearly as well as the direction does"),
        ({"longer": "neither", "length_ruler": Figure(0.5, 0.5, 0.5, 64)}, "does not tell the sides apart"),
        ({"separation": Figure(0.55, 0.45, 0.65, 64)}, "That is no better than chance."),
        ({"split_half": Figure(0.49, 0.3, 0.6, 20)}, "That is low: other examples"),
        ({"separation": Figure(1.0, 1.0, 1.0, 64)}, "That does not make it exact"),
    ],
)
def test_what_speaks_against_a_direction_is_said(changes: dict[str, object], sentence: str) -> None:
    assert sentence in " ".join(made(**changes).sentences())


def test_a_ruler_no_better_than_chance_is_not_held_against_a_weak_direction() -> None:
    card = made(separation=Figure(0.56, 0.45, 0.65, 64), length_ruler=Figure(0.54, 0.45, 0.65, 64))
    assert "nearly as well" not in " ".join(card.sentences())


def test_being_as_good_as_the_best_control_is_not_better() -> None:
    for kind, name in product(("random", "shuffled"), (BYPASS, INDUCE)):
        tied = {**made().random, name: Figure(0.0, -2.0, 2.0, 20)}
        better = made(**{kind: tied}).better_than_controls
        assert better == {BYPASS: name != BYPASS, INDUCE: name != INDUCE}
