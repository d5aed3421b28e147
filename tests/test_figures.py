"""Figures: their intervals against resampling and formulas written out, and what there is to say without one."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from steering.figures import UNKNOWN, Figure, auroc, bootstrapped, wilson


def test_the_interval_of_a_mean_is_that_of_resampled_means() -> None:
    values = np.random.default_rng(1).exponential(size=40)
    figure = bootstrapped([values], np.mean, seed=3)
    means = np.random.default_rng(2).choice(values, (20_000, len(values))).mean(axis=1)
    interval = np.percentile(means, [2.5, 97.5])
    assert (figure.value, figure.n) == (pytest.approx(values.mean()), 40)
    assert [figure.low, figure.high] == pytest.approx(interval, abs=0.05 * np.ptp(interval))
    assert bootstrapped([values], np.mean, seed=3) == figure


def test_each_sample_is_resampled_by_itself() -> None:
    rng = np.random.default_rng(4)
    high, low = rng.normal(1, 1, 15), rng.normal(0, 1, 25)
    figure = bootstrapped([high, low], auroc, seed=0)
    drawn = [auroc(rng.choice(high, 15), rng.choice(low, 25)) for _ in range(2_000)]
    interval = np.percentile(drawn, [2.5, 97.5])
    assert [figure.low, figure.high] == pytest.approx(interval, abs=0.1 * np.ptp(interval))
    assert figure.n == 40


def test_auroc_counts_pairs_and_half_of_the_ties() -> None:
    positive, negative = np.array([[1.0, 2, 2], [0, 0, 0]]), np.array([[2.0, 0], [1, 0]])
    counted = [
        np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in product(*rows)])
        for rows in zip(positive, negative, strict=True)
    ]
    assert auroc(positive, negative, axis=1) == pytest.approx(counted)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(count: int, n: int) -> None:
    z, share = 1.959964, count / n
    middle, reach = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    figure = wilson(count, n)
    expected = [share, (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)]
    assert [figure.value, figure.low, figure.high] == pytest.approx(expected, abs=1e-6)
    assert figure.n == n


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 50), (1, 50), (49, 50), (123, 1000), (1000, 1000)])
def test_the_interval_of_a_share_is_that_of_statsmodels(count: int, n: int) -> None:
    figure = wilson(count, n)
    assert (figure.low, figure.high) == pytest.approx(proportion_confint(count, n, method="wilson"), abs=1e-12)


def test_nothing_measured_is_unknown() -> None:
    assert wilson(0, 0) is bootstrapped([np.array([])], np.mean, seed=0) is UNKNOWN
    assert bootstrapped([np.ones(3), np.array([])], auroc, seed=0) is UNKNOWN
    assert UNKNOWN.words() == "an unknown number"
    assert json.dumps(UNKNOWN.as_card(), allow_nan=False) == '{"value": null, "low": null, "high": null, "n": 0}'


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5], [math.inf, 1.0]])
def test_where_resampling_shows_nothing_there_is_no_interval(values: list[float]) -> None:
    figure = bootstrapped([np.array(values)], np.mean, seed=0)
    assert figure.value == figure.low == figure.high == np.mean(values)
    assert not figure.has_interval
    assert figure.n == len(values)


def test_a_figure_in_words() -> None:
    assert Figure(0.5, 0.25, 0.75, 8).words(".0%") == "50% (95% interval 25% to 75%)"
    assert Figure(0.5, 0.5, 0.5, 1).words() == "0.50 (no interval)"
