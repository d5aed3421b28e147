"""What the page's file itself shows: the same answers, marks and lines as the log they come from."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from steering.ui.carried import LINK_KEYS, Linked, link_query
from steering.ui.delivery import Delivery
from steering.ui.first_paint import Console, first_paint
from steering.ui.recorded import recorded_turn
from steering.ui.scope import columns_line, header, state_line, token_line

CONSOLE = Console(
    ideas=["Poetic", "Pirate"], idea="Poetic", question="Why?", examples=["One"], besides=["Three"], strength=1.0
)
N_LAYERS = 6


def log_of(answers: list[list[str]], *, recorded: str = "a command", cosine: float = 0.2) -> str:
    names = ["As it is", "Out", "Up"]
    log = columns_line(names, names, sweet=(1.0, 2.0), end=3.0)
    log += header("run", N_LAYERS, layer=2, max_new_tokens=9, recorded=recorded)
    for column, tokens in enumerate(answers):
        for number, token in enumerate(tokens, 1):
            log += token_line(number, column, token, np.full(N_LAYERS, cosine * column))
    return log + state_line("idle")


class Answers(HTMLParser):
    """The texts of the answers as a reader sees them, and of the parts that carry a mark."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.marked: dict[str, list[str]] = {"same": [], "part": []}
        self._open: list[str] = []
        self.feed(markup[markup.index('id="panes"') : markup.index('id="statusbar"')])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if tag in ("p", "span"):
            self._open.append(kind)
            if kind == "said":
                self.said.append("")
            elif kind in self.marked:
                self.marked[kind].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "span"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "said" in self._open:
            self.said[-1] += data
            if self._open[-1] in self.marked:
                self.marked[self._open[-1]][-1] += data


def test_each_answer_is_the_recorded_one_letter_by_letter() -> None:
    turn = recorded_turn("poetic")
    assert turn is not None
    names = turn.log.splitlines(keepends=True)[0]
    shown = Answers(first_paint(CONSOLE, names + turn.log_of(turn.columns[:3])))
    # The first of each pair is the empty place where a replay is written.
    assert [said for said in shown.said if said] == [reply.strip() for reply in turn.replies[:3]]


def test_the_word_where_an_answer_parts_is_marked_and_what_it_shares_before() -> None:
    shown = Answers(first_paint(CONSOLE, log_of([["A", " cat", " sat"], ["A", " dog"], ["A", " cat", " ran"]])))
    assert [said for said in shown.said if said] == ["A cat sat", "A dog", "A cat ran"]
    assert shown.marked == {"same": ["A", "A", "A cat"], "part": ["cat", "dog", "ran"]}


def test_answers_that_do_not_part_have_no_mark() -> None:
    shown = Answers(first_paint(CONSOLE, log_of([["A", " cat"]] * 3)))
    assert shown.marked == {"same": [], "part": []}


def test_a_text_is_never_markup() -> None:
    hostile = "<img src=x onerror=alert(1)></template>"
    console = Console([hostile], hostile, hostile, [hostile], [hostile], 1.0)
    markup = first_paint(console, log_of([[hostile], [hostile + "b"], ["c"]]))
    assert "<img" not in markup
    assert markup.count("</template>") == 1
    assert markup.count("&lt;img") >= 6


def test_the_lines_end_where_the_last_tokens_cosines_are() -> None:
    markup = first_paint(CONSOLE, log_of([["a", "b"]] * 3))
    [*ends] = re.findall(r'<path data-look="(\d)"[^>]* d="M[^"]* ([\d.]+)"/>', markup)
    top, bottom = 0.65, -0.2
    for look, end in ends:
        assert float(end) == pytest.approx(100 * (top - 0.2 * int(look)) / (top - bottom), abs=0.5)
    assert len(ends) == 3


def test_there_is_none_without_a_recorded_run() -> None:
    assert first_paint(CONSOLE, log_of([["a"]] * 3, recorded="")) == ""
    assert first_paint(CONSOLE, log_of([])) == ""
    assert first_paint(CONSOLE, columns_line(["a", "b"], ["a", "b"]) + state_line("idle")) == ""


def test_a_link_to_anything_of_its_own_opens_without_it() -> None:
    markup = first_paint(CONSOLE, log_of([["a"]] * 3))
    linked = Linked("poetic", 1.0, 1, "bundled", "Why?", "knob", "sea", 1.0, 0.5)
    keys = [part.split("=")[0] for part in link_query(linked).split("&")]
    assert sorted(keys) == sorted(LINK_KEYS)
    for key in keys:
        assert f"'{key}'" in markup


PAGE = "<html><head><title>&lt;body&gt;</title></head>\n<body\n style='width: 100%'><p>page</p></body></html>"


@pytest.fixture
def client() -> TestClient:
    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE, 500 if "broken" in request.query_params else 200)

    async def other(_request: Request) -> Response:
        return HTMLResponse(PAGE)

    middleware = [Middleware(Delivery, first_paint="<i>first</i>")]
    routes = [Route("/", page), Route("/other", other)]
    return TestClient(Starlette(routes=routes, middleware=middleware))


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_it_stands_at_the_beginning_of_the_pages_body(client: TestClient, encoding: str) -> None:
    answer = client.get("/", headers={"Accept-Encoding": encoding})
    assert answer.text == PAGE.replace("100%'>", "100%'><i>first</i>")


def test_the_length_is_that_of_what_is_sent(client: TestClient) -> None:
    answer = client.get("/", headers={"Accept-Encoding": "identity"})
    assert int(answer.headers["Content-Length"]) == len(answer.content)


@pytest.mark.parametrize("address", ["/other", "/?broken=1"])
def test_nothing_else_is_touched(client: TestClient, address: str) -> None:
    assert client.get(address).text == PAGE
