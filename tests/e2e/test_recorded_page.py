"""The first screen: a recorded run stands there before the model does, and one question makes it live."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from driving import (
    PANES,
    PATIENCE,
    answers,
    choose_idea,
    press_word,
    questions,
    wait_for_example,
    wait_for_new_run,
    wait_for_state,
    wait_until_ready,
)
from playwright.sync_api import Page, expect

from benchmarks.running_app import Server
from steering.ui.recorded import recorded_turn

OpenPage = Callable[..., Page]
# What the page shows as soon as text, chart and map are there, all read at one moment.
FIRST_SCREEN = """() => {
  const texts = [...document.querySelectorAll('#panes .bot .message-content')].map((answer) => answer.textContent);
  const lines = document.querySelectorAll('.plot .lines path[data-look]').length;
  const map = document.querySelector('#sc-mapbox canvas');
  if (texts.length < 3 || lines < 3 || !Number(document.querySelector('#scope').dataset.tokens)) return null;
  const pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data.buffer;
  return {
    texts, lines, shades: new Set(new Uint32Array(pixels)).size,
    loading: document.querySelector('#ask').getAttribute('aria-label') ?? '',
    disabled: document.querySelector('#ask').getAttribute('aria-disabled'),
    words: document.querySelector('#status-words').textContent,
  };
}"""
TOPS = "[...document.querySelectorAll('.chat [role=log]')].map((log) => log.scrollTop)"


def test_recorded_run_before_the_model_and_live_with_one_press(
    own_server: Callable[..., Server], open_page: OpenPage, record_property: Callable[[str, object], None]
) -> None:
    started = own_server()
    busy = sum(psutil.Process(started.process.pid).cpu_times()[:2])
    record_property("seconds_to_page", round(started.served_after, 2))
    record_property("processor_seconds_to_page", round(busy, 2))
    # Processor time, not the clock's: the machine may be busy with other things.
    assert busy < 10
    page = open_page(at=started, ready=False)
    joins: list[str] = []
    page.on("request", lambda request: joins.append(request.url) if "/queue/join" in request.url else None)
    seen = page.wait_for_function(FIRST_SCREEN).json_value()
    assert seen["loading"].startswith("Loading…")
    assert seen["disabled"] == "true"
    assert seen["words"] == "Loading the model. The recorded example works already."
    recorded = recorded_turn("poetic")
    assert recorded is not None
    assert seen["texts"] == [recorded.reply_of(column) for column in PANES]
    assert len(set(seen["texts"])) == 3
    assert seen["lines"] == 3
    assert seen["shades"] > 20

    wait_until_ready(page)
    # However often a page hears how far the model is: each tab that wants to know asks once, when it is there.
    assert len(joins) <= 3
    assert page.locator("#ask").get_attribute("aria-label") is None
    expect(page.locator("#status-words")).to_have_text("Recorded example. Press “Ask all three” to run it live.")
    page.locator("#recorded summary").click()
    expect(page.locator("#recorded code")).to_contain_text("python -m steering record")
    page.keyboard.press("Escape")
    page.locator("#ask").click()
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    expect(page.locator("#status-words")).to_contain_text("Done. ")
    expect(page.locator("#replay")).to_be_hidden()
    expect(page.locator("#recorded")).to_be_hidden()
    assert all(questions(page, pane) == [recorded.question] for pane in PANES)
    assert all(answers(page))


def test_the_large_script_comes_once_somebody_is_there(open_page: OpenPage) -> None:
    page = open_page(ready=False)
    wait_until_ready(page)
    wait_for_example(page)
    page.wait_for_timeout(6000)  # longer than somebody who is there does nothing before it is fetched
    assert page.evaluate("!window.Plotly")
    assert page.locator(".plot .lines path[data-look]").count() == 3
    page.mouse.move(700, 5)
    page.wait_for_function("window.Plotly && document.querySelector('#sc-line .scatterlayer path.js-line')")


def test_recorded_run_is_read_from_its_beginning(page: Page) -> None:
    wait_for_example(page)
    page.wait_for_function(f"{TOPS}.every((top) => top === 0)")
    # However late the conversation is scrolled to its end: unless by a hand, it goes back.
    page.evaluate(
        "document.querySelectorAll('.chat [role=log]').forEach((log) => { log.scrollTop = log.scrollHeight; })"
    )
    page.wait_for_function(f"{TOPS}.every((top) => top === 0)")
    page.locator("#chat-added [role=log]").hover()
    page.mouse.wheel(0, 4000)
    page.wait_for_function(
        "(() => { const log = document.querySelector('#chat-added [role=log]');"
        " return log.scrollTop + log.clientHeight >= log.scrollHeight - 1; })()"
    )


def test_replay_plays_the_recorded_run(page: Page) -> None:
    wait_for_example(page)
    whole = answers(page)
    length = int(page.locator("#scope").get_attribute("data-tokens") or 0)
    page.locator("#replay").click()
    page.wait_for_function(
        "length => { const drawn = Number(document.querySelector('#scope').dataset.tokens);"
        " return drawn >= 5 && drawn < length; }",
        arg=length,
    )
    expect(page.locator("#status-words")).to_contain_text("Replaying. ")
    said = page.locator("#panes .replayed:visible .said")
    expect(said).to_have_count(3)
    for shown, text in zip(said.all_inner_texts(), whole, strict=True):
        assert shown
        assert text.replace("\n", " ").startswith(shown.replace("\n", " ").strip())
    page.get_by_role("button", name="Stop replay").click()
    wait_for_example(page)
    expect(said).to_have_count(0)
    assert page.locator("#scope").get_attribute("data-tokens") == str(length)
    assert answers(page) == whole


def test_each_harmless_idea_has_its_recorded_run(page: Page) -> None:
    choose_idea(page, "Pirate")
    wait_for_example(page)
    recorded = recorded_turn("pirate")
    assert recorded is not None
    page.wait_for_function(
        "text => document.querySelector('#pane-added .bot .message-content')?.textContent === text",
        arg=recorded.reply_of("added"),
        timeout=PATIENCE,
    )
    # Its words can be looked into as those of a live run.
    press_word(page, "added", recorded.reply_of("added").split()[2])
    expect(page.locator("#sc-look .look-column")).to_have_count(3)
    expect(page.locator("#sc-look .look-column li.said")).not_to_have_count(0)
    choose_idea(page, "Refusal")
    expect(page.locator("#pane-added .bot")).to_have_count(0)
