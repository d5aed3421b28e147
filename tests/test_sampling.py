"""The next token's choice: draws follow the softmax, one set of dice serves all rows, and settings do what they say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from steering.errors import SteeringError
from steering.sampling import Sampler, SamplingSettings

CPU = torch.device("cpu")
N_DRAWS = 10_000


def sampler(rows: int = 1, **settings: float) -> Sampler:
    return Sampler(SamplingSettings(**settings), rows, CPU)


def draws(logits: Tensor, n: int = N_DRAWS, **settings: float) -> Tensor:
    """How often each token was drawn."""
    dice = sampler(**settings)
    return torch.bincount(torch.cat([dice.choose(logits[None]) for _ in range(n)]), minlength=len(logits))


def test_temperature_zero_takes_the_likeliest_token_of_each_row() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 4.9], [-9.0, -8.0, -7.5]])
    assert sampler(3).choose(logits).tolist() == [1, 0, 2]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -0.5, 1.5, -2.0])
    counts = draws(logits, temperature=temperature, seed=1)
    expected = torch.softmax(logits.double() / temperature, dim=0) * N_DRAWS
    common = expected >= 5  # the test's own condition
    assert counts[~common].sum() < 30
    observed, wanted = counts[common].double(), expected[common]
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 0.001
    flatter = torch.softmax(logits.double() / (temperature * 1.1), dim=0)[common]
    assert chisquare(observed, flatter * observed.sum() / flatter.sum()).pvalue < 0.001  # the test would see 10 %


def test_draws_of_successive_steps_are_independent() -> None:
    dice = sampler(temperature=1.0, seed=5)
    tokens = torch.cat([dice.choose(torch.zeros(1, 2)) for _ in range(N_DRAWS)])
    pairs = torch.bincount(tokens[:-1] * 2 + tokens[1:], minlength=4)
    assert chisquare(pairs.double()).pvalue > 0.001


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.99])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float) -> None:
    logits = torch.tensor([1.2, 0.3, 2.0, -1.0, 0.9, -3.0, 0.0])
    temperature = 0.9
    probabilities = torch.softmax(logits.double() / temperature, dim=0).tolist()
    kept: list[int] = []
    reached = 0.0
    for token in sorted(range(len(logits)), key=lambda token: -probabilities[token]):
        if reached >= top_p:
            break
        kept.append(token)
        reached += probabilities[token]
    counts = draws(logits, temperature=temperature, top_p=top_p, seed=2)
    assert set(counts.nonzero()[:, 0].tolist()) <= set(kept)
    expected = [probabilities[token] / reached * N_DRAWS for token in kept]
    assert min(expected) >= 5
    if len(kept) > 1:
        assert chisquare(counts[kept].double(), expected).pvalue > 0.001
    else:
        assert counts[kept[0]] == N_DRAWS


def test_top_p_is_taken_of_each_row_by_itself() -> None:
    sharp, flat = torch.tensor([9.0, 0.0, 0.0, 0.0]), torch.zeros(4)
    dice = sampler(rows=2, temperature=1.0, top_p=0.6)
    drawn = torch.stack([dice.choose(torch.stack([sharp, flat])) for _ in range(300)])
    assert (drawn[:, 0] == 0).all()
    assert len(drawn[:, 1].unique()) == 3  # of four equal tokens three reach 0.6


@pytest.mark.parametrize("penalty", [0.7, 1.1, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_repetition_penalty_equals_a_slow_one(penalty: float, temperature: float) -> None:
    """Token by token and number by number, for rows with different histories; the noise is told apart by its seed."""
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary = 3, 12
    penalised = sampler(rows, temperature=temperature, repetition_penalty=penalty, seed=9)
    plain = sampler(rows, temperature=temperature, seed=9)
    written: list[list[int]] = [[] for _ in range(rows)]
    changed = 0
    for _ in range(40):
        logits = torch.randn(rows, vocabulary, generator=generator) * 2
        by_hand = logits.clone()
        for row in range(rows):
            for token in set(written[row]):
                value = float(logits[row, token])
                by_hand[row, token] = value / penalty if value > 0 else value * penalty
        expected = plain.choose(by_hand)
        found = penalised.choose(logits)
        assert found.tolist() == expected.tolist()
        changed += int((found != logits.argmax(dim=-1)).sum())
        for row in range(rows):
            written[row].append(int(found[row]))
    assert changed > 3


def test_all_rows_use_the_same_dice() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    dice = sampler(rows=4, temperature=1.0, seed=3)
    other = logits + torch.randn(1, 50, generator=torch.Generator().manual_seed(2)) * 3
    agreed = 0
    for _ in range(200):
        tokens = dice.choose(torch.cat([logits, logits + 2.5, other, logits]))  # a constant changes no probability
        assert tokens[0] == tokens[1] == tokens[3]
        agreed += int(tokens[0] == tokens[2])
    assert agreed < 150  # other logits, other texts


def test_noise_does_not_depend_on_the_number_of_rows() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    one, three = sampler(1, temperature=1.0, seed=4), sampler(3, temperature=1.0, seed=4)
    for _ in range(50):
        assert one.choose(logits)[0] == three.choose(logits.expand(3, -1))[0]


def test_a_seed_repeats_and_others_differ() -> None:
    logits = torch.zeros(1, 1000)

    def sequence(seed: int) -> list[int]:
        dice = sampler(temperature=1.0, seed=seed)
        return [int(dice.choose(logits)) for _ in range(10)]

    assert sequence(7) == sequence(7)
    assert len({tuple(sequence(seed)) for seed in (0, 1, 7, -1, 2**63, 2**70 + 5)}) >= 5


def test_torchs_own_dice_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sampler(temperature=1.0).choose(torch.zeros(1, 5))
    assert torch.equal(torch.rand(3), expected)


def test_logits_are_not_changed() -> None:
    logits = torch.randn(2, 8)
    before = logits.clone()
    dice = sampler(2, temperature=0.7, top_p=0.5, repetition_penalty=1.3)
    for _ in range(3):
        dice.choose(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_overflowed_get_a_sentence(bad: float, temperature: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    with pytest.raises(SteeringError, match="Lower the strength"):
        sampler(2, temperature=temperature, top_p=0.9).choose(logits)


def test_a_forbidden_token_is_no_overflow() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    dice = sampler(temperature=1.0, top_p=0.9, repetition_penalty=1.2)
    assert all(int(dice.choose(logits)) == 1 for _ in range(20))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.01},
        {"temperature": 5.01},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"repetition_penalty": 0.49},
        {"repetition_penalty": 3.1},
        {"repetition_penalty": math.nan},
    ],
)
def test_settings_out_of_range_name_the_number(settings: dict[str, float]) -> None:
    with pytest.raises(SteeringError, match=str(next(iter(settings.values())))):
        SamplingSettings(**settings)


def test_a_row_that_has_ended_takes_nothing_from_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, 50, generator=generator)
    settings = {"temperature": 1.0, "repetition_penalty": 1.5, "seed": 2}
    whole, shrinking = sampler(3, **settings), sampler(3, **settings)
    rows = [0, 1, 2]
    for place, scores in enumerate(logits):
        if place in (5, 12):
            rows.remove(1 if place == 5 else 0)
        expected = whole.choose(scores)
        assert shrinking.choose(scores[rows], rows).tolist() == expected[rows].tolist()
