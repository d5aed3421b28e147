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
from steering.ui.layout import as_text, build_layout
from steering.ui.limits import Limits
from steering.ui.scope import (
    coefficient_line,
    header,
    idea_line,
    parse,
    queued_message,
    state_line,
    token_line,
)

N_LAYERS = 30
TICKS_PER_SECOND = 12


@given(
    st.text(),
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64),
    st.integers(1, 10_000),
    st.integers(0, 2),
)
def test_a_token_is_read_back_as_it_was_written(token: str, cosines: list[float], number: int, variant: int) -> None:
    line = token_line(number, variant, token, cosines)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1, "a token must not end its line early"
    [(kind, (read_number, read_variant, read_token, read_cosines))] = parse(line)
    assert (kind, read_number, read_variant, read_token) == ("T", number, variant, token)
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


def test_templates_hold_nothing_that_gradio_would_fill_in() -> None:
    with gr.Blocks() as page:
        build_layout(
            ideas=[("The sea", "sea")],
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
    templates = [block.html_template for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert len(templates) > 8
    for template in templates:
        assert not re.search(r"\{\{|\$\{|`|<script", template), template
    assert scope.VARIANTS == ("baseline", "ablated", "added")


def test_what_a_model_writes_is_escaped_for_the_chat() -> None:
    assert as_text('<img src=x onerror="alert(1)"> & **b**') == ('&lt;img src=x onerror="alert(1)"&gt; &amp; **b**')


def test_every_variant_has_its_own_dashes() -> None:
    swatches = [markup.swatch(variant) for variant in range(3)]
    assert len({re.search(r'dasharray="([^"]+)"', picture)[1] for picture in swatches}) == 3  # type: ignore[index]
    assert how._CARDS.count("<section") == 6
