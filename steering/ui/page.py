"""The page: its components with their handlers. What the handlers do is in `chat`, `make` and `engine`."""

from __future__ import annotations

import gradio as gr

from steering.ui.api import add_endpoints
from steering.ui.blind import build_blind_tab
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.chat_handlers import ChatHandlers
from steering.ui.chat_view import loading_line
from steering.ui.columns import BESIDE
from steering.ui.engine import Engine
from steering.ui.evaluate_tab import build_evaluate_tab
from steering.ui.explain_tab import build_explain_tab
from steering.ui.first_paint import Console, first_paint
from steering.ui.ideas import example_of, questions_of, title_of
from steering.ui.inputs import Page
from steering.ui.layout import build_layout
from steering.ui.make import build_make_tab
from steering.ui.model_choice import ModelChoice
from steering.ui.operator import Operator
from steering.ui.session import Session, Sessions
from steering.ui.take_home import build_home_tab


def build_page(engine: Engine, models: ModelChoice, operator: Operator) -> Page:
    """The whole page for one engine; the engine may still be loading its model."""
    chat = Chat(engine, operator)
    sessions = Sessions(FIRST_IDEA, operator.limits.sessions)
    operator.visitors = lambda: len(sessions)
    operator.forget_everyone = sessions.end_all
    nobody = Session("", FIRST_IDEA)
    first = chat.strength(nobody)
    with Page(fill_width=True, title="Steering playground", delete_cache=(3600, 3600)) as page:
        components = build_layout(
            ideas=chat.choices(nobody),
            idea=FIRST_IDEA,
            question=example_of(FIRST_IDEA),
            examples=questions_of(FIRST_IDEA),
            models=models.choices(),
            models_left_out=models.left_out(),
            model=models.first,
            strength=first.start,
            strength_maximum=first.end,
            strength_step=first.step,
            besides=BESIDE,
            answers=chat.view(nobody)[:-1],
            log=chat.rest_log(nobody) + loading_line(engine.loading),
            limits=operator.limits,
        )
        page.visitors = sessions
        page.first_paint = first_paint(
            Console(
                ideas=[label for label, _ in chat.choices(nobody)],
                idea=title_of(FIRST_IDEA, nobody),
                question=example_of(FIRST_IDEA),
                examples=questions_of(FIRST_IDEA),
                besides=[label for label, _ in BESIDE],
                strength=first.start,
            ),
            chat.rest_log(nobody),
        )
        make = build_make_tab(components, engine, sessions, operator.limits)
        build_blind_tab(components, chat, sessions)
        handlers = ChatHandlers(chat, sessions, components, models)
        build_explain_tab(components, chat, sessions)
        build_evaluate_tab(components, chat, sessions)
        build_home_tab(components, chat, sessions, handlers)
        handlers.attach(make.use, page)
        add_endpoints(engine, operator)

        def leave(request: gr.Request) -> None:
            sessions.close(request)
            engine.forget(request.session_hash or "")

        page.unload(leave)
    return page


__all__ = ["build_page"]
