"""Several visitors at once: each gets what they get alone, and whoever leaves takes nothing along."""

from __future__ import annotations

import re
from collections.abc import Callable

from driving import (
    PANES,
    answers,
    ask,
    begin,
    choose_columns,
    choose_idea,
    questions,
    set_number,
    status,
    stop,
    wait_for_columns,
    wait_for_example,
    wait_for_new_run,
    wait_for_questions,
    wait_for_state,
    wait_for_tokens,
    wait_until_ready,
)
from playwright.sync_api import Page

from benchmarks.running_app import Server

OpenPage = Callable[..., Page]
QUESTION = "Tell me about rivers."
IDEAS = ("Poetic", "Pirate", "The sea", "For a child")


def log_of_turns(server: Server) -> list[dict[str, str]]:
    """What the program's log says of chat turns, oldest first; ``what`` is "started" or "ended"."""
    lines = re.findall(r"turn (started|ended) (kind=chat .*)", server.log())
    return [{"what": what} | dict(re.findall(r"(\w+)=(\S+)", fields)) for what, fields in lines]


def test_four_visitors_with_four_ideas(exact_server: Server, open_page: OpenPage) -> None:
    pages = {title: open_page(at=exact_server) for title in IDEAS}
    alone = {}
    for title, page in pages.items():
        choose_idea(page, title)
        alone[title] = ask(page, QUESTION)
        page.locator("#clear").click()
        wait_for_questions(page, 0)
        page.locator("#message textarea").fill(QUESTION)
    before = len(log_of_turns(exact_server))
    for page in pages.values():
        page.locator("#ask").click()
    for page in pages.values():
        wait_for_new_run(page)
    for title, page in pages.items():
        wait_for_state(page, "idle")
        assert answers(page) == alone[title]
        assert all(questions(page, pane) == [QUESTION] for pane in PANES)
    turns = log_of_turns(exact_server)[before:]
    assert [turn["what"] for turn in turns] == ["started"] * 4 + ["ended"] * 4
    assert len({turn["session"] for turn in turns}) == 4
    assert len({texts[0] for texts in alone.values()}) == 1
    assert len({texts[2] for texts in alone.values()}) == 4


def test_waiting_for_someone_else(exact_server: Server, open_page: OpenPage) -> None:
    *others, waiting = [open_page(at=exact_server, short=False) for _ in range(3)]
    set_number(waiting, "Longest answer", 20)
    for other in others:  # ten of the twelve rows
        set_number(other, "Longest answer", 512)
        choose_columns(other, "One knob")
        wait_for_columns(other, 5)
        begin(other, QUESTION)
        wait_for_tokens(other, 1)
    begin(waiting, "What is rain?")
    wait_for_state(waiting, "queued")
    assert "1 person is before you" in status(waiting)
    stop(others[0])
    wait_for_state(waiting, "idle")
    assert all(answers(waiting))
    assert status(others[1]).startswith("Writing…")
    stop(others[1])


def test_reload_in_the_middle_frees_the_model(server: Server, page: Page) -> None:
    before = len(log_of_turns(server))
    set_number(page, "Longest answer", 512)
    begin(page, QUESTION)
    wait_for_tokens(page, 3)
    page.reload()
    wait_until_ready(page)
    wait_for_example(page)  # nothing is left of what was asked
    set_number(page, "Longest answer", 20)
    assert all(ask(page, QUESTION))
    turns = log_of_turns(server)[before:]
    assert [turn["what"] for turn in turns] == ["started", "ended", "started", "ended"]
    assert turns[0]["session"] == turns[1]["session"] != turns[2]["session"]
    # Long before it would have been written to its end.
    assert 0 < int(turns[1]["tokens"]) < 3 * 400
