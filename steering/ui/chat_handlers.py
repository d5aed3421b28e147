"""Ties the Chat tab's components to the chat; every function finds its visitor's session by the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.contrast import preset_names
from steering.ui.carried import Linked, as_json, as_markdown, link_address, link_query, read_link
from steering.ui.chat import Chat
from steering.ui.chat_view import loading_line
from steering.ui.columns import BOTH
from steering.ui.conversations import Turn
from steering.ui.ideas import is_own, title_of
from steering.ui.layout import COPY_LINK, COPY_MARKDOWN, SAVE_RUN, Components
from steering.ui.model_choice import ModelChoice
from steering.ui.scope import likeliest_line
from steering.ui.session import Session, Sessions
from steering.ui.settings import SETTINGS

if TYPE_CHECKING:
    from steering.directions import Direction

QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
NOT_HERE = "The link names an idea that is not on this page; “{}” stands here instead."


class ChatHandlers:
    """What happens when something on the Chat tab or in the settings is used."""

    def __init__(self, chat: Chat, sessions: Sessions, components: Components, models: ModelChoice) -> None:
        self.chat = chat
        self.sessions = sessions
        self.parts = components
        self.models = models
        self.panes = [*components.chats, components.scope]
        self.settings = [components.settings[name] for name in SETTINGS]

    def attach(self, use: gr.Button, page: gr.Blocks) -> None:
        """Give every component its handler. ``use`` takes up the direction that was made."""
        parts = self.parts
        self.attach_talk()
        for choice, handler in ((parts.beside, self.compare), (parts.other_idea, self.choose_other)):
            self._answer(choice.input(handler, [choice], [*self.panes, *self._other], **QUICK))
        parts.idea.input(self.choose, [parts.idea, parts.message], self._chosen, **QUICK)
        newest = QUICK | {"trigger_mode": "always_last"}
        parts.strength.change(self.turn_dial, [parts.strength], None, **newest)
        parts.other_strength.change(self.turn_other_dial, [parts.other_strength], None, **newest)
        parts.settings["third_answer"].change(self.opposite, [parts.settings["third_answer"]], [parts.scope], **QUICK)
        parts.model.input(self.exchange, [parts.model], [parts.model_status], **QUICK)
        use.click(self.use_own, [parts.message], [*self.taken_up, parts.tabs], **QUICK)
        self._attach_watch(page)

    def attach_talk(self) -> None:
        """Give what asks, stops, goes back and is taken home its handler; nothing of this chooses anything."""
        parts = self.parts
        asked = gr.on(
            [parts.ask.click, parts.message.submit],
            self.accept,
            [parts.message],
            [parts.message],
            **QUICK,
        )
        self._answer(asked)
        self._answer(parts.retry.click(self.accept_again, None, None, **QUICK))
        parts.stop.click(self.stop, None, None, **QUICK)
        parts.undo.click(self.undo, None, self.panes, **QUICK)
        parts.edit.click(self.edit, [parts.message], [*self.panes, parts.message], **QUICK)
        parts.clear.click(self.clear, None, self.panes, **QUICK)
        for button, step in ((parts.branch_back, -1), (parts.branch_on, 1)):
            button.click(self._goer(step), None, self.panes, **QUICK)
        for button in parts.examples:
            button.click(lambda question: question, [button], [parts.message], **QUICK)
        parts.reset_settings.click(lambda: list(SETTINGS.values()), None, self.settings, **QUICK)
        # The page asks one at a time, and its next question must not be dropped because the last is just ending.
        parts.scope.select(self.look_at, None, [parts.looked], **QUICK, trigger_mode="multiple")
        self._attach_carried()

    def _answer(self, accepted: Any) -> None:
        """Have what was accepted answered."""
        accepted.then(
            self.respond,
            [self.parts.strength, *self.settings],
            self.panes,
            show_progress="hidden",
            concurrency_limit=self.chat.operator.limits.visitors,
            api_visibility="private",
        ).then(self.give_back, [self.parts.message], [self.parts.message], **QUICK)

    def _attach_carried(self) -> None:
        parts, settings = self.parts, self.parts.settings
        linked = [parts.message, parts.strength, settings["seed"], settings["temperature"]]
        parts.share.click(self.link, linked, [parts.carried], **QUICK).then(None, [parts.carried], None, js=COPY_LINK)
        parts.copy_markdown.click(self.markdown, None, [parts.carried], **QUICK).then(
            None, [parts.carried], None, js=COPY_MARKDOWN
        )
        parts.save_run.click(self.run_as_json, None, [parts.carried], **QUICK).then(
            None, [parts.carried], None, js=SAVE_RUN
        )

    def _attach_watch(self, page: gr.Blocks) -> None:
        parts, settings = self.parts, self.parts.settings
        timer = gr.Timer(0.5)
        thinking = [settings["thinking"], settings["thinking_acts"]]
        told = [parts.scope, parts.model_status, timer, parts.model, parts.in_use, parts.idea, *thinking]
        timer.tick(self.watch, None, told, **QUICK)
        arrived = [
            *self._chosen,
            parts.idea,
            parts.beside,
            parts.model_status,
            settings["seed"],
            settings["temperature"],
        ]
        page.load(self.arrive, [parts.message], arrived, **QUICK)

    @property
    def _other(self) -> list[Any]:
        return [self.parts.other_row, self.parts.other_idea, self.parts.other_strength]

    @property
    def _chosen(self) -> list[Any]:
        return [*self.panes, self.parts.strength, self.parts.message, *self.parts.examples, *self._other]

    # ------------------------------------------------------------------ asking

    def _admitted(self, request: gr.Request) -> Session | None:
        """The session of someone who may ask now; whoever may not is told why, and None comes."""
        session = self.sessions.of(request)
        if refusal := self.chat.operator.admit(request):
            self.chat.refuse(session, refusal)
            return None
        return session

    def accept(self, message: str, request: gr.Request) -> str:
        session = self._admitted(request)
        return message if session is None else self.chat.accept(session, message)

    def accept_again(self, request: gr.Request) -> None:
        session = self._admitted(request)
        if session is not None:
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

    def look_at(self, request: gr.Request, event: gr.EventData) -> str:
        """What each answer might have said at a token, for the inspector."""
        number = event.number if isinstance(event.number, int) else 0
        session = self.sessions.of(request)
        turns = self.chat.shown_turns(session)
        if not turns:
            return likeliest_line(number, [None] * len(session.columns))
        return self.likeliest_told(turns[-1], number, session.columns)

    def likeliest_told(self, turn: Turn, number: int, columns: tuple[str, ...]) -> str:
        """The line for the inspector, of a token of a turn."""
        return likeliest_line(number, [turn.likeliest_at(column, number) for column in columns])

    # ------------------------------------------------------------------ going back

    def undo(self, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.undo(session)
        return self.chat.view(session)

    def edit(self, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        question = self.chat.edit(session)
        return *self.chat.view(session), message if question is None else question

    def clear(self, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.clear(session)
        return self.chat.view(session)

    def _goer(self, step: int) -> Any:
        def go(request: gr.Request) -> Any:
            session = self.sessions.of(request)
            self.chat.go_branch(session, step)
            return self.chat.view(session)

        return go

    # ------------------------------------------------------------------ choosing

    def choose(self, idea: str, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.choose(session, idea)
        return self._chosen_values(session, message)

    def compare(self, beside: str, request: gr.Request) -> Any:
        session = self._admitted(request) or self.sessions.of(request)
        self.chat.compare(session, beside)
        return *self.chat.view(session), *self._other_values(session)

    def choose_other(self, idea: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        self.chat.choose_other(session, idea)
        self.chat.compare(session, "both")
        return *self.chat.view(session), *self._other_values(session)

    def use_own(self, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        direction = session.making.direction
        if direction is None:
            return [gr.skip()] * (len(self.taken_up) + 1)
        return [*self.take_up(session, direction, message), gr.Tabs(selected="chat")]

    @property
    def taken_up(self) -> list[Any]:
        """The components that `take_up` sets."""
        return [*self._chosen, self.parts.idea]

    def take_up(self, session: Session, direction: Direction, message: str) -> list[Any]:
        """Choose a direction as the idea of the chat, as the visitor's own if it is none of those there."""
        presets = ((name, self.chat.engine.known_direction(name)) for name in preset_names())
        known = next((key for key, one in (*session.own.items(), *presets) if one is direction), None)
        self.chat.choose(session, known or session.add_own(direction))
        idea = gr.update(choices=self.chat.choices(session), value=session.idea)
        return [*self._chosen_values(session, message), idea]

    def _chosen_values(self, session: Session, message: str) -> list[Any]:
        strength = self.chat.strength(session)
        return [
            *self.chat.view(session),
            gr.update(maximum=strength.end, value=strength.start, step=strength.step),
            self.chat.question_for(session, message),
            *self.chat.questions(session),
            *self._other_values(session),
        ]

    def _other_values(self, session: Session) -> list[Any]:
        """The row of the second idea: there only while two act at once."""
        if BOTH not in session.columns:
            return [gr.update(visible=False), gr.skip(), gr.skip()]
        idea = self.chat.other_idea(session)
        if idea != session.other:
            self.chat.choose_other(session, idea)
        range_ = self.chat.strength(session, idea)
        return [
            gr.update(visible=True),
            gr.update(choices=self.chat.other_choices(session), value=idea),
            gr.update(maximum=range_.end, value=session.other_strength, step=range_.step),
        ]

    def opposite(self, third_answer: str, request: gr.Request) -> str:
        session = self.sessions.of(request)
        self.chat.opposite(session, third_answer)
        return session.log

    def turn_dial(self, strength: float, request: gr.Request) -> None:
        self.chat.turn_dial(self.sessions.of(request), strength)

    def turn_other_dial(self, strength: float, request: gr.Request) -> None:
        self.chat.turn_other_dial(self.sessions.of(request), strength)

    # ------------------------------------------------------------------ taking home

    def link(self, message: str, strength: float, seed: float, temperature: float, request: gr.Request) -> str:
        """The link to what is set: the question in the box, or else the last one that was asked."""
        session = self.sessions.of(request)
        turns = self.chat.shown_turns(session)
        own, both = is_own(session.idea), BOTH in session.columns
        model = self.chat.engine.model
        other = self.chat.other_idea(session)
        query = link_query(
            Linked(
                idea=None if own else session.idea,
                strength=None if own else strength,
                seed=int(seed or 0) or None,
                model=model.name if model and model.name != self.models.first else None,
                question=message.strip() or (turns[-1].question if turns else None),
                beside=session.beside if session.beside != "three" else None,
                other=other if both and not is_own(other) else None,
                other_strength=session.other_strength if both and not is_own(other) else None,
                temperature=temperature or None,
            )
        )
        return f"{link_address()}?{query}"

    def arrive(self, message: str, request: gr.Request) -> Any:
        """A page was opened, perhaps with a link: set what it says."""
        session = self.sessions.of(request)
        linked = read_link(dict(request.query_params))
        if linked == Linked():
            session.log = self.chat.rest_log(session) + loading_line(self.chat.engine.loading)
            return [gr.skip()] * (len(self._chosen) + 5)
        ideas = [key for _, key in self.chat.choices(session)]
        if linked.idea in ideas:
            session.idea = str(linked.idea)
        session.beside = linked.beside or session.beside
        if linked.other in ideas and linked.other != session.idea:
            self.chat.choose_other(session, str(linked.other))
            session.other_strength = linked.other_strength or session.other_strength
        if linked.idea not in (None, *ideas):
            session.notice = NOT_HERE.format(title_of(session.idea, session))
        session.log = self.chat.rest_log(session) + loading_line(self.chat.engine.loading, session.notice)
        values = self._chosen_values(session, message)
        if linked.strength is not None and linked.idea == session.idea:
            range_ = self.chat.strength(session)
            value = max(0.0, min(linked.strength, range_.end))
            values[len(self.panes)] = gr.update(maximum=range_.end, value=value, step=range_.step)
        if linked.question:
            values[len(self.panes) + 1] = linked.question
        words = self.models.exchange(linked.model) if linked.model else gr.skip()
        return [
            *values,
            gr.update(value=session.idea),
            gr.update(value=session.beside),
            words,
            gr.skip() if linked.seed is None else linked.seed,
            gr.skip() if linked.temperature is None else min(1.5, max(0.0, linked.temperature)),
        ]

    def markdown(self, request: gr.Request) -> str:
        session = self.sessions.of(request)
        model = self.chat.engine.model
        turns = self.chat.shown_turns(session)
        return as_markdown(turns, session.columns, self.chat.heads(session), model.label if model else "")

    def run_as_json(self, request: gr.Request) -> str:
        session = self.sessions.of(request)
        model = self.chat.engine.model
        described = {"name": model.name, "revision": model.revision, "label": model.label} if model else {}
        return as_json(self.chat.shown_turns(session), title_of(session.idea, session), described)

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
            session.log = (session.log or self.chat.rest_log(session)) + loading_line(loading)
            log = session.log
        arrived = engine.model is not None and session.model_seen != (engine.model.name, engine.model.revision)
        model = in_use = idea = thinking = gr.skip()
        if arrived:
            first_time = session.model_seen == ("", "")
            words = " ".join(part for part in (self.chat.put_aside(session), words) if part)
            session.words = words
            model = engine.model.name if engine.model else gr.skip()
            in_use = "@".join(session.model_seen)
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
        return [log, words, gr.Timer(0.5 if on_its_way else 8), model, in_use, idea, thinking, thinking]
