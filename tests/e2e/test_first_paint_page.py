"""The page before its scripts: readable at once, in the places where the page itself then has the same."""

from __future__ import annotations

import pytest
from driving import PANES, PATIENCE, wait_for_example, wait_until_ready
from playwright.sync_api import Browser, Page

from benchmarks.running_app import Server
from steering.ui.recorded import recorded_turn

NEAR = 5  # px: what the eye takes for the same place
WHERE = """(parts) => {
  const host = document.getElementById('first-paint');
  const root = host ? host.shadowRoot : document;
  const places = {};
  for (const [name, ours, pages] of parts) {
    const part = root.querySelector(host ? ours : pages);
    if (!part) continue;
    const { x, y } = part.getBoundingClientRect();
    places[name] = { x, y };
  }
  return places;
}"""
PARTS = [
    ["title", "h1", "h1"],
    ["first tab", ".tab-container button.selected", ".tab-container button.selected"],
    ["chosen idea", "#idea label.selected", "#idea label.selected"],
    ["question", "#message .textarea", "#message textarea"],
    ["ask", "#asks", "#ask"],
    ["compare", "#beside label.selected", "#beside label:has(:checked)"],
    ["names", ".pane .pane-name", "#pane-baseline .pane-name"],
    ["answer", ".pane .chat .said", "#pane-baseline .bot .message-content"],
    ["taken out", '[data-look="1"].pane .chat .said', "#pane-ablated .bot .message-content"],
    ["turned up", '[data-look="2"].pane .chat .said', "#pane-added .bot .message-content"],
    ["chart", ".plot", ".plot"],
    ["map", "#sc-mapbox", "#sc-mapbox"],
]


# Gradio scrolls a conversation to its end, and the page takes it back to its beginning in the same frame, before it is
# painted. A look from a script may fall between the two; what is seen is what stands at the beginning.
AT_THE_TOP = "[...document.querySelectorAll('.chat [role=log]')].every((log) => log.scrollTop === 0)"


def places(page: Page) -> dict[str, dict[str, float]]:
    found = page.wait_for_function(f"(parts) => {AT_THE_TOP} && ({WHERE})(parts)", arg=PARTS)
    return dict(found.json_value())


@pytest.mark.parametrize(("width", "height"), [(1360, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_example_is_readable_without_scripts_and_stays_where_it_is(
    browser: Browser, server: Server, width: int, height: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE / 4 * 1000)
    page = context.new_page()
    page.route("**/assets/index-*.js", lambda route: route.abort())
    page.goto(server.url)
    recorded = recorded_turn("poetic")
    assert recorded is not None
    said = page.locator("#first-paint .chat .said").all_inner_texts()
    assert [text.strip() for text in said] == [recorded.reply_of(column).strip() for column in PANES]
    assert page.locator("#first-paint .lines path[data-look]").count() == 3
    before = places(page)
    paper = page.locator("#first-paint .first").evaluate("(first) => getComputedStyle(first).backgroundColor")

    page.unroute("**/assets/index-*.js")
    page.goto(server.url)
    wait_until_ready(page)
    wait_for_example(page)
    page.wait_for_function("!document.getElementById('first-paint')")
    after = places(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    context.close()

    assert set(before) == set(after) == {name for name, _, _ in PARTS}
    moved = {
        name: (before[name], after[name])
        for name in before
        if any(abs(before[name][side] - after[name][side]) > NEAR for side in ("x", "y"))
    }
    assert not moved


@pytest.mark.parametrize("link", ["?idea=pirate", "?beside=knob", "?view=api"])
def test_a_link_to_something_else_shows_no_example_first(browser: Browser, server: Server, link: str) -> None:
    page = browser.new_page()
    page.route("**/assets/index-*.js", lambda route: route.abort())
    page.goto(server.url + link)
    assert page.locator("#first-paint").count() == 0
    page.close()
