"""What the controls of the “Evaluate” tab do; every function finds its visitor's session by the request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui import evaluate_markup as markup
from steering.ui import evaluate_words as words
from steering.ui.chat import Chat
from steering.ui.errands import Errands, Told, Updates, buttons_at_rest, buttons_running
from steering.ui.evaluate_found import Evaluated, ToEvaluate
from steering.ui.evaluate_work import evaluate
from steering.ui.ideas import prompt_of, title_of
from steering.ui.session import Session, Sessions
from steering.ui.turn import checked_coefficient
from steering.ui.worker import Reports


class EvaluateHandlers:
    """The handlers of one page."""

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

    def show(self, request: gr.Request) -> str:
        """The tab was opened, or a model came into use: the heading."""
        session = self.sessions.of(request)
        model = self.engine.model
        title = title_of(session.idea, session)
        return markup.what_html(title, model.label if model else "", session.evaluating.shown)

    def evaluate(
        self, count: Any, length: Any, which: Any, strength: float | None, request: gr.Request
    ) -> Iterator[Updates]:
        """Evaluate: the bar, the two buttons, then heading, figures, the ones before beside them."""

        def begin(session: Session, _watch: Any) -> Reports:
            return self.engine.worker.submit(
                partial(evaluate, self.engine, self._asked(session, count, length, which, strength))
            )

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
            which == words.BOTH,
        )


__all__ = ["EvaluateHandlers"]
