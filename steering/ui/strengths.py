"""How strongly a direction can be turned up: the slider's range, as measured or from doses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steering.contrast import PRESETS

if TYPE_CHECKING:
    from steering.directions import Direction

# For a direction whose range was not measured: the added vector is this part of the stream's usual length at first,
# and this part at the slider's end. On the bundled model's presets the measured ranges lie between these.
UNMEASURED_DOSE, UNMEASURED_END_DOSE = 0.35, 0.9


@dataclass(frozen=True)
class Strength:
    """The slider for one direction: where it starts and ends, the sweet spot if it was measured, and the dose of 1."""

    start: float
    end: float
    sweet: tuple[float, float] | None
    dose: float | None = None

    @property
    def step(self) -> float:
        return 0.05 if self.end <= 5 else 0.1


def strength_of(direction: Direction) -> Strength:
    """The slider's range for a direction: as measured, or else from doses."""
    measured = direction.card.get("strength")
    if measured:
        return _measured(measured, direction.dose(1))
    start, end = direction.coefficient(UNMEASURED_DOSE), direction.coefficient(UNMEASURED_END_DOSE)
    return Strength(round(start / 0.05) * 0.05, max(0.5, round(end * 2) / 2), None, direction.dose(1))


def preset_strength(name: str) -> Strength:
    """A preset's measured range on the bundled model, read without torch; the usual one if it was not measured."""
    try:
        direction = _shipped(name)
        card = direction["card"]
        return _measured(card["strength"], card["norm"] / direction["mean_residual_norm"])
    except (KeyError, TypeError, ValueError):
        return Strength(1.0, 3.0, None)


def preset_card_of_direction(name: str) -> dict[str, Any]:
    """The card of a preset's direction on the bundled model, read without torch; empty if there is none."""
    try:
        return dict(_shipped(name)["card"])
    except (KeyError, TypeError, ValueError):
        return {}


def _shipped(name: str) -> dict[str, Any]:
    """What the file of a preset's direction says beside its tensors; a ValueError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(PRESETS / "directions" / f"{name}.safetensors", framework="numpy") as file:
            return dict(json.loads(file.metadata()["direction"]))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the direction of {name} cannot be read") from error


def _measured(range_: dict[str, Any], dose: float) -> Strength:
    first, last = range_["sweet"]
    return Strength(float(range_["start"]), float(range_["end"]), (float(first), float(last)), dose)
