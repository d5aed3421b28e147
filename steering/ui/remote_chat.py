"""The Chat tab in the remote mode: three columns, no ideas, no strength, and no plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.ui.chat import Chat
from steering.ui.columns import Heads
from steering.ui.conversations import Turn
from steering.ui.ideas import GENERAL_QUESTIONS
from steering.ui.remote_engine import RemoteEngine
from steering.ui.scope import columns_line
from steering.ui.strengths import Strength
from steering.ui.turn import Tick, TurnRequest

if TYPE_CHECKING:
    from steering.ui.operator import Operator
    from steering.ui.session import Session

SERVED = "served"  # stands where an idea's name stands elsewhere
NO_PLOT = "These engines give no hidden states, so there is no plot."
NO_LIKELIEST = "These servers do not say what else could have been said."
LOOKING = "Looking for the three servers…"
TOLD = ("system_prompt", "max_new_tokens", "temperature", "top_p", "seed")
HEADS = Heads(["As it is", "Taken out", "Turned up"], ["As it is", "Taken out", "Turned up"], [0, 1, 2])


class RemoteChat(Chat):
    """What a visitor can do where three servers answer."""

    engine: RemoteEngine

    def __init__(self, engine: RemoteEngine, operator: Operator | None = None) -> None:
        super().__init__(engine, operator)

    # ------------------------------------------------------------------ what is shown

    def example(self, session: Session) -> Turn | None:
        """None: what is recorded is the bundled model's."""
        return None

    def heads(self, session: Session) -> Heads:
        return HEADS

    def names_line(self, session: Session) -> str:
        return columns_line(HEADS.names, HEADS.short, HEADS.looks, no_plot=NO_PLOT)

    def strength(self, session: Session, idea: str | None = None) -> Strength:
        """One that nobody sees: it is in the checkpoints."""
        return Strength(1.0, 1.0, None)

    def knobs(self, session: Session) -> tuple[float, ...]:
        return ()

    def choices(self, session: Session) -> list[tuple[str, str]]:
        return [("Served", SERVED)]

    def questions(self, session: Session) -> Sequence[str]:
        return GENERAL_QUESTIONS

    def question_for(self, session: Session, message: str) -> str:
        return message

    def _note(self, session: Session) -> str:
        return self.news

    @property
    def news(self) -> str:
        """What the status line says while nothing was asked yet: which servers are not there, or nothing."""
        if any(seen.answers is None for seen in self.engine.watch.all_seen):
            return LOOKING
        return self.engine.trouble

    def endpoints_told(self) -> str:
        """The three servers as the page shows them: JSON, of which the script makes texts."""
        rows = []
        for endpoint, seen, name in zip(
            self.engine.watch.endpoints, self.engine.watch.all_seen, HEADS.names, strict=True
        ):
            state = {None: "looking", True: "answers", False: "silent"}[seen.answers]
            words = {"looking": "looking for it…", "answers": "answers", "silent": seen.trouble}[state]
            model = self.engine.models[endpoint.column]
            rows.append({"name": name, "model": model, "address": endpoint.address, "state": state, "words": words})
        return json.dumps(rows)

    # ------------------------------------------------------------------ what is done

    def compare(self, session: Session, beside: str) -> bool:
        """Nothing: there are three servers."""
        return False

    def choose(self, session: Session, idea: str) -> None:
        """Nothing: there is nothing to choose."""

    def _request(self, session: Session, question: str, strength: float, settings: dict[str, Any]) -> TurnRequest:
        limits = self.operator.limits
        columns = session.columns
        penalty = _within("repetition penalty", settings["repetition_penalty"], 0.5, 3)
        return TurnRequest(
            idea=session.idea,
            own=None,
            histories=session.conversation(session.idea).histories(columns),
            question=question,
            dial=None,
            columns=columns,
            owner=session.key,
            system_prompt=str(settings["system_prompt"] or "")[: limits.characters],
            max_new_tokens=int(min(limits.tokens, max(1, settings["max_new_tokens"]))),
            temperature=_within("temperature", settings["temperature"], 0, 5),
            top_p=_within("top-p", settings["top_p"], 0, 1),
            repetition_penalty=penalty if self.engine.take_penalty else 1.0,
            seed=int(settings["seed"] or 0) + (session.tries if settings["temperature"] else 0),
            seconds=limits.seconds,
        )

    def _told(self, request: TurnRequest) -> dict[str, Any]:
        """What was sent, and to which models."""
        told = {name: getattr(request, name) for name in TOLD}
        if self.engine.take_penalty:
            told["repetition_penalty"] = request.repetition_penalty
        return told | {"models": self.engine.models}

    @staticmethod
    def take(tick: Tick, live: Turn) -> None:
        """Write a tick into the turn, and at its end say how many answers are not whole."""
        Chat.take(tick, live)
        if failed := sum(bool(note) for note in tick.notes):
            whose = "One answer is not whole; its pane says why."
            live.note = f"Done. {whose if failed == 1 else f'{failed} answers are not whole; their panes say why.'}"


def _within(name: str, value: Any, low: float, high: float) -> float:
    """A number of the settings; no server is asked with one that is none.

    Raises:
        SteeringError: if it is not between ``low`` and ``high``.
    """
    if isinstance(value, int | float) and low <= value <= high:
        return float(value)
    raise SteeringError(f"The {name} must be a number from {low:g} to {high:g}.")
