"""The log that the page is drawn from: what it says, that only growth is sent, and that it never becomes markup."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import gradio as gr
import numpy as np
import pytest
from gradio.utils import diff
from hypothesis import given
from hypothesis import strategies as st

from steering.ui import how, markup, scope
from steering.ui.layout import Components, as_text, build_layout
from steering.ui.limits import Limits
from steering.ui.scope import (
    branch_line,
    coefficient_line,
    columns_line,
    header,
    idea_line,
    likeliest_line,
    parse,
    queued_message,
    state_line,
    token_line,
)
from steering.ui.settings import SETTINGS

N_LAYERS = 30
TICKS_PER_SECOND = 12


@given(
    st.text(),
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64),
    st.integers(1, 10_000),
    st.integers(0, 4),
)
def test_a_token_is_read_back_as_it_was_written(token: str, cosines: list[float], number: int, column: int) -> None:
    line = token_line(number, column, token, cosines)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1, "a token must not end its line early"
    [(kind, (read_number, read_column, read_token, read_cosines))] = parse(line)
    assert (kind, read_number, read_column, read_token) == ("T", number, column, token)
    assert np.abs(read_cosines - np.asarray(cosines)).max() <= 0.5 / 127 + 1e-6


def test_a_lone_surrogate_and_values_that_are_no_cosines_do_not_break_the_log() -> None:
    [(_, (_, _, token, cosines))] = parse(token_line(1, 0, "a\ud800b", [np.nan, np.inf, -2.0]))
    assert token == "a?b"
    assert cosines.tolist() == [0.0, 1.0, -1.0]


def test_header_names_zones_state_and_strength_are_read_back() -> None:
    log = (
        header("r1", N_LAYERS, layer=0, max_new_tokens=200, coefficient=0.0)
        + idea_line("The sea", sweet=(1.0, 2.0), end=3.0)
        + coefficient_line(7, 2.50)
        + state_line("running", rate=12.345)
    )
    kinds = dict(parse(log))
    assert kinds["H"] == {"run": "r1", "layers": 30, "layer": 0, "max_new_tokens": 200, "coefficient": 0.0}
    assert kinds["I"]["names"] == ["As it is", "The sea taken out", "The sea turned up"]
    assert kinds["I"]["sweet"] == [1.0, 2.0]
    assert kinds["C"] == (7, 2.5)
    assert kinds["S"] == {"state": "running", "rate": 12.3}


def test_an_idea_that_was_not_measured_has_no_zones_and_its_opposite_has_its_own_name() -> None:
    [(_, idea)] = parse(idea_line("Your idea", opposite=True))
    assert "sweet" not in idea
    assert idea["names"][2] == "Your idea: its opposite"
    assert idea["short"][2] == "Opposite"


def test_the_usual_three_columns_are_named_with_their_looks() -> None:
    [(_, idea)] = parse(idea_line("The sea"))
    assert idea["short"] == ["As it is", "Taken out", "Turned up"]
    assert idea["looks"] == [0, 1, 2]
    assert idea["added"] == "turned up here"


def test_columns_keep_their_order_names_and_looks() -> None:
    strengths = ["0", "2", "4", "6", "8"]
    [(kind, columns)] = parse(columns_line([f"Strength {s}" for s in strengths], strengths, [0, 3, 4, 1, 2], end=8.0))
    assert kind == "I"
    assert columns["names"][4] == "Strength 8"
    assert columns["short"] == strengths
    assert columns["looks"] == [0, 3, 4, 1, 2]
    assert columns["end"] == 8.0


@pytest.mark.parametrize(
    ("names", "short", "looks", "complaint"),
    [
        (["a"], ["a"], None, "1 columns were named; there must be 2 to 5"),
        (list("abcdef"), list("abcdef"), None, "6 columns were named"),
        (["a", "b"], ["a"], None, "2 columns have 1 short names"),
        (["a", "b"], ["a", "b"], [0], "2 columns have 2 short names and 1 looks"),
        (["a", "b"], ["a", "b"], [0, 5], "looks are numbers from 0 to 4"),
    ],
)
def test_columns_that_the_page_cannot_show_are_refused(
    names: list[str], short: list[str], looks: list[int] | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        columns_line(names, short, looks)


def test_a_recorded_run_says_how_it_was_made_and_any_other_says_nothing() -> None:
    made = 'python -m steering record poetic --question "Why | how?"'
    [(_, recorded)] = parse(header(1, N_LAYERS, max_new_tokens=10, recorded=made))
    [(_, live)] = parse(header(2, N_LAYERS, max_new_tokens=10))
    assert recorded["recorded"] == made
    assert "recorded" not in live


def test_branches_are_read_back() -> None:
    assert parse(branch_line(2, 3)) == [("B", (2, 3))]


@given(st.text(max_size=8), st.floats(0, 1), st.integers(1, 999))
def test_what_might_have_been_said_is_read_back(token: str, share: float, number: int) -> None:
    line = likeliest_line(number, [[(token, share), ("|", 0.0)], None])
    assert len(line.splitlines()) == 1
    [(kind, (read_number, content))] = parse(line)
    assert (kind, read_number) == ("P", number)
    [[read_token, read_share], other] = content["columns"][0]["likeliest"]
    assert read_token == token
    assert read_share == pytest.approx(share, abs=1e-5)
    assert other == ["|", 0.0]
    assert content["columns"][1] is None
    assert "message" not in content


def test_why_nothing_can_be_said_of_a_token_is_a_sentence() -> None:
    [(_, (number, content))] = parse(likeliest_line(4, [], message="The model is another one now."))
    assert number == 4
    assert content == {"columns": [], "message": "The model is another one now."}


@pytest.mark.parametrize("separator", ["\n", "\r", "\u2028", "\x85", "\x1c", "|", "%"])
def test_no_text_of_a_person_can_end_a_line(separator: str) -> None:
    written = f"a{separator}b"
    for line in (idea_line(written), state_line("error", written), token_line(1, 0, written, [0.0])):
        assert len(line.splitlines()) == 1
    assert dict(parse(state_line("error", written)))["S"]["message"] == written


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="resting"):
        state_line("resting")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("people", "seconds", "words"),
    [
        (1, 0.2, "1 person is before you, about 1 second."),
        (2, 15.4, "2 people are before you, about 15 seconds."),
    ],
)
def test_waiting_words_have_singular_forms(people: int, seconds: float, words: str) -> None:
    assert queued_message(people, seconds) == words


@pytest.mark.parametrize("steps_per_second", [25, 40])
def test_a_tick_costs_at_most_a_kilobyte(steps_per_second: int) -> None:
    """Three variants, 30 layers, 12 ticks a second, 200 tokens: what Gradio sends for the log of each tick."""
    generator = np.random.default_rng(0)
    words = [" the", " hills", ",", " sapphire", "ing", " café", "\n\n", " 🌊", " and", " a"]
    log = header(0, N_LAYERS, layer=13, max_new_tokens=200, coefficient=1.5) + idea_line("The sea", sweet=(1.0, 2.0))
    values, written = [log], 0
    while written < 200:
        due = min(200, round(len(values) * steps_per_second / TICKS_PER_SECOND))
        for number in range(written + 1, due + 1):
            for variant in range(3):
                log += token_line(number, variant, words[number % len(words)], generator.uniform(-1, 1, N_LAYERS))
        written = due
        log += state_line("running", rate=steps_per_second)
        values.append(log)
    sent = [len(json.dumps(diff(before, after))) for before, after in pairwise(values)]
    assert all(diff(before, after)[0][0] == "append" for before, after in pairwise(values))
    assert max(sent) <= 1024
    assert len(log) <= 100_000


@pytest.fixture(scope="module")
def page() -> tuple[gr.Blocks, Components]:
    with gr.Blocks() as blocks:
        components = build_layout(
            ideas=[("The sea", "sea"), ("Poetic", "poetic")],
            idea="sea",
            question="Why?",
            examples=["One", "Two", "Three", "Four"],
            models=[("Bundled", "bundled")],
            model="bundled",
            strength=1.0,
            strength_maximum=3.0,
            models_left_out=[("{{value}} ${value}", "<b>too large</b>")],
            log=idea_line("The sea") + state_line("idle"),
            limits=Limits(),
        )
    return blocks, components


def test_templates_hold_nothing_that_gradio_would_fill_in(page: tuple[gr.Blocks, Components]) -> None:
    templates = [block.html_template for block in page[0].blocks.values() if isinstance(block, gr.HTML)]
    assert len(templates) > 8
    for template in templates:
        assert not re.search(r"\{\{|\$\{|`|<script", template), template
    assert scope.VARIANTS == ("baseline", "ablated", "added")


def test_there_is_a_pane_for_every_column_and_three_are_shown_at_first(page: tuple[gr.Blocks, Components]) -> None:
    blocks, components = page
    panes = [str(block.elem_id) for block in blocks.blocks.values() if str(block.elem_id).startswith("pane-")]
    assert panes == ["pane-baseline", "pane-ablated", "pane-added", "pane-fourth", "pane-fifth"]
    assert len(components.chats) == len(scope.PLACES)
    buttons = re.findall(r"<button[^>]*>", markup.column_buttons("Answers", pressed=0))
    assert [" hidden" in button for button in buttons] == [False, False, False, True, True]


def test_every_setting_has_a_component_and_its_first_value(page: tuple[gr.Blocks, Components]) -> None:
    settings = page[1].settings
    assert list(settings) == list(SETTINGS)
    assert {name: component.value for name, component in settings.items()} == SETTINGS


def test_no_script_turns_a_text_into_markup() -> None:
    scripts = [path for path in scope.ASSETS.glob("*.js") if not path.name.startswith("plotly")]
    assert len(scripts) >= 5
    for path in scripts:
        found = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text("utf-8"))
        assert not found, f"{path.name}: {found}"


def test_what_a_model_writes_is_escaped_for_the_chat() -> None:
    assert as_text('<img src=x onerror="alert(1)"> & **b**') == ('&lt;img src=x onerror="alert(1)"&gt; &amp; **b**')


def test_every_look_has_its_own_dashes_and_the_script_draws_the_same() -> None:
    dashes = [re.search(r'dasharray="([^"]+)"', markup.swatch(look))[1] for look in range(5)]  # type: ignore[index]
    assert len(set(dashes)) == 5
    script = (scope.ASSETS / "scope.js").read_text("utf-8")
    listed = re.search(r"const DASHES = \[([^\]]+)\]", script)[1]  # type: ignore[index]
    drawn = [
        value.replace("solid", "none").replace("px", "").replace(",", " ") for value in re.findall("'([^']+)'", listed)
    ]
    assert drawn == dashes


def test_how_it_works_is_five_panels_each_with_a_picture_and_the_words_of_the_field() -> None:
    assert how._CARDS.count('class="how-picture"') == how._CARDS.count("<details>") == 5
    assert how._CARDS.count("<section") == 6  # and one for researchers
