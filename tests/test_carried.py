"""What a visitor takes home: links that hold nothing private and survive nonsense, Markdown, and the run as JSON."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steering.ui.carried import LONGEST_LINKED, Linked, as_json, as_markdown, link_address, link_query, read_link
from steering.ui.columns import SETS, THREE, heads
from steering.ui.conversations import Turn
from steering.ui.scope import coefficient_line, header, state_line, token_line

FULL = Linked("pirate", 1.25, 7, "bundled", "Wo liegt & was ist “Ölüdeniz”? #?=+", "both", "sea", 0.5, 0.7)


def read(query: str) -> Linked:
    return read_link(dict(parse_qsl(query)))


def test_a_link_sets_what_it_was_made_from() -> None:
    assert read(link_query(FULL)) == FULL
    assert read(link_query(Linked())) == Linked()


@given(st.text(min_size=1, max_size=LONGEST_LINKED))
def test_any_question_survives(question: str) -> None:
    assert read(link_query(Linked(question=question))).question == question


@pytest.mark.parametrize(
    "query", ["c=nan", "c=inf", "c=1e9", "c=x", "seed=-1", "seed=1.5", "beside=all", "q=", "t=-1e4"]
)
def test_what_is_no_such_thing_is_left_out(query: str) -> None:
    assert read(query) == Linked()


def test_an_overlong_part_is_left_out_and_the_rest_counts() -> None:
    assert read(f"q={'x' * (LONGEST_LINKED + 1)}&idea=sea") == Linked(idea="sea")


def test_on_a_space_a_link_leads_to_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert link_address() == ""
    monkeypatch.setenv("SPACE_ID", "someone/steering")
    assert link_address() == "https://huggingface.co/spaces/someone/steering"


@pytest.fixture
def turn() -> Turn:
    log = header("run", 2, layer=1, max_new_tokens=8, coefficient=1.0)
    log += token_line(1, 0, "Rain", [0.0, 0.5]) + token_line(1, 2, "Arrr", [0.1, 1.0]) + coefficient_line(1, 2.0)
    return Turn(
        "What is *rain*?\nTell me.",
        THREE,
        ["Rain", "", "Arrr\n\nme hearty"],
        log + state_line("idle"),
        likeliest={(2, 1): [("Arrr", 0.75), ("Rain", 0.2)]},
        settings={"coefficient": 1.5},
    )


def test_markdown_has_every_answer_under_its_name(turn: Turn) -> None:
    text = as_markdown([turn], THREE, heads(THREE, "Pirate"), "SmolLM2")
    assert text == (
        "**What is \\*rain\\*? Tell me.**\n\n*As it is*\n\n> Rain\n\n*Pirate taken out*\n\n> (nothing)\n\n"
        "*Pirate turned up*\n\n> Arrr\n>\n> me hearty\n\nSmolLM2, strength 1.5. Made with Steering playground.\n"
    )


def test_markdown_leaves_out_a_column_that_was_not_asked(turn: Turn) -> None:
    text = as_markdown([turn], SETS["random"], heads(SETS["random"], "Pirate"), "SmolLM2")
    assert "random" not in text


def test_the_run_as_json_has_tokens_cosines_and_what_could_have_been_said(turn: Turn) -> None:
    run = json.loads(as_json([turn], "Pirate", {"name": "bundled"}))
    (told,) = run["turns"]
    assert (told["layers"], told["layer"], told["settings"]) == (2, 1, {"coefficient": 1.5})
    assert told["strength_moved"] == [{"token": 1, "coefficient": 2.0}]
    baseline, ablated, added = told["answers"]
    assert baseline["tokens"] == [{"text": "Rain", "cosines": [0.0, 0.504], "likeliest_next": []}]
    assert ablated["tokens"] == []
    assert added["tokens"][0]["likeliest_next"] == [["Arrr", 0.75], ["Rain", 0.2]]
