"""The ways to take a direction out and to turn it up, as the settings offer them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.interventions import Dial, Variant

REMOVALS = {
    "centred": "Ablation",
    "plain": "Ablation, not centred",
    "affine": "Affine",
    "capped": "Capping",
}
ADDITIONS = {
    "added": "Addition",
    "keep_norm": "Length kept",
    "projected": "Projected",
}
REMOVAL_HELP = "Affine sets it to where texts without the idea lie; capping only takes away what is above that."
ADDITION_HELP = "Projected: without what the direction shares with texts that lack the idea."


def taken_out(removal: str, direction: Direction) -> Variant:
    """The variant without the direction.

    Raises:
        DirectionError: if the direction does not know what this way needs.
    """
    from steering.interventions import AffineAblation, Capping, Variant

    if removal == "affine":
        return Variant("ablated", [AffineAblation(direction)])
    if removal == "capped":
        return Variant("ablated", [Capping(direction)])
    return Variant.ablated(removed(removal, direction))


def removed(removal: str, direction: Direction) -> Direction:
    """What is taken out, along which cosines are shown."""
    return direction.plain() if removal == "plain" else direction


def turned_up(addition: str, direction: Direction, dial: Dial) -> Variant:
    """The variant with the direction added.

    Raises:
        DirectionError: if the direction does not know what this way needs.
    """
    from steering.interventions import Addition, Variant

    if addition == "projected":
        direction = direction.projected()
    return Variant("added", [Addition(direction, dial, keep_norm=addition == "keep_norm")])
