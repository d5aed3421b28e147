"""What ablating k directions at once does, for each k, and how many of them are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steering.errors import SteeringError
from steering.figures import Figure, bootstrapped
from steering.progress import Progress, silent
from steering.scoring import BYPASS, KL, Scorer, scores_in_turn

if TYPE_CHECKING:
    from steering.directions import Direction

WHAT = "Scoring subspaces"
ROWS_AT_ONCE = 4  # directions in a pass: enough for a GPU, and still a pass short enough to be cancelled after


@dataclass(frozen=True)
class KEffect:
    """What ablating ``k`` directions at once does to the validation examples.

    Attributes:
        bypass: mean metric on the positive side; the lower, the more of the idea is gone.
        kl: mean KL of the next-token distribution on the negative side; what it costs.

    Both with 95 % intervals by bootstrap over examples (percentiles).
    """

    k: int
    bypass: Figure
    kl: Figure


def effect_curve(
    scorer: Scorer, directions: Sequence[Direction], *, seed: int = 0, progress: Progress = silent
) -> list[KEffect]:
    """The effect of each direction's basis, as ``[Subspace.direction(k) for k in …]``, a few directions a pass.

    Raises:
        Cancelled: if ``progress`` raises it; it is told at every pass.
        OutOfMemoryError: if even one direction does not fit into memory.
    """
    values = scores_in_turn(scorer, directions, (BYPASS, KL), ROWS_AT_ONCE, (WHAT, progress))
    curve = []
    for direction, found in zip(directions, values, strict=True):
        bypass, kl = (bootstrapped([found[score].numpy()], np.mean, seed) for score in (BYPASS, KL))
        curve.append(KEffect(len(direction.ablation_basis), bypass, kl))
    return curve


def default_k(curve: Sequence[KEffect]) -> int:
    """The overlap rule: the smallest k whose bypass interval overlaps that of the best.

    The best is the lowest bypass score, of equal ones the smallest k. Intervals that touch overlap. The rule leans
    towards few directions: intervals of the same examples may overlap where their paired difference would not hold 0.

    Raises:
        SteeringError: if there is no k whose effect is known.
    """
    known = [effect for effect in curve if math.isfinite(effect.bypass.value)]
    if not known:
        raise SteeringError("The effect is known of no number of directions, so none can be chosen. Score some first.")
    best = min(known, key=lambda effect: (effect.bypass.value, effect.k)).bypass
    return min(effect.k for effect in known if effect.bypass.low <= best.high and best.low <= effect.bypass.high)
