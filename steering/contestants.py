"""What stands in the table of an evaluation: the model's ways to answer, each held against the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steering.interventions import Ablation, Addition, Variant
from steering.trust_controls import random_controls

if TYPE_CHECKING:
    from steering.directions import Direction

BASELINE, ABLATED, ADDED, SUBTRACTED = "baseline", "ablated", "added", "subtracted"
RANDOM_ABLATED, RANDOM_ADDED, PROMPTED, ORTHOGONALIZED = "random ablated", "random added", "prompted", "orthogonalized"


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        act: what is done to the model at a prompt, by the prompt's number and the conversation's system prompt.
        checkpoint: the folder or name of the model that answers instead of the model itself; "" for that.
    """

    name: str
    act: Callable[[int, str | None], Variant]
    checkpoint: str = ""


def contestants(
    direction: Direction, *, coefficient: float, ask: str, checkpoints: Sequence[tuple[str, str]] = (), seed: int = 0
) -> list[Contestant]:
    """The table's rows, the baseline first.

    Subtracted is −r, the other way to end refusal, which the paper holds against ablation by its cost. The random
    directions are as long as r, and another one for each prompt, so that no single draw decides; but one for a task.

    Args:
        coefficient: how far the direction is turned up.
        ask: what the model is told when it is just asked for the idea.
        checkpoints: names and sources of edited models that answer without hooks.
        seed: of the random directions.
    """

    def same(name: str, *interventions: Ablation | Addition) -> Contestant:
        variant = Variant(name, interventions)
        return Contestant(name, lambda number, system: variant)

    def random(name: str, act: Callable[[Direction], Ablation | Addition]) -> Contestant:
        def variant(number: int, system: str | None) -> Variant:
            [control] = random_controls(direction, 1, np.random.default_rng((seed, number)))
            return Variant(name, (act(control),))

        return Contestant(name, variant)

    def asked(number: int, system: str | None) -> Variant:
        return Variant(PROMPTED, system="\n\n".join(part for part in (system, ask) if part))

    def edited(name: str, source: str) -> Contestant:
        return Contestant(name, lambda number, system: Variant(name), source)

    return [
        same(BASELINE),
        same(ABLATED, Ablation(direction)),
        *(edited(name, source) for name, source in checkpoints),
        same(ADDED, Addition(direction, coefficient)),
        same(SUBTRACTED, Addition(direction, -1.0)),
        random(RANDOM_ABLATED, Ablation),
        random(RANDOM_ADDED, lambda one: Addition(one, coefficient)),
        Contestant(PROMPTED, asked),
    ]
