"""What the Chat tab shows: the panes, the log the page is drawn from, and what can be chosen. It holds no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steering.ui.columns import Heads, heads, knob_strengths
from steering.ui.conversations import Turn
from steering.ui.engine import Engine, Loading
from steering.ui.ideas import example_of, idea_choices, is_own, note_on, questions_of, title_of
from steering.ui.layout import as_text
from steering.ui.operator import Operator
from steering.ui.recorded import recorded_turn
from steering.ui.scope import PLACES, branch_line, columns_line, state_line
from steering.ui.session import Session
from steering.ui.strengths import Strength, preset_card_of_direction, preset_strength, strength_of

Messages = list[dict[str, Any]]
View = tuple[Any, ...]
"""The messages of each of the page's panes, and the scope's log."""

NOT_ASKED = "(Not asked then; this answer goes on from the model as it is.)"


class ChatView:
    """What is shown of a visitor's conversations."""

    def __init__(self, engine: Engine, operator: Operator | None = None) -> None:
        self.engine = engine
        self.operator = operator or Operator()

    def view(self, session: Session) -> View:
        """The panes and the scope's log as they are now."""
        turns = self.shown_turns(session)
        columns = session.columns
        panes: list[Messages] = [
            [message for turn in turns for message in _messages(turn, column, turn is session.live)]
            for column in columns
        ]
        return *panes, *[[] for _ in range(len(PLACES) - len(panes))], session.log

    def shown_turns(self, session: Session) -> list[Turn]:
        """The turns in view, the one being written included; before the first, a recorded example."""
        if session.live and session.live_idea == session.idea:
            return [*session.conversation(session.idea).turns, session.live]
        turns = session.conversation(session.idea).turns
        example = self.example(session)
        return [example] if example else list(turns)

    def example(self, session: Session) -> Turn | None:
        """The recorded run that stands where nothing was asked yet, if there is one for the model and the columns."""
        conversation = session.conversation(session.idea)
        if conversation.was_used or conversation.turns or is_own(session.idea):
            return None
        model = self.engine.model
        turn = recorded_turn(session.idea) if model is None or model.name == "bundled" else None
        return turn if turn and set(turn.columns) & set(session.columns) else None

    def rest_log(self, session: Session) -> str:
        """The log of the newest turn of the idea in view, or of nothing yet."""
        if session.live and session.live_idea == session.idea:
            return session.live.log
        turns = self.shown_turns(session)
        beginning = self.beginning(session)
        notice = "" if session.conversation(session.idea).was_used else session.notice
        if turns:
            return beginning + turns[-1].log_of(session.columns) + (state_line("idle", notice) if notice else "")
        return beginning + state_line("idle", notice or self._note(session))

    def beginning(self, session: Session) -> str:
        """What a log of the idea in view begins with: the columns, and which branch this is if there are others."""
        conversation = session.conversation(session.idea)
        names = self.names_line(session)
        if len(conversation.branches) == 1:
            return names
        return names + branch_line(conversation.current + 1, len(conversation.branches))

    def _note(self, session: Session) -> str:
        """What to know of the idea in view on the model in use before asking."""
        model = self.engine.model
        if is_own(session.idea):
            return ""
        if model is None or model.name == "bundled":
            return note_on(session.idea, preset_card_of_direction(session.idea))
        known = self.engine.known_direction(session.idea)
        return note_on(session.idea, known.card) if known else ""

    def heads(self, session: Session) -> Heads:
        """What the columns in view are called."""
        return heads(
            session.columns,
            self._title(session, session.idea),
            opposite=session.sign < 0,
            other=self._title(session, self.other_idea(session)),
            knobs=self.knobs(session),
        )

    def _title(self, session: Session, idea: str) -> str:
        return "Your idea" if is_own(idea) and idea == session.idea else title_of(idea, session)

    def names_line(self, session: Session) -> str:
        """The log's line with the columns' names and the strength's zones."""
        strength, named = self.strength(session), self.heads(session)
        return columns_line(
            named.names,
            named.short,
            named.looks,
            added=named.added,
            sweet=strength.sweet,
            end=strength.end,
            dose=strength.dose,
        )

    def strength(self, session: Session, idea: str | None = None) -> Strength:
        """The slider's range for an idea, by default the one in view, and the model in use."""
        idea, model = idea or session.idea, self.engine.model
        if is_own(idea):
            return strength_of(session.own[idea])
        if model is None or model.name == "bundled":
            return preset_strength(idea)
        known = self.engine.known_direction(idea)
        return strength_of(known) if known else Strength(1.0, 3.0, None)

    def knobs(self, session: Session) -> tuple[float, ...]:
        """The strengths of the one knob, of the sign that is added."""
        strength = self.strength(session)
        return tuple(session.sign * knob for knob in knob_strengths(strength.start, strength.end, strength.sweet))

    def choices(self, session: Session) -> list[tuple[str, str]]:
        model = self.engine.model
        return idea_choices(session, model.name if model else "", model.revision if model else "")

    def other_choices(self, session: Session) -> list[tuple[str, str]]:
        """The ideas that can be turned up while the one in view is taken out."""
        return [(title, key) for title, key in self.choices(session) if key != session.idea]

    def other_idea(self, session: Session) -> str:
        """The one that is."""
        keys = [key for _, key in self.other_choices(session)]
        return session.other if session.other in keys else keys[0]

    def question_for(self, session: Session, message: str) -> str:
        """What the box should hold after an idea was chosen: a question typed by hand stays."""
        suggested = {example_of(key) for _, key in self.choices(session)} | {""}
        if session.conversation(session.idea).turns:
            return "" if message in suggested else message
        return (example_of(session.idea) or message) if message in suggested else message

    def questions(self, session: Session) -> Sequence[str]:
        return questions_of(session.idea)


def loading_line(loading: Loading | None, message: str = "") -> str:
    """The log's line about a model on its way; nothing where there is none.

    ``message``: as in `state_line`, but an error's own sentence is said instead.
    """
    if loading is None:
        return ""
    if loading.error:
        return state_line("error", loading.error)
    return state_line("loading", message, button=f"Loading… {loading.percent}%")


def _messages(turn: Turn, column: str, is_live: bool) -> Messages:
    question: dict[str, Any] = {"role": "user", "content": as_text(turn.question)}
    if column not in turn.columns:
        return [question, {"role": "assistant", "content": NOT_ASKED}]
    place = turn.columns.index(column)
    said: Messages = [question]
    if thought := turn.thoughts[place] if turn.thoughts else "":
        status = "pending" if is_live and not turn.replies[place] else "done"  # what is done folds by itself
        said.append(_aside("Thought", thought, status))
    if note := turn.notes[place] if turn.notes else "":
        said.append(_aside("No more comes" if turn.replies[place] else "No answer", note))
    if turn.replies[place] or len(said) == 1:
        said.append({"role": "assistant", "content": as_text(turn.replies[place])})
    return said


def _aside(title: str, text: str, status: str | None = None) -> dict[str, Any]:
    """A message that is not the answer: it stands apart from it, and is not copied with it."""
    about = {"title": title} | ({"status": status} if status else {})
    return {"role": "assistant", "content": as_text(text), "metadata": about}
