"""The columns of the page: which answers stand side by side, what they are called, and the variants behind them.

The three that are always there: the model as it is, the idea taken out, the idea turned up. Beside them, within one
press, a fourth: a random direction of equal strength, the same model just asked for the idea, or two ideas at once. Or
all five show one question at five strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.errors import SteeringError

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.interventions import Dial, Variant

BASELINE, ABLATED, ADDED = THREE = ("baseline", "ablated", "added")
RANDOM, PROMPTED, BOTH = "random", "prompted", "both"
KNOB = tuple(f"knob-{place}" for place in range(5))
SETS: dict[str, tuple[str, ...]] = {
    "three": THREE,
    "random": (*THREE, RANDOM),
    "prompted": (*THREE, PROMPTED),
    "both": (*THREE, BOTH),
    "knob": KNOB,
}
BESIDE = [
    ("Three", "three"),
    ("Random direction", "random"),
    ("Just prompt it", "prompted"),
    ("Two ideas", "both"),
    ("One knob", "knob"),
]
RANDOM_SEED = 0  # the same random direction each time, so that an answer can be repeated
_LOOKS = {BASELINE: 0, ABLATED: 1, ADDED: 2, RANDOM: 3, PROMPTED: 4, BOTH: 3}


@dataclass(frozen=True)
class Heads:
    """What the columns are called, one entry a column; ``looks`` are numbers of colours and dashes."""

    names: list[str]
    short: list[str]
    looks: list[int]
    added: str = "turned up here"


def heads(
    columns: Sequence[str], idea: str, *, opposite: bool = False, other: str = "", knobs: Sequence[float] = ()
) -> Heads:
    """The heads of columns.

    Args:
        idea, other: titles of the idea in view and of the one that is turned up while it is taken out.
        opposite: whether minus the direction is added.
        knobs: the strengths of the one knob.
    """
    if columns == KNOB:
        words = ["as it is" if strength == 0 else f"{strength:g}" for strength in knobs]
        names = [f"{idea}: {word}" if strength else "As it is" for word, strength in zip(words, knobs, strict=True)]
        return Heads(names, [word.capitalize() for word in words], list(range(len(knobs))))
    named = {
        BASELINE: ("As it is", "As it is"),
        ABLATED: (f"{idea} taken out", "Taken out"),
        ADDED: (f"{idea}: its opposite", "Opposite") if opposite else (f"{idea} turned up", "Turned up"),
        RANDOM: ("A random direction", "Random"),
        PROMPTED: (f"Just asked for “{idea}”", "Asked"),
        BOTH: (f"{idea} out, {other} up", "Two ideas"),
    }
    return Heads(
        [named[key][0] for key in columns],
        [named[key][1] for key in columns],
        [_LOOKS[key] for key in columns],
        "its opposite added here" if opposite else "turned up here",
    )


def knob_strengths(start: float, end: float, sweet: tuple[float, float] | None) -> tuple[float, ...]:
    """Five strengths from nothing to the slider's end; with a measured range its sweet spot's ends are among them."""
    if sweet is None:
        return tuple(round(end * part, 2) for part in (0, 0.25, 0.5, 0.75, 1))
    low, high = sweet
    middle = start if low < start < high else (low + high) / 2
    return tuple(round(value, 2) for value in (0, low, middle, high, end))


@dataclass(frozen=True)
class Asked:
    """What the variants of one turn are made of.

    Attributes:
        dial: the coefficient of what is turned up; the random direction follows it.
        random: as long as the direction and at its layer (`random_twin`).
        other, other_dial: for two ideas at once.
        knobs: for the one knob.
        prompt: what the model is told when it is just asked for the idea.
        system: the visitor's own system prompt.
    """

    direction: Direction
    dial: Dial
    removal: str = "centred"
    addition: str = "added"
    random: Direction | None = None
    other: Direction | None = None
    other_dial: Dial | None = None
    knobs: tuple[float, ...] = ()
    prompt: str = ""
    system: str = ""


def variant(key: str, asked: Asked) -> Variant:
    """The variant of one column.

    Raises:
        DirectionError: if a direction does not know what the chosen way needs.
    """
    from steering.interventions import Dial, Variant
    from steering.ui.methods import taken_out, turned_up

    if key == BASELINE:
        return Variant.baseline()
    if key == ABLATED:
        return taken_out(asked.removal, asked.direction)
    if key == ADDED:
        return turned_up(asked.addition, asked.direction, asked.dial)
    if key == RANDOM and asked.random is not None:
        return turned_up("keep_norm" if asked.addition == "keep_norm" else "added", asked.random, asked.dial)
    if key == PROMPTED:
        return Variant(PROMPTED, system="\n\n".join(part for part in (asked.system, asked.prompt) if part.strip()))
    if key == BOTH:
        if asked.other is None or asked.other_dial is None:
            raise SteeringError("Choose the second idea first, the one that is turned up.")
        out = taken_out(asked.removal, asked.direction)
        up = turned_up(asked.addition, asked.other, asked.other_dial)
        return Variant(BOTH, [*out.interventions, *up.interventions])
    strength = asked.knobs[KNOB.index(key)]
    return turned_up(asked.addition, asked.direction, Dial(strength)) if strength else Variant.baseline()


def random_twin(direction: Direction) -> Direction:
    """A random direction as long as this one, at its layer; the same one each time."""
    import numpy as np

    from steering.trust_controls import random_controls

    return random_controls(direction, 1, np.random.default_rng(RANDOM_SEED))[0]
