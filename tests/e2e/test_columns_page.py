"""The columns beside the three: each within one press, and the three as they were."""

from __future__ import annotations

import re
from collections.abc import Callable

from driving import (
    PLACES,
    answers,
    ask,
    choose_columns,
    pane_names,
    questions,
    wait_for_columns,
    wait_for_new_run,
    wait_for_state,
)
from playwright.sync_api import Page, expect

from benchmarks.running_app import Server

QUESTION = "Tell me about rivers."
THREE = ["As it is", "Poetic taken out", "Poetic turned up"]


def press_columns(page: Page, label: str, count: int) -> list[str]:
    """Choose columns, which asks the question again in them; their answers."""
    choose_columns(page, label)
    wait_for_columns(page, count)
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    found = answers(page, PLACES[:count])
    assert all(found)
    assert all(questions(page, pane) == [QUESTION] for pane in PLACES[:count])
    return found


def test_columns_within_one_press(exact_server: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(at=exact_server)
    three = ask(page, QUESTION)
    assert pane_names(page) == THREE

    *same, random = press_columns(page, "Random direction", 4)
    assert pane_names(page) == [*THREE, "A random direction"]
    assert same == three
    assert random not in three[1:]
    *same, prompted = press_columns(page, "Just prompt it", 4)
    assert pane_names(page) == [*THREE, "Just asked for “Poetic”"]
    assert same == three
    assert prompted not in (*three, random)

    other = page.locator("#other-row")
    expect(other).to_be_hidden()
    *same, first = press_columns(page, "Two ideas", 4)
    expect(other).to_be_visible()
    name = pane_names(page)[3]
    assert re.fullmatch("Poetic out, .+ up", name)
    assert same == three
    page.locator("#other-idea input").click()
    page.get_by_role("option", name="The sea").click()
    expect(page.locator("#pane-fourth .pane-name")).to_have_text("Poetic out, The sea up")
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    *same, sea = answers(page, PLACES[:4])
    assert same == three
    assert sea != first
    # Its own slider: at 0 nothing is turned up, and what is left is the idea taken out.
    box = page.locator("#other-strength input[type=number]")
    box.fill("0")
    with page.expect_response(lambda response: "/run/predict" in response.url or "queue/join" in response.url):
        box.press("Tab")
    page.locator("#retry").click()
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    assert answers(page, PLACES[:4]) == [*three, three[1]]

    knob = press_columns(page, "One knob", 5)
    expect(other).to_be_hidden()
    names = pane_names(page)
    strengths = [float(name.removeprefix("Poetic: ")) for name in names[1:]]
    assert names[0] == "As it is"
    assert strengths == sorted(strengths)
    assert len(set(knob)) > 2
    assert knob[0] == three[0]
    start = float(page.locator("#strength input[type=number]").input_value())
    assert knob[1 + strengths.index(start)] == three[2]

    assert press_columns(page, "Three", 3) == three
    assert pane_names(page) == THREE
