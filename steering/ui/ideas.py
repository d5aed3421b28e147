"""The ideas on the page: presets and a visitor's own directions, with their questions and strengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steering.contrast import PRESETS, preset_card, preset_names
from steering.ui.session import OWN, Session

if TYPE_CHECKING:
    from steering.directions import Direction

GENERAL_QUESTIONS = (
    "What is gravity?",
    "How do I bake bread?",
    "Write a complaint to a hotel",
    "Describe my street",
)
# For a direction whose range was not measured: the added vector is this part of the stream's usual length at first,
# and this part at the slider's end. On the bundled model's presets the measured ranges lie between these.
UNMEASURED_DOSE, UNMEASURED_END_DOSE = 0.35, 0.9
HARDLY_REFUSES = 0.25  # of the requests; a model that refuses fewer has little to be taken out


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


def note_on(idea: str, card: dict[str, Any]) -> str:
    """What a visitor should know before asking: that this model hardly refuses, when refusal is the idea; else ""."""
    refuses = card.get("refuses")
    if idea != "refusal" or not isinstance(refuses, list) or refuses[0] >= HARDLY_REFUSES * refuses[1]:
        return ""
    return (
        f"This model refuses {refuses[0]} of {refuses[1]} such requests, so there is little to take out. Turned up, it "
        "does refuse. Gemma, Llama and Qwen (Settings, Model) refuse by themselves."
    )


def _measured(range_: dict[str, Any], dose: float) -> Strength:
    first, last = range_["sweet"]
    return Strength(float(range_["start"]), float(range_["end"]), (float(first), float(last)), dose)


def idea_choices(session: Session, model_name: str, model_revision: str) -> list[tuple[str, str]]:
    """(label, key) of what this visitor can choose with the model in use."""
    presets = [(preset_card(name)["title"], name) for name in preset_names()]
    own = [
        (direction.name, key)
        for key, direction in session.own.items()
        if fits_model(direction, model_name, model_revision)
    ]
    return presets + own


def fits_model(direction: Direction, model_name: str, model_revision: str) -> bool:
    """Whether a direction was made for this model."""
    card = direction.card
    return card.get("model") == model_name and card.get("revision", "") == model_revision


def is_own(idea: str) -> bool:
    return idea.startswith(OWN)


def title_of(idea: str, session: Session) -> str:
    return session.own[idea].name if is_own(idea) else str(preset_card(idea)["title"])


def example_of(idea: str) -> str:
    return "" if is_own(idea) else str(preset_card(idea)["example"])


def prompt_of(idea: str, title: str) -> str:
    """What a model is told when it is just asked for an idea."""
    if is_own(idea):
        return f"Whatever you are asked, let your answer show this as clearly as you can: {title}."
    return str(preset_card(idea)["prompt"])


def questions_of(idea: str) -> list[str]:
    """Four questions to try: two that call for the idea, two that do not."""
    if is_own(idea):
        return list(GENERAL_QUESTIONS)
    card = preset_card(idea)
    others = [question for question in card["calls_for"] if question != card["example"]]
    return [*others[:2], *card["does_not"][:2]]
