"""The page: its components with their handlers. What the handlers do is in `chat`, `make` and `engine`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

from steering.contrast import preset_names
from steering.ui.api import steer_endpoint
from steering.ui.blind import build_blind_tab
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.engine import Engine
from steering.ui.ideas import example_of, questions_of, title_of
from steering.ui.inputs import Page
from steering.ui.layout import SETTINGS, Components, build_layout
from steering.ui.make import build_make_tab
from steering.ui.model_choice import ModelChoice
from steering.ui.operator import Operator
from steering.ui.scope import idea_line, state_line
from steering.ui.session import Session, Sessions

logger = logging.getLogger(__name__)


def build_page(engine: Engine, models: ModelChoice, operator: Operator) -> gr.Blocks:
    """The whole page for one engine; the engine may still be loading its model."""
    chat = Chat(engine, operator)
    sessions = Sessions(FIRST_IDEA, operator.limits.sessions)
    operator.visitors = lambda: len(sessions)
    first = chat.strength(Session("", FIRST_IDEA))
    with Page(fill_width=True, title="Steering playground", delete_cache=(3600, 3600)) as page:
        components = build_layout(
            ideas=chat.choices(Session("", FIRST_IDEA)),
            idea=FIRST_IDEA,
            question=example_of(FIRST_IDEA),
            examples=questions_of(FIRST_IDEA),
            models=models.choices(),
            models_left_out=models.left_out(),
            model=models.first,
            strength=first.start,
            strength_maximum=first.end,
            strength_step=first.step,
            log=idea_line(
                title_of(FIRST_IDEA, Session("", FIRST_IDEA)), sweet=first.sweet, end=first.end, dose=first.dose
            )
            + _loading_line(engine),
            limits=operator.limits,
        )
        make = build_make_tab(components, engine, sessions, operator.limits)
        build_blind_tab(components, chat, sessions)
        _Handlers(chat, sessions, components, models).attach(make.use)
        gr.api(steer_endpoint(chat), api_name="steer", concurrency_limit=operator.limits.visitors)

        def leave(request: gr.Request) -> None:
            sessions.close(request)

        page.unload(leave)
    return page


def _loading_line(engine: Engine) -> str:
    loading = engine.loading
    if loading is None:
        return state_line("idle")
    if loading.error:
        return state_line("error", loading.error)
    return state_line("loading", button=f"Loading… {loading.percent}%")


class _Handlers:
    """Ties the components to the chat; every function here finds its visitor's session by the request."""

    def __init__(self, chat: Chat, sessions: Sessions, components: Components, models: ModelChoice) -> None:
        self.chat = chat
        self.sessions = sessions
        self.parts = components
        self.models = models
        self.panes = [*components.chats.values(), components.scope]
        self.settings = [components.settings[name] for name in SETTINGS]

    def attach(self, use: gr.Button) -> None:
        parts = self.parts
        asked = gr.on(
            [parts.ask.click, parts.message.submit],
            self.accept,
            [parts.message],
            [parts.message],
            **_QUICK,
        )
        again = parts.retry.click(self.accept_again, None, None, **_QUICK)
        for accepted in (asked, again):
            accepted.then(
                self.respond,
                [parts.strength, *self.settings],
                self.panes,
                show_progress="hidden",
                concurrency_limit=self.chat.operator.limits.visitors,
                api_visibility="private",
            ).then(self.give_back, [parts.message], [parts.message], **_QUICK)
        parts.stop.click(self.stop, None, None, **_QUICK)
        gr.on([parts.undo.click], self.undo, None, self.panes, **_QUICK)
        parts.edit.click(self.edit, [parts.message], [*self.panes, parts.message], **_QUICK)
        parts.clear.click(self.clear, None, self.panes, **_QUICK)
        parts.idea.input(self.choose, [parts.idea, parts.message], self._chosen, **_QUICK)
        parts.strength.change(self.turn_dial, [parts.strength], None, **(_QUICK | {"trigger_mode": "always_last"}))
        parts.settings["third_answer"].change(self.opposite, [parts.settings["third_answer"]], [parts.scope], **_QUICK)
        for button in parts.examples:
            button.click(lambda question: question, [button], [parts.message], **_QUICK)
        parts.reset_settings.click(lambda: list(SETTINGS.values()), None, self.settings, **_QUICK)
        parts.model.input(self.exchange, [parts.model], [parts.model_status], **_QUICK)
        use.click(self.use_own, [parts.message], [*self._chosen, parts.idea, parts.tabs], **_QUICK)
        timer = gr.Timer(0.5)
        told = [parts.scope, parts.model_status, timer, parts.model, parts.idea, parts.settings["thinking"]]
        timer.tick(self.watch, None, told, **_QUICK)

    @property
    def _chosen(self) -> list[Any]:
        return [*self.panes, self.parts.strength, self.parts.message, *self.parts.examples]

    # ------------------------------------------------------------------ asking

    def accept(self, message: str, request: gr.Request) -> str:
        session = self.sessions.of(request)
        if refusal := self.chat.operator.admit(request):
            self.chat.refuse(session, refusal)
            return message
        return self.chat.accept(session, message)

    def accept_again(self, request: gr.Request) -> None:
        session = self.sessions.of(request)
        if refusal := self.chat.operator.admit(request):
            self.chat.refuse(session, refusal)
        else:
            self.chat.accept_again(session)

    def respond(self, request: gr.Request, strength: float, *settings: Any) -> Iterator[Any]:
        named = dict(zip(SETTINGS, settings, strict=True))
        yield from self.chat.respond(self.sessions.of(request), strength, named)

    def give_back(self, message: str, request: gr.Request) -> Any:
        """A question whose answer failed goes back to the box, unless something else was typed there."""
        session = self.sessions.of(request)
        question, session.unanswered = session.unanswered, ""
        return gr.skip() if message or not question else question

    def stop(self, request: gr.Request) -> None:
        self.sessions.of(request).stop()

    # ------------------------------------------------------------------ going back

    def undo(self, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.undo(session)
        return self.chat.view(session)

    def edit(self, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        question = self.chat.undo(session)
        return *self.chat.view(session), message if question is None else question

    def clear(self, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.clear(session)
        return self.chat.view(session)

    # ------------------------------------------------------------------ choosing

    def choose(self, idea: str, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.choose(session, idea)
        return self._chosen_values(session, message)

    def use_own(self, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        direction = session.making.direction
        if direction is None:
            return [gr.skip()] * (len(self._chosen) + 2)
        presets = ((name, self.chat.engine.known_direction(name)) for name in preset_names())
        known = next((key for key, one in (*session.own.items(), *presets) if one is direction), None)
        self.chat.choose(session, known or session.add_own(direction))
        idea = gr.update(choices=self.chat.choices(session), value=session.idea)
        return [*self._chosen_values(session, message), idea, gr.Tabs(selected="chat")]

    def _chosen_values(self, session: Session, message: str) -> list[Any]:
        strength = self.chat.strength(session)
        return [
            *self.chat.view(session),
            gr.update(maximum=strength.end, value=strength.start, step=strength.step),
            self.chat.question_for(session, message),
            *self.chat.questions(session),
        ]

    def opposite(self, third_answer: str, request: gr.Request) -> str:
        session = self.sessions.of(request)
        self.chat.opposite(session, third_answer)
        return session.log

    def turn_dial(self, strength: float, request: gr.Request) -> None:
        self.chat.turn_dial(self.sessions.of(request), strength)

    # ------------------------------------------------------------------ the model

    def exchange(self, model: str) -> str:
        return self.models.exchange(model)

    def watch(self, request: gr.Request) -> list[Any]:
        """Tell a page how far its model is; often while one is on its way, seldom otherwise."""
        session, engine = self.sessions.of(request), self.chat.engine
        loading = engine.loading
        on_its_way = loading is not None and not loading.error
        words = engine.state_words
        log = gr.skip()
        if engine.model is None and not session.is_busy:
            session.log = (session.log or self.chat.names_line(session)) + _loading_line(engine)
            log = session.log
        arrived = engine.model is not None and session.model_seen != (engine.model.name, engine.model.revision)
        model = idea = thinking = gr.skip()
        if arrived:
            first_time = session.model_seen == ("", "")
            words = " ".join(part for part in (self.chat.put_aside(session), words) if part)
            session.words = words
            model = engine.model.name if engine.model else gr.skip()
            idea = gr.update(choices=self.chat.choices(session), value=session.idea)
            thinking = gr.update(visible=bool(engine.model and engine.model.can_think))
            if not session.is_busy:
                if first_time:
                    session.log = self.chat.rest_log(session)
                log = session.log
        elif loading is not None and loading.error:
            if engine.model is not None and session.refused is not loading:
                session.refused = loading  # the list shows again what is in use
                model = engine.model.name
        elif session.words and not on_its_way:
            words = session.words
        return [log, words, gr.Timer(0.5 if on_its_way else 8), model, idea, thinking]


_QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


__all__ = ["build_page"]
