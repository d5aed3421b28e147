"""A measured number with its interval, and how intervals are taken: bootstrap over examples, Wilson's for shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9_999  # of a bootstrap; as many at a time as RESAMPLED_AT_ONCE, for they lie in memory
RESAMPLED_AT_ONCE = 1_000

Samples = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Figure:
    """A number, how uncertain it is, and over how many it was taken.

    Attributes:
        value: NaN if it could not be measured.
        low, high: its interval, mostly the 95 % one over examples; both equal ``value`` where there is none, as for a
            single example or where resampling changes nothing.
        n: mostly examples; 0 if there was nothing to measure.
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


def bootstrapped(samples: Samples, statistic: Callable[..., Any], seed: int) -> Figure:
    """``statistic(*samples)`` with its 95 % interval over examples, each sample being resampled by itself.

    The interval is the plain one of percentiles: it is defined too where nothing varies, and is then empty. A sample
    without examples makes the figure unknown.

    Args:
        samples: float64 ``[n]`` each; of their own lengths.
        statistic: takes the samples and an ``axis``, as :func:`auroc` and :func:`numpy.mean` do.
        seed: of the resamples.
    """
    from scipy.stats import bootstrap

    if min(map(len, samples)) == 0:
        return UNKNOWN
    value, n = float(statistic(*samples)), sum(map(len, samples))
    if not math.isfinite(value) or min(map(len, samples)) < 2:
        return Figure(value, value, value, n)
    low, high = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=RESAMPLED_AT_ONCE, method="percentile", random_state=seed
    ).confidence_interval
    return Figure(value, float(low), float(high), n)


def auroc(positive: NDArray[np.float64], negative: NDArray[np.float64], axis: int = -1) -> Any:
    """The Mann-Whitney U statistic over the number of pairs; ties count half."""
    from scipy.stats import mannwhitneyu

    # The method is that of a p-value, which is not used; the others would cost more.
    statistic = mannwhitneyu(positive, negative, axis=axis, method="asymptotic").statistic
    return statistic / (positive.shape[axis] * negative.shape[axis])


def wilson(count: int, n: int) -> Figure:
    """The share ``count / n`` with its 95 % interval by Wilson's formula; unknown if ``n`` is 0."""
    from scipy.stats import binomtest

    if n == 0:
        return UNKNOWN
    low, high = binomtest(count, n).proportion_ci(method="wilson")
    return Figure(count / n, float(low), float(high), n)
