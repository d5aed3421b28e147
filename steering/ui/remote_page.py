"""The page of the remote mode: the usual one, with its servers, and without what only a model in here can do."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from steering.ui.carried import Linked, as_json, as_markdown, link_address, link_query, read_link
from steering.ui.chat_handlers import QUICK, ChatHandlers
from steering.ui.columns import BESIDE
from steering.ui.conversations import Likeliest, Turn
from steering.ui.ideas import GENERAL_QUESTIONS
from steering.ui.inputs import Page
from steering.ui.layout import Components, build_layout, page_options
from steering.ui.markup import swatch
from steering.ui.model_choice import ModelChoice
from steering.ui.operator import Operator
from steering.ui.pieces import fixed
from steering.ui.remote_chat import HEADS, NO_LIKELIEST, SERVED, RemoteChat
from steering.ui.remote_engine import RemoteEngine
from steering.ui.scope import ASSETS, likeliest_line
from steering.ui.session import Session, Sessions

WHY = (
    "Three servers answer. How strongly the idea acts was decided when their checkpoints were written, so there is no "
    "slider."
)
PENALTY = "1 is none; small models loop without. These servers count the words of the question too."
NO_PENALTY = "Not sent: not all of these servers are known to take one."
NOT_THERE = ("third_answer", "removal", "addition", "thinking", "thinking_acts")  # settings


def build_remote_page(engine: RemoteEngine, operator: Operator) -> Page:
    """The whole page for three servers, whether or not they answer yet."""
    chat = RemoteChat(engine, operator)
    sessions = Sessions(SERVED, operator.limits.sessions)
    operator.visitors = lambda: len(sessions)
    nobody = Session("", SERVED)
    with Page(fill_width=True, title="Steering playground", delete_cache=(3600, 3600)) as page:
        components = build_layout(
            ideas=chat.choices(nobody),
            idea=SERVED,
            question=GENERAL_QUESTIONS[0],
            examples=GENERAL_QUESTIONS,
            models=[("Served elsewhere", SERVED)],
            models_left_out=[],
            model=SERVED,
            strength=1.0,
            strength_maximum=1.0,
            besides=BESIDE[:1],
            answers=chat.view(nobody)[:-1],
            log=chat.rest_log(nobody),
            limits=operator.limits,
            foot=_FOOT,
        )
        page.visitors = sessions
        _leave_out(components)
        served = _served(components, chat)
        RemoteHandlers(chat, sessions, components, served).attach_all(page)

        def leave(request: gr.Request) -> None:
            sessions.close(request)

        page.unload(leave)
    return page


def remote_page_options() -> dict[str, Any]:
    """As `layout.page_options`, with the looks of what only this page has."""
    options = page_options()
    style = (ASSETS / "remote.css").read_text(encoding="utf-8")
    return options | {"head": f"{options['head']}<style>\n{style}\n</style>\n"}


def _leave_out(components: Components) -> None:
    """What nobody can use here is not on the page: not to be seen, and not to be found by a keyboard either."""
    settings = [components.settings[name] for name in NOT_THERE]
    controls = (components.idea, components.strength, components.beside, components.idea_card, components.model)
    tabs = (components.make_tab, components.blind_tab, components.explain_tab)
    more_tabs = (components.evaluate_tab, components.home_tab)
    for part in (*tabs, *more_tabs, *controls, *settings):
        part.visible = False


def _served(components: Components, chat: RemoteChat) -> gr.HTML:
    """Which servers answer, where the strength would be; and why it is not."""
    with components.idea.parent:
        fixed(f'<p class="why">{html.escape(WHY)}</p>', "served-why")
    with components.strength.parent:
        return gr.HTML(
            chat.endpoints_told(),
            html_template=_SERVED,
            js_on_load=_SERVED_SCRIPT,
            apply_default_css=False,
            elem_id="served",
        )


_FOOT = '<footer class="foot"><span>Models make mistakes, in all three answers.</span></footer>'

_SERVED = (
    '<h2>Served by</h2><ul role="list">'
    + "".join(
        f'<li data-state="looking">{swatch(look)}<b>{html.escape(name)}</b><span class="model"></span>'
        '<span class="where"><i aria-hidden="true"></i><span class="words"></span></span></li>'
        for name, look in zip(HEADS.names, HEADS.looks, strict=True)
    )
    + "</ul>"
)

# Names of models are texts of others, so that they are written as such.
_SERVED_SCRIPT = """
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = () => JSON.parse(props.value || '[]').forEach((row, place) => {
  const item = element.querySelectorAll('li')[place];
  item.dataset.state = row.state;
  put(item.querySelector('.model'), row.model || 'its first model');
  item.querySelector('.model').title = row.model;
  put(item.querySelector('.words'), `${row.address} · ${row.words}`);
  item.querySelector('.words').title = `${row.address}: ${row.words}`;
});
watch('value', show);
show();
"""


class RemoteHandlers(ChatHandlers):
    """What happens when something on this page is used."""

    chat: RemoteChat

    def __init__(self, chat: RemoteChat, sessions: Sessions, components: Components, served: gr.HTML) -> None:
        super().__init__(chat, sessions, components, _NoChoice())
        self.served = served

    def attach_all(self, page: gr.Blocks) -> None:
        """Give every component that is there its handler."""
        parts, settings = self.parts, self.parts.settings
        self.attach_talk()
        timer = gr.Timer(0.5)
        news = [parts.scope, self.served, parts.model_status, settings["repetition_penalty"], timer]
        timer.tick(self.look_again, None, news, **QUICK)
        arrived = [*self.panes, parts.message, settings["seed"], settings["temperature"]]
        page.load(self.arrive, [parts.message], arrived, **QUICK)

    def look_again(self, request: gr.Request) -> list[Any]:
        """Tell a page which servers answer, when that changed."""
        session, engine = self.sessions.of(request), self.chat.engine
        told = self.chat.endpoints_told()
        every = gr.Timer(0.5 if any(seen.answers is None for seen in engine.watch.all_seen) else 3)
        if told == session.words:
            return [gr.skip(), gr.skip(), gr.skip(), gr.skip(), every]
        session.words = told
        log = gr.skip()
        if not session.is_busy and not self.chat.shown_turns(session):
            log = session.log = self.chat.rest_log(session)
        takes = engine.take_penalty
        penalty = gr.update(interactive=takes, info=PENALTY if takes else NO_PENALTY)
        return [log, told, engine.state_words, penalty, every]

    def likeliest_told(self, turn: Turn, number: int, columns: tuple[str, ...]) -> str:
        """What each answer might have said, where the servers said it."""
        if not turn.likeliest:
            return likeliest_line(number, [], message=NO_LIKELIEST)
        found: list[Likeliest | None] = [turn.likeliest_at(column, number) for column in columns]
        for place in range(len(found)):
            if found[place] is None and f"\nT|{number}|{place}|" in turn.log:
                found[place] = []  # written, but by a server that says no more
        return likeliest_line(number, found)

    # ------------------------------------------------------------------ taking home

    def link(self, message: str, strength: float, seed: float, temperature: float, request: gr.Request) -> str:
        """The link to the question and its dice."""
        turns = self.chat.shown_turns(self.sessions.of(request))
        question = (message or "").strip() or (turns[-1].question if turns else None)
        linked = Linked(question=question, seed=int(seed or 0) or None, temperature=temperature or None)
        return f"{link_address()}?{link_query(linked)}"

    def arrive(self, message: str, request: gr.Request) -> Any:
        session = self.sessions.of(request)
        linked = read_link(dict(request.query_params))
        session.log = self.chat.rest_log(session)
        return [
            *self.chat.view(session),
            linked.question or gr.skip(),
            gr.skip() if linked.seed is None else linked.seed,
            gr.skip() if linked.temperature is None else min(1.5, max(0.0, linked.temperature)),
        ]

    def markdown(self, request: gr.Request) -> str:
        session = self.sessions.of(request)
        models = " · ".join(self.chat.engine.models.values())
        return as_markdown(self.chat.shown_turns(session), session.columns, self.chat.heads(session), models)

    def run_as_json(self, request: gr.Request) -> str:
        turns = self.chat.shown_turns(self.sessions.of(request))
        return as_json(turns, "", self.chat.engine.models)


class _NoChoice(ModelChoice):
    """There is no model to choose: its list is not on the page."""

    def __init__(self) -> None:
        self.first = SERVED
