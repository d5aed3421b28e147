"""Other hands than a mouse: the keyboard alone, and a phone."""

from __future__ import annotations

from collections.abc import Callable

from driving import (
    PLACES,
    answers,
    ask,
    choose_columns,
    press_word,
    sideways,
    status,
    tab_to,
    wait_for_columns,
    wait_for_new_run,
    wait_for_state,
)
from playwright.sync_api import Page, expect

OpenPage = Callable[..., Page]


def test_keyboard_only(open_page: OpenPage) -> None:
    page = open_page(short=False)
    keys = page.keyboard
    # From the settings' shorter answers to an answer.
    tab_to(page, "#open-settings")
    keys.press("Enter")
    expect(page.locator("#close-settings")).to_be_focused()
    tab_to(page, "#settings input[type=number][aria-label*='Longest answer']")
    keys.press("Control+a")
    keys.type("24")
    keys.press("Escape")
    expect(page.locator("#open-settings")).to_be_focused()
    tab_to(page, "#message textarea")
    keys.press("Control+a")
    keys.type("Tell me about rivers.")
    keys.press("Enter")
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    three = answers(page)
    assert all(three)
    assert status(page).startswith("Done. 24 tokens.")

    # To the inspector and back.
    tab_to(page, "#sc-mapbox")
    keys.press("Home")
    keys.press("ArrowRight")
    keys.press("Enter")
    look = page.locator("#sc-look")
    expect(look).to_be_visible()
    expect(look.locator('[data-step="1"]')).to_be_focused()
    expect(look.locator("#sc-look-title")).to_contain_text("at token 2")
    expect(look.locator(".look-column")).to_have_count(3)
    keys.press("Enter")
    expect(look.locator("#sc-look-title")).to_contain_text("at token 3")
    keys.press("Escape")
    expect(look).to_be_hidden()
    expect(page.locator("#sc-mapbox")).to_be_focused()

    # To another column in the map, and to a fourth answer.
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    expect(page.locator("#sc-toggles button").nth(1)).to_be_focused()
    keys.press("Enter")
    expect(page.locator("#sc-toggles button").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#sc-read")).to_contain_text("No trace at any layer")
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "#beside input")
    keys.press("ArrowRight")
    wait_for_columns(page, 4)
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    assert answers(page, PLACES[:4])[3]


def test_phone(open_page: OpenPage) -> None:
    page = open_page(width=390, height=844)
    ask(page, "Tell me about rivers.")
    choose_columns(page, "Random direction")
    wait_for_columns(page, 4)
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    buttons = page.locator("#switcher button:visible")
    expect(buttons).to_have_count(4)
    in_view = """pane => {
      const box = document.querySelector(`#pane-${pane}`).getBoundingClientRect();
      return box.left >= -1 && box.right <= innerWidth + 1;
    }"""
    buttons.nth(3).click()
    page.wait_for_function(in_view, arg="fourth")
    expect(buttons.nth(3)).to_have_attribute("aria-pressed", "true")
    # A swipe brings its neighbour, and the switcher follows.
    page.locator("#panes").evaluate("panes => panes.scrollBy({ left: -panes.clientWidth })")
    page.wait_for_function(in_view, arg="added")
    expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
    assert sideways(page) <= 0

    press_word(page, "added", answers(page)[2].split()[1])
    look = page.locator("#sc-look")
    expect(look.locator(".look-column")).to_have_count(4)
    box = look.bounding_box()
    assert box is not None
    assert box["x"] == 0
    assert box["width"] == page.evaluate("document.body.getBoundingClientRect().width")
    assert abs(box["y"] + box["height"] - 844) <= 1
    assert box["height"] < 844 * 0.9
    assert sideways(page) <= 0
    look.get_by_role("button", name="Close").click()
    expect(look).to_be_hidden()
