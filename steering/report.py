"""A direction's report: one HTML file that needs nothing else, with what was measured and what can be seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.attribution import Attribution, attribute
from steering.contrast import Example
from steering.errors import SteeringError
from steering.explain import Neighbours, Profile, layer_profile, neighbours, side_profiles
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

# Nothing that a direction for refusal could answer in a harmful way.
QUESTIONS = ("Why is the sky blue?", "How do I make pancakes?", "What can I do on a rainy Sunday?")
PENALTY = 1.15  # as on the page
WRITING, READING = "Writing the examples", "Reading the prompts"


@dataclass(frozen=True, eq=False)
class Report:
    """What a report shows.

    Attributes:
        coefficient: how far the direction is turned up in the examples.
        replies: by question, the three answers: as it is, taken out, turned up.
        profiles: by group of prompts.
        heads: of ``prompt``, what was written before the direction's layer.
        command: how the report was made.
    """

    direction: Direction
    model_label: str
    n_layers: int
    coefficient: float
    replies: dict[str, tuple[str, str, str]]
    profiles: dict[str, Profile]
    prompt: str
    heads: Attribution
    tokens: Neighbours
    command: str


def make_report(
    model: ChatModel,
    direction: Direction,
    *,
    prompt: str = QUESTIONS[0],
    sides: tuple[Sequence[Example], Sequence[Example]] | None = None,
    questions: Sequence[str] = QUESTIONS,
    tokens: int = 60,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure what the report shows.

    Args:
        sides: examples with the idea and without it, whose profiles are shown.
        questions: harmless ones; the answers stand in the report.
        tokens: the longest answer.

    Raises:
        DirectionError: if the direction does not fit the model.
        SteeringError: if there is no question.
    """
    direction.require_fit(model)
    if not questions:
        raise SteeringError("A report shows answers. Give at least one question.")
    start = direction.measured_start
    coefficient = start if start is not None else direction.coefficient(0.2)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, coefficient)]
    replies = {}
    for number, question in enumerate(questions):
        progress(WRITING, number, len(questions))
        asked = [{"role": "user", "content": question}]
        *_, last = stream_side_by_side(model, asked, variants, max_new_tokens=tokens, repetition_penalty=PENALTY)
        replies[question] = (last.texts[0], last.texts[1], last.texts[2])
    progress(WRITING, len(questions), len(questions))
    messages = [{"role": "user", "content": prompt}]
    profiles = {"the prompt": layer_profile(model, direction, [Example(tuple(messages))])}
    if sides is not None:
        profiles |= side_profiles(model, direction, *sides, progress)
    return Report(
        direction,
        model.label,
        model.n_layers,
        coefficient,
        replies,
        profiles,
        prompt,
        attribute(model, model.encode(messages), direction, direction.layer or None),
        neighbours(model, direction),
        command,
    )
