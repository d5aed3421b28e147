"""What “Blind test” asks of the model: one question in the chat's own way, without a conversation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui.blind_votes import tally_of
from steering.ui.chat import Chat
from steering.ui.ideas import is_own, title_of
from steering.ui.layout import SETTINGS
from steering.ui.session import Session
from steering.ui.turn import TurnRequest, turn_work
from steering.ui.worker import Job

if TYPE_CHECKING:
    from steering.directions import Direction

NO_QUESTION = "Write a question first, or pick one below."
NO_IDEA = "This idea is not there for the model in use. Choose another."
EXCHANGED = "Another model came into use while you waited. Press again to ask it."


@dataclass(frozen=True)
class Asked:
    """A question, and the idea on the model in use that it is asked for; the last three are for the vote."""

    idea: str
    own: Direction | None
    text: str
    title: str
    model: str
    tally: str


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
    return Asked(idea, own, text, title_of(idea, session), model.label, tally_of(idea, own, model))


def write_answers(chat: Chat, session: Session, asked: Asked, job: Job) -> None:
    """Write the three answers at the settings the chat starts with and at the idea's own strength.

    Runs on the model's thread and reports what :func:`steering.ui.turn.turn_work` does.
    """
    from steering.interventions import Dial

    engine = chat.engine
    if asked.own is None:
        engine.preset_direction(asked.idea, job.progress)  # from here on its strength is known
    if tally_of(asked.idea, asked.own, engine.ready_model()) != asked.tally:
        raise SteeringError(EXCHANGED)
    strength = chat.strength(Session(session.key, asked.idea, own=session.own)).start
    usual = {part.name: SETTINGS[part.name] for part in dataclasses.fields(TurnRequest) if part.name in SETTINGS}
    request = TurnRequest(
        asked.idea, asked.own, [[], [], []], asked.text, Dial(strength), seconds=chat.operator.limits.seconds, **usual
    )
    turn_work(engine, request, job)
