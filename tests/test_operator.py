"""What the person who runs the playground sees and decides: the log, the counts, the status, and the end."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from steering.ui.activity import Activity
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.engine import Engine, ModelOptions
from steering.ui.journal import error_in_words, keep_journal, note
from steering.ui.limits import Limits
from steering.ui.operator import ENDING, Operator, on_signals
from steering.ui.scope import parse
from steering.ui.session import Session
from steering.ui.settings import SETTINGS
from steering.ui.status import routes, status

SECRET = "marmalade Zanzibar"


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Written(io.StringIO):
    """What came to standard error, and the stream that the program has in its place."""

    printing: Any = None


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """What the program writes to standard error in the format ``json``."""
    written = Written()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    monkeypatch.setattr(sys, "stderr", written)
    keep_journal("json")
    written.printing = sys.stderr
    yield written
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def request(session: str = "a visitor", address: str = "1.1.1.1") -> Any:
    return SimpleNamespace(session_hash=session, client=SimpleNamespace(host=address), headers={})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def engine(family_folder: Callable[[str], Path]) -> Engine:
    engine = Engine(ModelOptions(device="cpu", dtype="float32"))
    threads = torch.get_num_threads()
    assert engine.load(str(family_folder("qwen3")), "tiny")
    wait_for(lambda: engine.loading is None)
    torch.set_num_threads(threads)
    return engine


# ---------------------------------------------------------------- the log


def test_an_event_is_one_json_object_with_what_belongs_to_it(journal: Written) -> None:
    note("model loaded", model="Ångström", rows=3)
    (line,) = lines(journal)
    assert (line["event"], line["model"], line["rows"], line["level"]) == ("model loaded", "Ångström", 3, "info")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_whatever_else_is_written_comes_as_lines_of_json_too(journal: Written) -> None:
    logging.getLogger("somebody.else").warning("two\nlines")
    logging.getLogger("somebody.else").info("not worth a line")
    print("a library printed this", file=journal.printing)
    assert [(line["event"], line["message"]) for line in lines(journal)] == [
        ("log", "two\nlines"),
        ("printed", "a library printed this"),
    ]


def test_an_error_has_its_way_and_its_kind_but_no_words_of_a_visitor(journal: Written) -> None:
    try:
        json.loads(f"[{SECRET}]")
        int(SECRET)
    except ValueError:
        logging.getLogger("steering.ui.chat").exception("A turn failed")
    try:
        int(SECRET)
    except ValueError:
        traceback.print_exc(file=journal.printing)  # as Gradio does
    logged, *printed = lines(journal)
    assert (logged["event"], logged["message"]) == ("error", "A turn failed")
    assert "test_operator.py" in logged["traceback"]
    assert logged["traceback"].endswith("json.decoder.JSONDecodeError")
    assert printed[-1]["message"] == "ValueError"
    assert "marmalade" not in journal.getvalue()


def test_an_error_of_the_machine_keeps_its_message() -> None:
    assert error_in_words(OSError(28, "No space left on device")).endswith(
        "OSError: [Errno 28] No space left on device"
    )
    assert error_in_words(RuntimeError("shapes 2 and 3")).endswith("RuntimeError: shapes 2 and 3")
    assert error_in_words(UnicodeDecodeError("utf-8", b"x", 0, 1, SECRET)).endswith("UnicodeDecodeError")


def test_the_log_for_people_has_the_same_events(monkeypatch: pytest.MonkeyPatch, journal: Written) -> None:
    logging.getLogger().handlers = []
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    keep_journal("text")
    note("turn started", rows=3)
    try:
        int(SECRET)
    except ValueError:
        logging.getLogger("steering").exception("Failed")
    assert "turn started rows=3" in text.getvalue()
    assert "builtins.ValueError" in text.getvalue()
    assert "marmalade" not in text.getvalue()


def test_a_turn_leaves_its_numbers_in_the_log_and_none_of_its_words(engine: Engine, journal: Written) -> None:
    operator = Operator()
    chat, session = Chat(engine, operator), Session("secret session", FIRST_IDEA)
    assert chat.accept(session, f"What is {SECRET}?") == ""
    *_, view = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 8, "system_prompt": f"Say {SECRET}"})
    started, ended = lines(journal)
    assert started["event"] == "turn started"
    assert (ended["event"], ended["kind"], ended["rows"]) == ("turn ended", "chat", 3)
    assert ended["tokens"] == 24
    assert ended["seconds"] >= 0
    assert (ended["stopped"], ended["failed"]) == (False, False)
    assert started["session"] == ended["session"] == operator.activity.visitor("secret session")
    replies = [pane[1]["content"] for pane in view[:3]]
    words = {word for text in (SECRET, *replies) for word in re.findall(r"\w{4,}", text)}
    assert len(words) > 2
    for word in words | {"secret session"}:
        assert word not in journal.getvalue(), word


def test_a_turn_that_fails_says_so(engine: Engine, journal: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr("steering.ui.turn.TurnWriter.begin", broken)
    chat, session = Chat(engine, Operator()), Session("one", FIRST_IDEA)
    chat.accept(session, "What is rain?")
    list(chat.respond(session, 1.0, SETTINGS))
    _, error, ended = lines(journal)
    assert (error["event"], error["level"]) == ("error", "error")
    assert "in broken" in error["traceback"]
    assert ended["failed"] is True
    assert "marmalade" not in journal.getvalue()


# ---------------------------------------------------------------- the counts


def test_activity_counts_what_runs() -> None:
    clock = Clock()
    activity = Activity(clock)
    one, two = activity.turn_started("a"), activity.turn_started("b", rows=5, kind="steer")
    assert (activity.turns, activity.rows) == (2, 8)
    one.wrote(10)
    clock.now += 1
    one.wrote(30)
    two.wrote(30)
    clock.now += 1
    assert activity.tokens_per_second == pytest.approx(60 / 2)
    clock.now += 28
    assert activity.tokens_per_second == pytest.approx(60 / 30)
    one.ended()
    one.ended(stopped=True)
    assert (activity.turns, activity.rows) == (1, 5)
    clock.now += 61
    assert activity.tokens_per_second == 0
    two.ended()
    assert activity.wait_until_idle(0)


def test_a_visitor_is_a_hash_that_another_run_of_the_program_does_not_share() -> None:
    first, second = Activity(), Activity()
    assert first.visitor("a") == first.visitor("a") != first.visitor("b")
    assert first.visitor("a") != second.visitor("a")
    assert first.visitor("") == ""


# ---------------------------------------------------------------- who is let in


def test_who_asks_too_often_is_refused_and_noted(journal: Written) -> None:
    operator = Operator(Limits(session_burst=2))
    assert [operator.admit(request()) for _ in range(2)] == ["", ""]
    assert operator.admit(request()).startswith("You ask faster")
    assert operator.admit(request("another")) == ""
    assert operator.admit(None) == ""
    (line,) = lines(journal)
    assert (line["event"], line["why"]) == ("refused", "asks too often")
    assert "1.1.1.1" not in journal.getvalue()


def test_a_refusal_is_shown_and_leaves_a_reply_that_is_written_alone(engine: Engine) -> None:
    chat, session = Chat(engine, Operator()), Session("one", FIRST_IDEA)
    chat.refuse(session, "Ask again in 2 seconds.")
    kind, content = parse(session.log)[-1]
    assert (kind, content["state"]) == ("S", "error")
    assert "Ask again in 2 seconds." in str(content)
    chat.accept(session, "What is rain?")
    running = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 8})
    next(running)
    before = session.log
    chat.refuse(session, "Ask again in 2 seconds.")
    assert session.log == before
    assert list(running)


# ---------------------------------------------------------------- health and status


def client_of(engine: Engine, operator: Operator, *, status_page: bool) -> TestClient:
    return TestClient(Starlette(routes=routes(engine, operator, queue=lambda: 7, status_page=status_page)))


def test_health_says_whether_the_model_is_there(engine: Engine) -> None:
    operator = Operator()
    assert client_of(engine, operator, status_page=False).get("/health").json() == {"ok": True, "model_loaded": True}
    empty = client_of(Engine(ModelOptions()), operator, status_page=False)
    assert empty.get("/health").json() == {"ok": True, "model_loaded": False}
    operator.ending.set()
    assert empty.get("/health").status_code == 503


def test_the_status_page_is_there_only_when_asked_for(engine: Engine) -> None:
    operator = Operator()
    hidden = client_of(engine, operator, status_page=False)
    assert {hidden.get(path).status_code for path in ("/status", "/status.json")} == {404}
    running = operator.activity.turn_started("one")
    running.wrote(12)
    shown = client_of(engine, operator, status_page=True)
    facts = shown.get("/status.json").json()
    assert facts == status(engine, operator, 7) | {"memory_mb": facts["memory_mb"], "uptime_seconds": 0} | {
        "tokens_per_second": facts["tokens_per_second"]
    }
    assert (facts["turns"], facts["rows"], facts["queue"], facts["rows_at_most"]) == (1, 3, 7, 24)
    assert facts["memory_mb"] > 50
    page = shown.get("/status")
    assert page.headers["content-type"].startswith("text/html")
    assert all(f'<th scope="row">{name.replace("_", " ")}</th>' in page.text for name in facts)
    assert "<script" not in page.text


# ---------------------------------------------------------------- the end


def test_the_end_waits_for_replies_and_then_stops_them() -> None:
    operator = Operator(Limits(grace=0))
    quick = operator.activity.turn_started("a", stop=lambda: quick.ended(stopped=True))
    operator.end()
    assert operator.activity.turns == 0
    assert operator.admit(request()) == ENDING
    assert operator.admit(None) == ENDING


def test_a_reply_that_ends_in_its_grace_is_not_stopped() -> None:
    operator = Operator(Limits(grace=30))
    stopped = []
    turn = operator.activity.turn_started("a", stop=lambda: stopped.append(1))
    timer = threading.Timer(0.1, turn.ended)
    timer.start()
    start = time.monotonic()
    operator.end()
    assert time.monotonic() - start < 10
    assert not stopped
    timer.join()


def test_a_second_signal_finds_the_systems_own_way_to_end() -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        calls = []
        on_signals(lambda: calls.append(1))
        signal.raise_signal(signal.SIGTERM)
        assert calls == [1]
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
