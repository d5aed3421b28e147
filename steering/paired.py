"""Comparing two variants that answered the same prompts, pair by pair; and two shares over prompts of their own.

Every difference is that of the second minus the first.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from steering.errors import SteeringError
from steering.figures import RESAMPLED_AT_ONCE, RESAMPLES, UNKNOWN, Figure, bootstrapped, wilson

Truths = NDArray[np.bool_]
Values = NDArray[np.float64]


def mcnemar(first: Truths, second: Truths) -> float:
    """McNemar's exact two-sided p: how likely so uneven a split of the prompts on which the two differ is by chance.

    Args:
        first, second: ``[n]``, whether it holds for each prompt, as whether the reply refuses.

    Returns:
        p; 1 where they differ on no prompt.

    Raises:
        SteeringError: if they are not of one length.
    """
    from scipy.stats import binomtest

    _require_pairs(first, second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_second, only_first + only_second).pvalue)


def paired_difference(first: Values, second: Values, seed: int) -> Figure:
    """The mean difference with its 95 % bootstrap interval over prompts.

    Args:
        first, second: float64 ``[n]``, a value for each prompt. Prompts at which either is NaN are left out; the
            figure's ``n`` says how many stayed.
        seed: of the resamples.

    Raises:
        SteeringError: if they are not of one length.
    """
    return bootstrapped([_differences(first, second)], np.mean, seed)


def sign_flip(first: Values, second: Values, seed: int, n: int = RESAMPLES) -> float:
    """The two-sided p of the paired permutation test of the mean difference: the sign of each difference is a coin's.

    Args:
        first, second: float64 ``[n_prompts]``; prompts at which either is NaN are left out.
        seed: of the signs drawn. All are tried where there are at most ``n`` ways, that is for few pairs.
        n: how many ways are drawn else; p is then at least ``2 / (n + 1)``.

    Returns:
        p; 1 where one pair is left or none, NaN where a difference is infinite.

    Raises:
        SteeringError: if they are not of one length.
    """
    from scipy.stats import permutation_test

    differences = _differences(first, second)
    if len(differences) < 2:  # Either sign of a single difference is as far from 0.
        return 1.0
    if not np.isfinite(differences).all():
        return math.nan
    found = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n,
        batch=RESAMPLED_AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def newcombe(count1: int, n1: int, count2: int, n2: int) -> Figure:
    """The difference of two independent shares, ``count2 / n2 − count1 / n1``, with a 95 % interval.

    For two runs over different prompts. The interval is the hybrid score one, without continuity correction: Newcombe
    1998, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17:873-890,
    method 10. The figure's ``n`` counts the prompts of both; it is unknown if either has none.
    """
    return _squares_added(wilson(count1, n1), wilson(count2, n2), 0.0, n1 + n2)


def paired_shares(first: Truths, second: Truths) -> Figure:
    """The difference of two shares over the same prompts, with a 95 % interval.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17:2635-2650, method 10: the hybrid score interval, narrower the more the two agree.

    Args:
        first, second: ``[n]``, whether it holds for each prompt; unknown if there is none.

    Raises:
        SteeringError: if they are not of one length.
    """
    _require_pairs(first, second)
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    spread = math.prod([both + only_first, only_second + neither, both + only_second, only_first + neither])
    agreement: float = both * neither - only_first * only_second
    if agreement > 0:  # Corrected for continuity on this side alone, where agreeing makes the interval narrower.
        agreement = max(agreement - n / 2, 0.0)
    correlation = agreement / math.sqrt(spread) if spread else 0.0
    return _squares_added(wilson(both + only_first, n), wilson(both + only_second, n), correlation, n)


def _squares_added(first: Figure, second: Figure, correlation: float, n: int) -> Figure:
    """The difference of two shares; its interval reaches as far as theirs, put together as the sides of a triangle."""
    if first is UNKNOWN or second is UNKNOWN:
        return UNKNOWN
    difference = second.value - first.value
    below = _third_side(second.value - second.low, first.high - first.value, correlation)
    above = _third_side(second.high - second.value, first.value - first.low, correlation)
    return Figure(difference, difference - below, difference + above, n)


def _third_side(a: float, b: float, cosine: float) -> float:
    # Rounding may make the square of a length near 0 negative.
    return math.sqrt(max(a * a + b * b - 2 * cosine * a * b, 0.0))


def _differences(first: Values, second: Values) -> Values:
    _require_pairs(first, second)
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    return differences[~np.isnan(differences)]


def _require_pairs(first: Truths | Values, second: Truths | Values) -> None:
    if len(first) != len(second):
        raise SteeringError(
            f"{len(first)} and {len(second)} values are no pairs: compare variants that answered the same prompts."
        )
