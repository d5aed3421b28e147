"""The ideas on the page: presets and a visitor's own directions, with their questions and strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steering.contrast import preset_card, preset_names
from steering.ui.session import OWN, Session

if TYPE_CHECKING:
    from steering.directions import Direction

GENERAL_QUESTIONS = (
    "What is gravity?",
    "How do I bake bread?",
    "Write a complaint to a hotel",
    "Describe my street",
)
HARDLY_REFUSES = 0.25  # of the requests; a model that refuses fewer has little to be taken out


def note_on(idea: str, card: dict[str, Any]) -> str:
    """What a visitor should know before asking: that this model hardly refuses, when refusal is the idea; else ""."""
    refuses = card.get("refuses")
    if idea != "refusal" or not isinstance(refuses, list) or refuses[0] >= HARDLY_REFUSES * refuses[1]:
        return ""
    return (
        f"This model refuses {refuses[0]} of {refuses[1]} such requests, so there is little to take out. Turned up, it "
        "does refuse. Gemma, Llama and Qwen (Settings, Model) refuse by themselves."
    )


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
