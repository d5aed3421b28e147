"""Every state of the page against axe: WCAG 2.2 A and AA, and axe's best practices; no violation in any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from driving import PATIENCE, ask, begin, set_number, sideways, stop, wait_for_tokens, with_settings
from playwright.sync_api import Page, expect

from benchmarks.running_app import start_server

OpenPage = Callable[..., Page]
QUESTION = "How do I boil an egg?"
LONG = 300  # tokens; enough to be looked at while they are written
TABS = ("Make a direction", "Blind test", "Explain", "Evaluate", "Take it home", "How it works")
# In words: what is wrong, and where.
VIOLATIONS = """async () => {
  const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
  const { violations } = await axe.run({ runOnly: tags, resultTypes: ['violations'], elementRef: false });
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, html }) => `${id}: ${help} (${target.join(' ')}) ${html.slice(0, 160)}`));
}"""


class States:
    """Looks at the states that a page is brought to, and keeps what axe finds."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.found: list[str] = []
        page.evaluate(AXE_SCRIPT)

    def look(self, state: str) -> None:
        # A panel that is on its way is see-through for axe.
        self.page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
        self.found += [f"{state}: {one}" for one in self.page.evaluate(VIOLATIONS)]
        if sideways(self.page) > 0:
            self.found.append(f"{state}: the page is wider than its window")


def recorded(states: States) -> None:
    """The page as it opens, and what can be opened on it."""
    page = states.page
    expect(page.locator("#replay")).to_be_visible()
    states.look("recorded")
    page.locator("#recorded summary").click()
    states.look("how it was made")
    page.locator("#recorded summary").click()  # on a phone it lies over the other menu
    page.locator("#take summary").click()
    states.look("take it with you")
    page.locator("#take summary").click()
    with_settings(page, True)
    states.look("settings")
    with_settings(page, False)
    inspector(states)


def inspector(states: States) -> None:
    page = states.page
    page.locator("#sc-mapbox").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(".look-column").first).to_be_visible(timeout=PATIENCE)
    states.look("inspector")
    page.keyboard.press("Escape")
    expect(page.locator("#sc-look")).to_be_hidden()


def columns(states: States) -> None:
    """Four and five of them."""
    page = states.page
    for label, count in (("Two ideas", 4), ("Just prompt it", 4), ("One knob", 5)):
        page.locator("#beside").get_by_label(label, exact=True).check()
        expect(page.locator("#panes")).to_have_attribute("data-columns", str(count))
        states.look(label)
    page.locator("#beside").get_by_label("Three", exact=True).check()
    expect(page.locator("#panes")).to_have_attribute("data-columns", "3")


def other_tabs(states: States) -> None:
    page = states.page
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        states.look(name)
    page.get_by_role("tab", name="Chat").click()


def live(states: States) -> None:
    """A question that is missing, one that is being answered, stopped and answered, and a branch."""
    page = states.page
    page.locator("#message textarea").fill("")
    page.locator("#ask").click()
    expect(page.locator("#question-note")).to_be_visible()
    states.look("no question")
    set_number(page, "Longest answer", LONG)
    begin(page, QUESTION)
    wait_for_tokens(page, 3)
    states.look("writing")
    stop(page)
    states.look("stopped")
    set_number(page, "Longest answer", 20)
    ask(page, QUESTION)
    states.look("finished")
    inspector(states)
    page.locator("#edit").click()
    expect(page.locator("#message textarea")).to_have_value(QUESTION)
    ask(page, "How do I fry an egg?")
    expect(page.locator("#branches")).to_be_visible()
    states.look("branches")


def in_colours(page: Page, theme: str) -> None:
    if theme == "dark":
        page.locator("#theme").click()
        expect(page.locator("body.dark")).to_have_count(1)


@pytest.mark.parametrize(("width", "theme"), [(1360, "light"), (390, "dark")])
def test_every_state(open_page: OpenPage, width: int, theme: str) -> None:
    page = open_page(width=width, height=900, short=False)
    in_colours(page, theme)
    states = States(page)
    for part in (recorded, columns, other_tabs, live):
        part(states)
    assert not states.found, "\n".join(states.found)


@pytest.mark.parametrize(("width", "theme"), [(1360, "dark"), (320, "light")])
def test_every_state_that_needs_no_answer(open_page: OpenPage, width: int, theme: str) -> None:
    page = open_page(width=width, height=900, short=False)
    in_colours(page, theme)
    states = States(page)
    for part in (recorded, columns, other_tabs):
        part(states)
    assert not states.found, "\n".join(states.found)


def test_a_model_that_is_not_there(open_page: OpenPage, tmp_path: Path) -> None:
    server = start_server(tmp_path / "app.log", "--model", str(tmp_path / "none"))
    try:
        page = open_page(at=server, ready=False)
        page.wait_for_function("document.querySelector('#scope')?.dataset.state === 'error'", timeout=PATIENCE)
        states = States(page)
        states.look("error")
        in_colours(page, "dark")
        states.look("error, dark")
        assert not states.found, "\n".join(states.found)
    finally:
        server.stop()
