"""Paired comparisons: against statsmodels, the sources' own examples, and every outcome counted or drawn plainly."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from steering.errors import SteeringError
from steering.figures import UNKNOWN
from steering.paired import mcnemar, newcombe, paired_difference, paired_shares, sign_flip

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def of_counts(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers to prompts of which so many are alike and different; ``[n]`` of each side."""
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


@given(PAIRS)
def test_mcnemar_is_that_of_statsmodels_and_a_coins(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    table = [[int(((first == a) & (second == b)).sum()) for b in (True, False)] for a in (True, False)]
    p = mcnemar(first, second)
    assert p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue if (first != second).any() else 1.0)
    fewer, n = sorted((table[0][1], table[1][0]))[0], table[0][1] + table[1][0]
    assert p == pytest.approx(min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n))
    assert mcnemar(second, first) == p


def test_mcnemar_of_a_direction_that_ends_every_refusal() -> None:
    assert mcnemar(*of_counts(0, 10, 0, 5)) == pytest.approx(2 / 2**10)


def test_a_paired_difference_is_far_surer_than_one_of_two_samples() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 10, 60)
    first, second = hardness, hardness + rng.normal(0.5, 0.2, 60)
    figure = paired_difference(first, second, seed=1)
    means = rng.choice(second - first, (20_000, 60)).mean(axis=1)
    interval = np.percentile(means, [2.5, 97.5])
    assert figure.value == pytest.approx(np.mean(second - first))
    assert [figure.low, figure.high] == pytest.approx(interval, abs=0.05 * np.ptp(interval))
    assert 0 < figure.low < figure.value < figure.high < 1
    assert figure.n == 60


def test_what_could_not_be_measured_on_one_side_is_left_out_on_both() -> None:
    first = np.array([1.0, math.nan, 3.0, 4.0, 5.0])
    second = np.array([2.0, 2.0, math.nan, 6.0, 8.0])
    assert paired_difference(first, second, seed=0) == paired_difference(first[[0, 3, 4]], second[[0, 3, 4]], seed=0)
    assert paired_difference(first, second, seed=0).n == 3
    assert sign_flip(first, second, seed=0) == pytest.approx(2 / 2**3)
    nothing = np.full(5, math.nan)
    assert paired_difference(first, nothing, seed=0) is UNKNOWN
    assert sign_flip(first, nothing, seed=0) == 1.0


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_few_pairs_are_compared_under_every_choice_of_signs(differences: list[int]) -> None:
    values = np.array(differences, np.float64)
    sums = [np.dot(signs, values) for signs in product((-1, 1), repeat=len(values))]
    expected = np.mean(np.abs(sums) >= abs(values.sum()))
    assert sign_flip(np.zeros(len(values)), values, seed=0) == pytest.approx(expected)


def test_many_pairs_are_compared_under_signs_drawn() -> None:
    rng = np.random.default_rng(3)
    first = rng.exponential(size=80)
    second = first + rng.normal(0.1, 0.5, 80)
    signs = rng.choice([-1, 1], (20_000, 80))
    expected = np.mean(np.abs(signs @ (second - first)) >= abs((second - first).sum()))
    p = sign_flip(first, second, seed=5)
    assert 0.01 < expected < 0.99
    assert p == pytest.approx(expected, abs=0.02)
    assert sign_flip(first, second, seed=5) == p != sign_flip(first, second, seed=6)
    assert sign_flip(first, first + 1 + rng.random(80), seed=0, n=999) == pytest.approx(2 / 1000)
    assert math.isnan(sign_flip(np.zeros(3), np.array([1.0, 2.0, math.inf]), seed=0))


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_difference_of_shares_is_that_of_statsmodels(n1: int, n2: int, data: st.DataObject) -> None:
    count1, count2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    figure = newcombe(count1, n1, count2, n2)
    # Theirs is of the first minus the second.
    expected = confint_proportions_2indep(count2, n2, count1, n1, method="newcomb", compare="diff")
    assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-9)
    assert (figure.value, figure.n) == (count2 / n2 - count1 / n1, n1 + n2)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            (1, 1, 7, 12),
            (0.286, 0.026, 0.507),
        ),  # Fagerland, Lydersen and Laake 2014, Stat. in Medicine 33:2850, table V
        ((36, 2, 12, 0), (0.2, 0.0569, 0.3404)),  # Newcombe's own, table III
    ],
)
def test_paired_shares_are_those_of_the_sources(counts: tuple[int, ...], expected: tuple[float, ...]) -> None:
    figure = paired_shares(*of_counts(*counts))
    assert [figure.value, figure.low, figure.high] == pytest.approx(expected, abs=5e-4)
    assert figure.n == sum(counts)


@given(PAIRS)
def test_paired_shares_stay_within_bounds_and_do_not_mind_the_order(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    figure, turned = paired_shares(first, second), paired_shares(second, first)
    assert -1 <= figure.low <= figure.value <= figure.high <= 1
    assert [figure.low, figure.high] == pytest.approx([-turned.high, -turned.low])


@pytest.mark.parametrize("chances", [(0.6, 0.25, 0.05, 0.1), (0.05, 0.9, 0.02, 0.03), (0.25, 0.25, 0.25, 0.25)])
def test_paired_shares_hold_the_truth_19_times_of_20(chances: tuple[float, ...]) -> None:
    rng = np.random.default_rng(7)
    truth = chances[2] - chances[1]
    figures = [paired_shares(*of_counts(*rng.multinomial(50, chances))) for _ in range(1_000)]
    covered = np.mean([figure.low <= truth <= figure.high for figure in figures])
    assert 0.93 < covered < 0.99


def test_agreement_narrows_the_interval() -> None:
    agreeing, not_agreeing = paired_shares(*of_counts(40, 5, 1, 40)), paired_shares(*of_counts(23, 22, 18, 23))
    independent = newcombe(45, 86, 41, 86)
    assert agreeing.high - agreeing.low < 0.7 * (independent.high - independent.low)
    assert not_agreeing.value == pytest.approx(independent.value)
    assert not_agreeing.high - not_agreeing.low == pytest.approx(independent.high - independent.low, rel=0.03)


def test_nothing_is_no_difference_that_is_known() -> None:
    empty = np.zeros(0, bool)
    assert newcombe(0, 0, 3, 4) is newcombe(3, 4, 0, 0) is paired_shares(empty, empty) is UNKNOWN
    assert mcnemar(empty, empty) == 1.0


def test_what_is_no_pairs_is_refused() -> None:
    with pytest.raises(SteeringError, match="3 and 2 values are no pairs"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))
    with pytest.raises(SteeringError, match="no pairs"):
        paired_shares(np.ones(1, bool), np.ones(2, bool))
    with pytest.raises(SteeringError, match="no pairs"):
        sign_flip(np.ones(1), np.ones(2), seed=0)
