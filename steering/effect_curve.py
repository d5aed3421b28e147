"""What ablating k directions at once does, for each k, and how many of them are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steering.activations import is_out_of_memory
from steering.errors import OutOfMemoryError, SteeringError
from steering.figures import Figure, bootstrapped
from steering.progress import Progress, silent
from steering.scoring import BYPASS, KL, Scorer

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
    curve: list[KEffect] = []
    size = ROWS_AT_ONCE
    while len(curve) < len(directions):
        part = directions[len(curve) :][:size]
        try:
            values = _values_under_ablation(scorer, part, len(curve), len(directions), progress)
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
        for direction, found in zip(part, values, strict=True):
            bypass, kl = (bootstrapped([torch.cat(found[score]).numpy()], np.mean, seed) for score in (BYPASS, KL))
            curve.append(KEffect(len(direction.ablation_basis), bypass, kl))
    progress(WHAT, len(directions), len(directions))
    return curve


def _values_under_ablation(
    scorer: Scorer, directions: Sequence[Direction], done: int, total: int, progress: Progress
) -> list[dict[str, list[Tensor]]]:
    found: list[dict[str, list[Tensor]]] = [{BYPASS: [], KL: []} for _ in directions]
    steps = [step for step in scorer.steps if step.gives.keys() & {BYPASS, KL}]
    for i, step in enumerate(steps):
        progress(WHAT, done + len(directions) * i / len(steps), total)
        for one, result in zip(found, scorer.run(step.name, directions), strict=True):
            for score, numbers in result.items():
                one[score].append(numbers)
    return found


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
