"""A question of the “Explain” tab on the model: its direction and its tokens, and how the work reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from steering.errors import Cancelled, SteeringError
from steering.ui import explain_words as words
from steering.ui.asked_model import asked_model, through
from steering.ui.explain_found import Of, Question
from steering.ui.methods import removed

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

# A head's attention is computed as it is written down, in memory that grows with the square of this.
MOST_TOKENS = 1024

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Asked:
    """A question on the model that it was asked of.

    Attributes:
        direction: as the chat adds it.
        probe: what the chat takes out, along which everything here is measured.
        messages: the prompt as a conversation, of the tokens ``ids``.
    """

    model: ChatModel
    question: Question
    direction: Direction
    probe: Direction
    messages: list[dict[str, str]]
    ids: list[int]

    @property
    def of(self) -> Of:
        return Of(
            self.question.title, self.question.prompt, self.model.label, self.model.n_layers, self.direction.layer
        )

    @property
    def before(self) -> int | None:
        """The layer before which heads are looked at; None for all of them."""
        return self.probe.layer or None


def asked_of(engine: Engine, question: Question, job: Job) -> Asked:
    model, direction = asked_model(engine, question.model, question.idea, question.own, words.OTHER_MODEL, job)
    messages = [{"role": "user", "content": question.prompt}]
    ids = model.encode(messages)
    require_short(model, ids, words.THE_PROMPT)
    return Asked(model, question, direction, removed(question.removal, direction), messages, ids)


def require_short(model: ChatModel, ids: Sequence[int], what: str) -> None:
    most = min(MOST_TOKENS, model.max_length)
    if len(ids) > most:
        raise SteeringError(words.TOO_LONG.format(what=what, n=len(ids), most=most))


def texts_of(question: Question, direction: Direction) -> ContrastSet | None:
    """The set that the direction was made from, where it is known."""
    from steering.contrast import ContrastSet, preset_names

    if question.own is None:
        return ContrastSet.load(question.idea)
    made_from = direction.card.get("data_sha256")
    known = ([question.data] if question.data is not None else []) + [ContrastSet.load(name) for name in preset_names()]
    return next((data for data in known if data.sha256 == made_from), None)


def step(engine: Engine, job: Job, name: str) -> Progress:
    """As `through`, for a step of this tab's own."""
    report = through(engine, job)
    return lambda what, done, total: report(name, done, total)


def tried(find: Callable[[], Found]) -> tuple[Found | None, str]:
    """What was found, or the sentence that says why it could not be: one part of an explanation may be missing."""
    try:
        return find(), ""
    except Cancelled:
        raise
    except SteeringError as error:
        return None, str(error)
