"""What “Blind test” asks of the model: one question in the chat's own way, without a conversation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui.blind_votes import tally_of
from steering.ui.chat import Chat
from steering.ui.ideas import is_own, title_of
from steering.ui.session import Session
from steering.ui.settings import SETTINGS
from steering.ui.turn import TurnRequest

if TYPE_CHECKING:
    from steering.directions import Direction

NO_QUESTION = "Write a question first, or pick one below."
NO_IDEA = "This idea is not there for the model in use. Choose another."


@dataclass(frozen=True)
class Asked:
    """A question, and the idea on the model in use that it is asked for; title, model and tally are for the vote."""

    idea: str
    own: Direction | None
    text: str
    title: str
    model: str
    tally: str
    expects: tuple[str, str]


def is_there(chat: Chat, session: Session, idea: str) -> bool:
    """Whether this visitor can choose this idea with the model in use."""
    return idea in [key for _, key in chat.choices(session)]


def checked(chat: Chat, session: Session, idea: str, message: str) -> Asked:
    """What is asked.

    Raises:
        SteeringError: if it is no question, the model is not there yet, or the idea is not one of this model's.
    """
    engine, text = chat.engine, (message or "").strip()
    if not text:
        raise SteeringError(NO_QUESTION)
    most = chat.operator.limits.characters
    if len(text) > most:
        raise SteeringError(f"The question has {len(text)} characters; at most {most} are taken. Shorten it.")
    if engine.model is None and engine.loading is not None and not engine.loading.error:
        raise SteeringError(f"The model is on its way. {engine.loading.words}. Press again when it is there.")
    model = engine.ready_model()
    if not is_there(chat, session, idea):
        raise SteeringError(NO_IDEA)
    own = session.own[idea] if is_own(idea) else None
    title, tally = title_of(idea, session), tally_of(idea, own, model)
    return Asked(idea, own, text, title, model.label, tally, (model.name, model.revision))


def request_of(asked: Asked, seconds: float) -> TurnRequest:
    """The turn that writes the three answers, at the settings the chat starts with and at the idea's own strength.

    ``seconds``: the longest it may take.
    """
    usual = {part.name: SETTINGS[part.name] for part in dataclasses.fields(TurnRequest) if part.name in SETTINGS}
    return TurnRequest(
        asked.idea, asked.own, [[], [], []], asked.text, None, expects=asked.expects, seconds=seconds, **usual
    )
