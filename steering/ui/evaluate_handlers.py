"""What the controls of the “Evaluate” tab do; every function finds its visitor's session by the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui import evaluate_markup as markup
from steering.ui import evaluate_words as words
from steering.ui.chat import Chat
from steering.ui.errands import Errands, Told, Updates, buttons_at_rest, buttons_running
from steering.ui.evaluate_found import HELD_OUT, Evaluated, ToEvaluate
from steering.ui.evaluate_work import begin_evaluation
from steering.ui.ideas import prompt_of, title_of
from steering.ui.second_model import allowed_name, may_ask, may_load
from steering.ui.session import Session, Sessions
from steering.ui.turn import checked_coefficient
from steering.ui.worker import Reports

if TYPE_CHECKING:
    from steering.named_sets import Side


class EvaluateHandlers:
    """The handlers of one page."""

    SIDES: tuple[Side, ...] = ("harmful", "harmless", "text")

    def __init__(self, chat: Chat, sessions: Sessions) -> None:
        self.chat = chat
        self.engine = chat.engine
        self.sessions = sessions
        self.errands = Errands(chat, sessions, words.SAYINGS, lambda session: session.evaluating)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many questions may be asked: fewer where the page is not for the person at the machine alone."""
        return words.COUNTS if self._is_at_home else words.COUNTS[: words.FOR_STRANGERS]

    @property
    def lengths(self) -> tuple[int, ...]:
        """How long answers may be."""
        return words.LENGTHS if self._is_at_home else words.LENGTHS[: words.FOR_STRANGERS]

    @property
    def _is_at_home(self) -> bool:
        return self.chat.operator.take_home.folder is not None

    @property
    def has_more(self) -> bool:
        """Whether other questions, a judge and edited weights may be asked for at all."""
        return may_load(self.chat)

    def show(self, request: gr.Request) -> str:
        """The tab was opened, or a model came into use: the heading."""
        session = self.sessions.of(request)
        model = self.engine.model
        title = title_of(session.idea, session)
        return markup.what_html(title, model.label if model else "", session.evaluating.shown)

    def evaluate(
        self,
        count: Any,
        length: Any,
        which: Any,
        strength: float | None,
        harmful: Any,
        harmless: Any,
        text: Any,
        judge: Any,
        edited: Any,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Evaluate: the bar, the two buttons, then heading, figures, the ones before beside them.

        Args:
            harmful, harmless, text: the sets that are read, by their names.
            judge: a model's name; "" for none.
            edited: whether edited weights answer too.
        """

        def begin(session: Session, _watch: Any) -> Reports:
            asked = self._asked(session, count, length, which, strength)
            more = self._more(asked, {"harmful": harmful, "harmless": harmless, "text": text}, judge, edited, request)
            return begin_evaluation(self.engine, more)

        def ended(session: Session, found: Evaluated) -> Updates:
            before, session.evaluating.shown = session.evaluating.shown, found
            shown = [self.show(request), markup.found_html(found), markup.beside_html(found, before)]
            return ["", *buttons_at_rest(), *shown]

        unchanged = [gr.skip()] * 3
        yield from self.errands.run(
            request,
            "evaluate",
            begin,
            Told(),
            lambda bar, can_cancel: [bar, *buttons_running(can_cancel), *unchanged],
            ended,
            lambda said: [said, *buttons_at_rest(), *unchanged],
        )

    def _asked(self, session: Session, count: Any, length: Any, which: Any, strength: float | None) -> ToEvaluate:
        if count not in self.counts or length not in self.lengths or which not in (words.HARMLESS_ONLY, words.BOTH):
            raise SteeringError(words.NOT_OURS)
        model = self.engine.ready_model()
        title = title_of(session.idea, session)
        return ToEvaluate(
            title,
            session.idea,
            session.own.get(session.idea),
            session.sign * checked_coefficient(strength),
            prompt_of(session.idea, title),
            (model.name, model.revision),
            count,
            length,
            {side: HELD_OUT for side in self.SIDES if which == words.BOTH or side != "harmful"},
        )

    def _more(
        self, asked: ToEvaluate, sets: Mapping[Side, Any], judge: Any, edited: Any, request: gr.Request
    ) -> ToEvaluate:
        """What only the person at the machine may ask for, added to what everybody may.

        Raises:
            SteeringError: if it is asked for by somebody else, or is not what the page sends.
        """
        more = replace(
            asked,
            sets={side: name for side, name in sets.items() if side in asked.sets},
            judge=str(judge or "").strip(),
            edited=edited is True,
        )
        if not more.needs_more:
            return asked
        if not may_ask(self.chat, request):
            raise SteeringError(words.AT_HOME)
        if any(name not in dict(named_choices(side)).values() for side, name in more.sets.items()):
            raise SteeringError(words.NOT_OURS)
        if more.judge:
            if "harmful" not in more.sets:
                raise SteeringError(words.NOTHING_TO_JUDGE)
            allowed_name(more.judge, "judge", self.chat.operator.limits.models)
        return more


def named_choices(side: Side) -> list[tuple[str, str]]:
    """The sets that a side can be read from, as labels with their licences and names; what comes along first."""
    from steering.named_sets import SETS

    named = [(f"{one.title} ({one.licence.split(',')[0]})", one.name) for one in SETS.values() if side in one.sides]
    return [(words.COME_ALONG, HELD_OUT), *named]


__all__ = ["EvaluateHandlers", "named_choices"]
