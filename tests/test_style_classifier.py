"""The classifier of style on the preset it is for, and the instructions it is used on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steering.calibration import EVERYDAY
from steering.contrast import ContrastSet, Example, preset_card, preset_names
from steering.errors import ContrastSetError
from steering.near_duplicates import near_duplicates
from steering.style_classifier import POSITIVE_FROM, StyleClassifier, ai_style

PROMPTS = Path(__file__).resolve().parent.parent / "benchmarks" / "data" / "held_out_prompts.txt"
SIDES = ("positive", "negative")
NEW_BELOW = 0.5  # of the words in either that two instructions share; a set's own check warns at 0.8


@pytest.fixture(scope="module")
def split() -> tuple[ContrastSet, ContrastSet]:
    return ContrastSet.load("sounds-like-ai").split(seed=0)


@pytest.fixture(scope="module")
def style(split: tuple[ContrastSet, ContrastSet]) -> StyleClassifier:
    return StyleClassifier.fit(split[0])


def texts(side: list[Example]) -> list[str]:
    return [example.text for example in side]


def by_pairs(positive: list[float], negative: list[float]) -> float:
    return float(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))


def test_held_out_figures_equal_counting(split: tuple[ContrastSet, ContrastSet], style: StyleClassifier) -> None:
    validation = split[1]
    positive, negative = (style.scores(texts(side)).tolist() for side in (validation.positive, validation.negative))
    right = sum(one >= POSITIVE_FROM for one in positive) + sum(one < POSITIVE_FROM for one in negative)
    found = style.held_out(validation, lambda text: len(text.split()))
    assert found.n == found.accuracy.n == found.auroc.n == found.length_ruler.n == 64
    assert found.accuracy.value == right / 64
    assert found.accuracy.low < found.accuracy.value <= found.accuracy.high
    assert found.auroc.value == pytest.approx(by_pairs(positive, negative))
    lengths = [
        [float(len(text.split())) for text in texts(side)] for side in (validation.positive, validation.negative)
    ]
    longer = by_pairs(*lengths)
    assert found.length_ruler.value == pytest.approx(max(longer, 1 - longer))
    assert found.longer == ("positive" if longer > 0.5 else "negative")
    assert found.length_ruler.low < found.length_ruler.value < found.length_ruler.high


def test_it_learns_the_style(split: tuple[ContrastSet, ContrastSet], style: StyleClassifier) -> None:
    assert style.held_out(split[1]).accuracy.low > 0.85
    assistant = "Certainly! Embracing a vibrant routine is key:\n\n- **Plan ahead:** Explore what truly matters."
    person = "Go to bed earlier. I put the phone in the kitchen and it stopped ringing in my head."
    high, low = style.scores([assistant, person])
    assert high > POSITIVE_FROM > low


def test_swapped_labels_teach_the_opposite_and_mixed_ones_nothing(split: tuple[ContrastSet, ContrastSet]) -> None:
    train, validation = split
    opposite = StyleClassifier.fit(replace(train, positive=train.negative, negative=train.positive))
    assert opposite.held_out(validation).accuracy.high < 0.15
    pairs = {one.pair: one for one in train.negative}
    both = [(one, pairs[one.pair]) for one in train.positive]
    mixed = [pair if i % 2 else pair[::-1] for i, pair in enumerate(both)]
    confused = replace(train, positive=[one for one, _ in mixed], negative=[one for _, one in mixed])
    assert 0.25 < StyleClassifier.fit(confused).held_out(validation).auroc.value < 0.75


def test_scores_are_probabilities_and_repeat(split: tuple[ContrastSet, ContrastSet], style: StyleClassifier) -> None:
    some = [*texts(split[1].positive)[:3], "", "🌊", "ﬁ — ‘x’ " * 400]
    scores = style.scores(some)
    assert scores.dtype == np.float64
    assert scores.shape == (6,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert style.scores(some[:1])[0] == scores[0]
    assert style.scores([]).shape == (0,)
    assert StyleClassifier.fit(split[0], seed=3).scores(some).tolist() == scores.tolist()


def test_a_length_that_tells_nothing(split: tuple[ContrastSet, ContrastSet], style: StyleClassifier) -> None:
    found = style.held_out(split[1], lambda text: 1)
    assert found.longer == "neither"
    assert found.length_ruler.value == 0.5
    assert not found.length_ruler.has_interval


def test_sets_it_cannot_use(split: tuple[ContrastSet, ContrastSet], style: StyleClassifier) -> None:
    with pytest.raises(ContrastSetError, match="lacks responses"):
        StyleClassifier.fit(ContrastSet.load("refusal"))
    with pytest.raises(ContrastSetError, match=r"256 of the responses .* were learned from"):
        style.held_out(split[0])


def instructions() -> list[str]:
    """Every instruction that a direction was made, chosen, calibrated or shown with."""
    found: list[str] = list(EVERYDAY)
    for name in preset_names():
        data, card = ContrastSet.load(name), preset_card(name)
        found += [example.instruction for example in [*data.positive, *data.negative]]
        found += [card["example"], *card["calls_for"], *card["does_not"]]
    return list(dict.fromkeys(found))


def repeats(prompts: list[str]) -> list[str]:
    """Those of ``prompts`` that nearly repeat an instruction of a preset or one of their own."""
    known = instructions()
    assert len(known) > 500
    pairs = near_duplicates([*known, *prompts], NEW_BELOW)
    return [prompts[later - len(known)] for later, _ in pairs if later >= len(known)]


def test_the_held_out_prompts_are_new() -> None:
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    assert len(prompts) == 64
    assert all(prompt == prompt.strip() and prompt for prompt in prompts)
    assert repeats(prompts) == []


def test_a_prompt_that_is_not_new_would_be_found() -> None:
    prompts = ["How does a thermos keep soup hot?", "How do you cut an onion without crying?"]
    assert repeats([*prompts, "Why does a thermos keep soup hot?"]) == [prompts[1], "Why does a thermos keep soup hot?"]


def test_the_classifier_of_the_preset_tells_its_held_out_side() -> None:
    _, held_out = ContrastSet.load("sounds-like-ai").split(seed=0)
    assert ai_style() is ai_style()
    assert ai_style().held_out(held_out).auroc.value > 0.8
