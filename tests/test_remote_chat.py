"""The page of the remote mode without a browser: what is on it, what a turn leaves, and what is taken home."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from chat_server import Answer, ChatServer, chat_server, endless, words

from steering.ui.columns import THREE
from steering.ui.operator import Operator
from steering.ui.remote_chat import NO_PLOT, SERVED, RemoteChat
from steering.ui.remote_endpoints import Endpoint
from steering.ui.remote_engine import RemoteEngine
from steering.ui.remote_page import NO_LIKELIEST, RemoteHandlers, build_remote_page
from steering.ui.scope import parse
from steering.ui.session import Session, Sessions
from steering.ui.settings import SETTINGS
from steering.ui.status import status

MARKUP = "<img src=x onerror=alert(1)>"


class Running:
    """A chat over three servers."""

    def __init__(self, servers: list[ChatServer], models: tuple[str, str, str]) -> None:
        endpoints = [Endpoint(c, s.url, m) for c, s, m in zip(THREE, servers, models, strict=True)]
        self.servers = servers
        self.engine = RemoteEngine(endpoints)
        self.engine.watch.begin()
        end = time.monotonic() + 10
        while any(seen.answers is None for seen in self.engine.watch.all_seen):
            assert time.monotonic() < end
            time.sleep(0.01)
        self.chat = RemoteChat(self.engine, Operator())
        self.session = Session("somebody", SERVED)

    def ask(self, question: str, **settings: Any) -> Any:
        self.chat.accept(self.session, question)
        *_, last = self.chat.respond(self.session, 1.0, SETTINGS | settings)
        return last


@pytest.fixture
def run() -> Iterator[Any]:
    with ExitStack() as running:

        def start(*answers: Answer, models: tuple[str, str, str] = ("a", "/models/b", "c")) -> Running:
            return Running([running.enter_context(chat_server(answer)) for answer in answers], models)

        yield start


def test_a_turn_stands_in_three_panes_without_a_plot(run: Any) -> None:
    chat = run(words("one two"), words("one three"), words(MARKUP))
    *panes, log = chat.ask("Well?", seed=3, temperature=0.5)
    assert [pane[-1]["content"] for pane in panes[:2]] == ["one two", "one three"]
    assert "<img" not in panes[2][-1]["content"]
    assert "&lt;img" in panes[2][-1]["content"]
    assert panes[3:] == [[], []]
    columns = next(content for kind, content in parse(log) if kind == "I")
    assert columns["no_plot"] == NO_PLOT
    assert [content["state"] for kind, content in parse(log) if kind == "S"][-1] == "idle"
    assert chat.servers[0].asked[0]["repetition_penalty"] == SETTINGS["repetition_penalty"]
    assert [chat.servers[1].asked[0][name] for name in ("seed", "temperature", "model")] == [3, 0.5, "/models/b"]
    chat.ask("And then?")
    assert [m["content"] for m in chat.servers[1].asked[1]["messages"]] == ["Well?", "one three", "And then?"]


def test_a_failure_is_said_beside_the_answer_and_not_taken_for_one(run: Any) -> None:
    chat = run(words("one"), words("two"), lambda talk: talk.refuse(500, {"error": MARKUP}))
    *panes, log = chat.ask("Well?")
    assert [message["role"] for message in panes[2]] == ["user", "assistant"]
    assert panes[2][1]["metadata"]["title"] == "No answer"
    assert "HTTP 500" in panes[2][1]["content"]
    assert "<img" not in panes[2][1]["content"]
    assert "One answer is not whole" in log
    assert chat.session.conversation(SERVED).turns[0].replies == ["one", "two", ""]


def test_when_nothing_comes_the_question_is_given_back(run: Any) -> None:
    refuse: Answer = lambda talk: talk.refuse(500, None)  # noqa: E731
    chat = run(refuse, refuse, refuse)
    *_, log = chat.ask("Well?")
    assert chat.session.unanswered == "Well?"
    assert [content for kind, content in parse(log) if kind == "S"][-1]["state"] == "error"


def test_a_stopped_turn_keeps_what_was_written(run: Any) -> None:
    chat = run(endless(), endless(), endless())
    chat.chat.accept(chat.session, "Well?")
    for *panes, _ in chat.chat.respond(chat.session, 1.0, SETTINGS | {"max_new_tokens": 500}):
        if len(panes[0][-1]["content"]) > 20:
            chat.session.stop()
    assert all(server.closed.wait(2) for server in chat.servers)
    assert all(chat.session.conversation(SERVED).turns[0].replies)
    assert chat.session.log.count('"stopped"') == 1


def test_what_is_taken_home_names_models_and_no_address(run: Any) -> None:
    chat = run(words("one"), words("two"), words("three"))
    chat.ask("Well?", temperature=0.5)
    sessions = Sessions(SERVED)
    sessions._sessions["somebody"] = chat.session
    components: Any = SimpleNamespace(chats=[], scope=None, settings=dict.fromkeys(SETTINGS))
    handlers = RemoteHandlers(chat.chat, sessions, components, None)  # type: ignore[arg-type]
    asks: Any = SimpleNamespace(session_hash="somebody", query_params={})
    run_as_json, markdown = handlers.run_as_json(asks), handlers.markdown(asks)
    told = json.loads(run_as_json)
    assert told["model"] == {"baseline": "a", "ablated": "b", "added": "c"}
    assert told["turns"][0]["unit"] == "piece"
    assert told["turns"][0]["settings"]["models"] == told["model"]
    assert "removal" not in told["turns"][0]["settings"]
    assert [answer["text"] for answer in told["turns"][0]["answers"]] == ["one", "two", "three"]
    assert "*Taken out*\n\n> two" in markdown
    assert "a · b · c" in markdown
    for text in (run_as_json, markdown):
        assert "127.0.0.1" not in text
        assert "/models" not in text
    assert handlers.link("", 1.0, 4, 0.5, asks) == "?seed=4&q=Well%3F&t=0.5"
    asks.query_params = {"q": "Linked?", "seed": "7", "idea": "poetic", "t": "9"}
    assert handlers.arrive("", asks)[-3:] == ["Linked?", 7, 1.5]
    event: Any = SimpleNamespace(number=1)
    assert json.loads(handlers.look_at(asks, event).split("|")[2])["message"] == NO_LIKELIEST


def test_the_page_leaves_out_what_cannot_be_done(run: Any) -> None:
    chat = run(words("x"), words("x"), words("x"))
    page = build_remote_page(chat.engine, Operator())
    shown = {c.elem_id: getattr(c, "visible", True) for c in page.blocks.values() if getattr(c, "elem_id", None)}
    gone = ("tab-make", "tab-blind", "idea", "strength", "beside", "idea-card", "model", "removal", "addition")
    assert not any(shown[name] for name in gone)
    assert all(shown[name] for name in ("message", "ask", "served", "served-why", "system-prompt", "seed"))
    assert page.first_paint == ""


@pytest.mark.parametrize("forged", [{"temperature": float("nan")}, {"top_p": "1"}, {"repetition_penalty": None}])
def test_a_forged_setting_asks_no_server(run: Any, forged: dict[str, Any]) -> None:
    chat = run(words("x"), words("x"), words("x"))
    *_, log = chat.ask("Well?", **forged)
    assert "must be a number" in log
    assert not any(server.asked for server in chat.servers)


def test_half_a_surrogate_in_a_question_is_no_fault(run: Any) -> None:
    chat = run(words("x"), words("y"), words("z"))
    *panes, _ = chat.ask("Well \ud800?")
    assert [pane[-1]["content"] for pane in panes[:3]] == ["x", "y", "z"]


def test_models_names_are_told_as_texts(run: Any) -> None:
    chat = run(words("x"), words("x"), words("x"), models=(MARKUP, "b", "c"))
    assert json.loads(chat.chat.endpoints_told())[0]["model"] == MARKUP
    assert MARKUP not in str(chat.chat.view(chat.session))


def test_the_status_page_counts_pieces_and_servers(run: Any) -> None:
    chat = run(words("one two"), words("x"), words("x"))
    chat.ask("Well?")
    facts = status(chat.engine, chat.chat.operator, 0)
    assert facts["servers_answering"] == 3
    assert facts["model"] == "a · b · c"
    assert facts["tokens_per_second"] > 0
