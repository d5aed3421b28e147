"""Three answers at once: merged into ticks, each failing by itself, and all of them ended by one Stop."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, ChatServer, Talk, chat_server, endless, silent, words

from steering.errors import SteeringError
from steering.ui import remote_turn
from steering.ui.columns import THREE
from steering.ui.remote_endpoints import Endpoint
from steering.ui.remote_turn import RemoteTurn
from steering.ui.remote_watch import EndpointWatch, look
from steering.ui.scope import parse
from steering.ui.turn import Tick, TurnRequest

ROOT = Path(__file__).resolve().parents[1]
NOBODY = "http://127.0.0.1:9/v1"


def watch_over(urls: Sequence[str]) -> EndpointWatch:
    watch = EndpointWatch([Endpoint(column, url) for column, url in zip(THREE, urls, strict=True)])
    watch.begin()
    end = time.monotonic() + 10
    while any(seen.answers is None for seen in watch.all_seen):
        assert time.monotonic() < end
        time.sleep(0.01)
    return watch


def request(**changes: Any) -> TurnRequest:
    usual: dict[str, Any] = {"idea": "served", "own": None, "histories": [[], [], []], "question": "?", "dial": None}
    return TurnRequest(**usual | {"max_new_tokens": 50, "seconds": 20} | changes)


def ticks_of(turn: RemoteTurn) -> list[Tick]:
    return [report for report in turn.reports() if isinstance(report, Tick)]


def ask(answers: Sequence[Answer], **changes: Any) -> tuple[list[Tick], list[ChatServer]]:
    with ExitStack() as running:
        servers = [running.enter_context(chat_server(answer)) for answer in answers]
        turn = RemoteTurn(request(**changes), watch_over([server.url for server in servers])).begin()
        return ticks_of(turn), servers


def test_three_answers_are_merged_into_ticks() -> None:
    ticks, servers = ask([words("one two"), words("un deux trois"), words("eins")])
    assert ticks[0].started
    assert ticks[-1].texts == ["one two", "un deux trois", "eins"]
    assert ticks[-1].n_tokens == [2, 3, 1]
    assert [server.asked[0]["model"] for server in servers] == ["tiny"] * 3
    records = parse("".join(tick.lines for tick in ticks))
    said = [[text for kind, (*_, text, _) in told if kind == "T"] for told in [records]]
    assert sorted(said[0]) == sorted(["one", " two", "un", " deux", " trois", "eins"])
    head = next(content for kind, content in records if kind == "H")
    assert (head["layers"], head["unit"]) == (0, "piece")


def test_tokens_are_called_tokens_once_the_servers_say_so() -> None:
    def answer(talk: Talk) -> None:
        talk.begin()
        for token in ("a", "b"):
            talk.piece(
                token, logprobs={"content": [{"token": token, "top_logprobs": [{"token": token, "logprob": -1.0}]}]}
            )
        talk.send(b"data: [DONE]\n\n")

    ticks, _ = ask([answer] * 3)
    heads = [content["unit"] for kind, content in parse("".join(tick.lines for tick in ticks)) if kind == "H"]
    assert heads == ["piece", "token"]
    likeliest = {key for tick in ticks for key in tick.likeliest}
    assert likeliest == {(column, number) for column in range(3) for number in (1, 2)}


def test_one_server_that_fails_leaves_the_others_going() -> None:
    def broken(talk: Talk) -> None:
        talk.begin()
        talk.piece("so far")
        talk.send(b"data: {nonsense\n\n")

    ticks, servers = ask([words("fine"), broken, lambda talk: talk.refuse(500, {"error": "boom"})])
    assert ticks[-1].texts == ["fine", "so far", ""]
    none, stays, failed = ticks[-1].notes
    assert none == ""
    assert stays.startswith(f"At {servers[1].url.split('/')[2]}, it sent something that cannot be read")
    assert stays.endswith("What was written stays.")
    assert "it failed (HTTP 500): “boom”" in failed


def test_when_all_fail_the_error_says_what_happened_where() -> None:
    turn = RemoteTurn(request(), watch_over([NOBODY] * 3)).begin()
    with pytest.raises(SteeringError, match=r"^No server wrote an answer: at 127.0.0.1:9, nothing answers there"):
        ticks_of(turn)


def test_stop_closes_all_streams_at_once() -> None:
    with ExitStack() as running:
        servers = [running.enter_context(chat_server(answer)) for answer in (endless(), silent(), silent(first="hm"))]
        turn = RemoteTurn(request(max_new_tokens=5000), watch_over([server.url for server in servers])).begin()
        for report in turn.reports():
            if isinstance(report, Tick) and len(report.texts) == 3 and len(report.texts[0]) > 20:
                break
        turn.stop()
        # None of them would end by itself.
        for server in servers:
            assert server.closed.wait(20)
        assert turn.ended.wait(20)


def test_a_turn_stopped_before_it_began_ends() -> None:
    turn = RemoteTurn(request(), EndpointWatch([Endpoint(column, NOBODY) for column in THREE]))
    turn.stop()
    assert turn.begin().ended.wait(5)


def test_an_endless_and_a_silent_server_are_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_turn, "SILENT_SECONDS", 0.5)
    ticks, _ = ask([endless(every=0), silent(first="hm"), silent()], max_new_tokens=40, seconds=2)
    past, fell_silent, never = ticks[-1].notes
    assert "past the 40 tokens" in past
    assert "fell silent in the middle" in fell_silent
    assert "it had not begun after 2 seconds" in never


def test_a_server_that_comes_up_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.ui.remote_watch.AGAIN_WHEN_NOT", 0.05)
    with chat_server(words("x")) as server:
        later = server.url
    watch = watch_over([later, NOBODY, NOBODY])
    assert watch.all_seen[0].trouble.startswith("nothing answers there")
    with chat_server(words("x"), port=int(later.split(":")[2].split("/")[0])):
        end = time.monotonic() + 10
        while not watch.all_seen[0].answers:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert (watch.all_seen[0].model, watch.all_seen[0].trouble) == ("tiny", "")


@pytest.mark.parametrize(
    ("models", "status", "answers", "trouble"),
    [
        (None, 200, True, ""),
        ([], 200, False, "serves no model yet"),
        ("nonsense", 200, False, "lists no models"),
        (None, 404, False, "lists no models"),
        (None, 401, False, "wants a key"),
        (None, 502, False, "fails .HTTP 502."),
    ],
)
def test_what_is_seen_of_a_server(models: Any, status: int, answers: bool, trouble: str) -> None:
    with chat_server(words("x"), models, status) as server:
        seen = look(Endpoint("baseline", server.url))
    assert seen.answers is answers
    assert re.search(trouble, seen.trouble)


def test_the_key_goes_to_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_REMOTE_KEY", "sk-test")
    _, servers = ask([words("x")] * 3)
    assert all(head["Authorization"] == "Bearer sk-test" for server in servers for head in server.headers)


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; from steering.ui import remote_page, remote_engine; from steering.ui.operator import Operator; "
        "from steering.ui.remote_endpoints import read_endpoints; "
        f"e = remote_engine.RemoteEngine(read_endpoints([c + '={NOBODY}' for c in ('baseline', 'ablated', 'added')])); "
        "remote_page.build_remote_page(e, Operator()); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
    loaded = "import sys, steering.ui.serve; print([m for m in sys.modules if m.startswith('steering.ui.remote')])"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
