"""The Chat tab as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import (
    PANES,
    PATIENCE,
    answers,
    ask,
    begin,
    chart_lines,
    choose_idea,
    choose_setting,
    questions,
    read_run,
    replies,
    set_number,
    set_strength,
    set_system_prompt,
    shades_on_map,
    sideways,
    status,
    stop,
    wait_for_example,
    wait_for_new_run,
    wait_for_questions,
    wait_for_state,
    wait_for_tokens,
    wait_until_ready,
    with_settings,
)
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from benchmarks.running_app import ROOT, Server

OpenPage = Callable[..., Page]
QUESTION = "Tell me about rivers."
COUNT_DRAWINGS = """() => {
  const scope = document.querySelector('#scope');
  window.counts = new Set();
  new MutationObserver(() => counts.add(scope.dataset.tokens)).observe(scope, { attributeFilter: ['data-tokens'] });
}"""


# ---------------------------------------------------------------- asking


def test_three_answers_and_the_scope(page: Page) -> None:
    page.evaluate(COUNT_DRAWINGS)
    question = page.locator("#message textarea").input_value()
    page.locator("#ask").click()
    wait_for_tokens(page, 3)
    expect(page.locator("#stop")).to_be_visible()
    early = chart_lines(page)
    wait_for_state(page, "idle")
    texts = answers(page)
    assert all(texts)
    assert len(set(texts)) == 3
    assert all(questions(page, pane) == [question] for pane in PANES)
    assert page.evaluate("counts.size") > 3
    assert page.locator("#scope").get_attribute("data-tokens") == "24"
    assert shades_on_map(page) > 20
    late = chart_lines(page)
    assert len(late) == 3
    # A corner a layer, where a line is not straight: what is taken out leaves none.
    assert late[0].count("L") > 10
    assert late[2].count("L") > 10
    assert late != early
    assert status(page).startswith("Done. 24 tokens. They part at token ")
    expect(page.locator("#pane-added .pane-name")).to_have_text("Poetic turned up")
    expect(page.locator("#ask")).to_be_visible()
    page.locator("#pane-added .copy").click()
    expect(page.locator("#spoken")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").split() == texts[2].split()


def test_stop_keeps_what_is_written(page: Page) -> None:
    set_number(page, "Longest answer", 512)
    begin(page, QUESTION)
    wait_for_tokens(page, 5)
    start = time.monotonic()
    stop(page)
    passed = time.monotonic() - start
    kept = answers(page)
    assert all(kept)
    assert status(page).startswith("Stopped after ")
    assert int(page.locator("#scope").get_attribute("data-tokens") or 0) < 512
    assert passed < 3
    assert page.locator("#message textarea").input_value() == ""
    set_number(page, "Longest answer", 20)
    ask(page, "And about lakes?")
    assert [replies(page, pane)[0] for pane in PANES] == kept


def test_second_turn_goes_on_from_the_first(page: Page) -> None:
    ask(page, "My name is Ada.")
    first = [replies(page, pane) for pane in PANES]
    second = ask(page, "What is my name?")
    assert all(questions(page, pane) == ["My name is Ada.", "What is my name?"] for pane in PANES)
    assert [replies(page, pane)[:1] for pane in PANES] == first
    page.locator("#clear").click()
    wait_for_questions(page, 0)
    without_the_first = ask(page, "What is my name?")
    assert all(after != alone for after, alone in zip(second, without_the_first, strict=True))


def test_try_again_undo_clear(page: Page) -> None:
    first = ask(page, "What is a river?")
    second = ask(page, "And a lake?")
    page.locator("#retry").click()
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    assert answers(page) == second  # at temperature 0 the same again
    wait_for_questions(page, 2)

    page.locator("#undo").click()
    wait_for_questions(page, 1)
    assert answers(page) == first
    assert page.locator("#scope").get_attribute("data-tokens") == "24"

    page.locator("#clear").click()
    wait_for_questions(page, 0)
    expect(page.locator("#status-words")).to_have_text("Ready. Ask a question, or pick one.")
    # Nothing is left to go back to, and nothing breaks.
    for button in ("#retry", "#undo", "#edit", "#clear"):
        page.locator(button).click()
    ask(page, QUESTION)
    wait_for_questions(page, 1)


def test_an_edited_question_begins_a_branch(page: Page) -> None:
    first = ask(page, "What is a river?")
    ask(page, "And a lake?")
    second = [replies(page, pane) for pane in PANES]
    box, branches = page.locator("#message textarea"), page.locator("#branch-words")
    expect(branches).to_be_hidden()
    page.locator("#edit").click()
    expect(box).to_have_value("And a lake?")
    expect(page.locator("#status-words")).to_contain_text("Question 2 of 2 is in the box.")
    wait_for_questions(page, 2)  # nothing is gone
    other = ask(page, "And a brook?")
    assert all(questions(page, pane) == ["What is a river?", "And a brook?"] for pane in PANES)
    assert [replies(page, pane)[0] for pane in PANES] == first
    expect(branches).to_have_text("2 of 2")
    page.get_by_role("button", name="The branch before").click()
    expect(branches).to_have_text("1 of 2")
    assert all(questions(page, pane) == ["What is a river?", "And a lake?"] for pane in PANES)
    assert [replies(page, pane) for pane in PANES] == second
    assert page.locator("#scope").get_attribute("data-tokens") == "24"
    # What is asked here goes on here.
    ask(page, "And a pond?")
    wait_for_questions(page, 3)
    page.get_by_role("button", name="The branch after").click()
    expect(branches).to_have_text("2 of 2")
    wait_for_questions(page, 2)
    assert answers(page) == other
    # Pressed twice, the first question is edited.
    page.locator("#edit").click()
    expect(box).to_have_value("And a brook?")
    page.locator("#edit").click()
    expect(box).to_have_value("What is a river?")
    ask(page, "What is a stream?")
    expect(branches).to_have_text("3 of 3")
    assert all(questions(page, pane) == ["What is a stream?"] for pane in PANES)


@pytest.mark.parametrize("way", ["button", "key"])
def test_empty_question_is_refused_in_words(page: Page, way: str) -> None:
    sent: list[str] = []
    example = answers(page)
    page.locator("#message textarea").fill("   ")
    page.on("request", lambda request: sent.append(request.post_data or "") if request.method == "POST" else None)
    if way == "button":
        page.locator("#ask").click()
    else:
        page.locator("#message textarea").press("Enter")
    expect(page.locator("#question-note")).to_have_text("Write a question first.")
    expect(page.locator("#message textarea")).to_be_focused()
    assert page.locator("#scope").get_attribute("data-state") == "idle"
    page.locator(".try-button").first.click()
    expect(page.locator("#question-note")).to_be_hidden()
    expect(page.locator("#message textarea")).not_to_have_value("   ")
    # The click on the example is the only thing that was sent, the page's own timer aside.
    assert not [body for body in sent if '"   "' in body]
    assert answers(page) == example


# ---------------------------------------------------------------- settings


def test_seed_makes_a_run_repeat(page: Page) -> None:
    set_number(page, "Temperature", 1)
    runs = []
    for seed in (3, 3, 4):
        set_number(page, "Seed", seed)
        runs.append(ask(page, QUESTION))
        page.locator("#clear").click()
        wait_for_questions(page, 0)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    ask(page, QUESTION)
    page.locator("#retry").click()
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    assert answers(page)[0] != runs[2][0]  # trying again throws other dice


def test_system_prompt_and_reset(open_page: OpenPage) -> None:
    page = open_page(short=False)
    longest = page.locator("#settings").get_by_label("number input for Longest answer")
    usual = longest.input_value()
    set_number(page, "Longest answer", 20)
    plain = ask(page, "Where do you live?")
    page.locator("#clear").click()
    wait_for_questions(page, 0)
    set_system_prompt(page, "You are a fish named Bubbles. You always speak of the sea.")
    assert ask(page, "Where do you live?")[0] != plain[0]
    with_settings(page, True)
    page.locator("#reset-settings").click()
    expect(page.locator("#system-prompt textarea")).to_have_value("")
    expect(longest).to_have_value(usual)


def test_longest_answer(page: Page) -> None:
    set_number(page, "Longest answer", 30)
    ask(page, QUESTION)
    assert status(page).startswith("Done. 30 tokens.")


def test_third_answer_can_be_the_opposite(page: Page) -> None:
    added = ask(page, QUESTION)
    page.locator("#clear").click()
    wait_for_questions(page, 0)
    choose_setting(page, "Its opposite")
    expect(page.locator("#pane-added .pane-name")).to_have_text("Poetic: its opposite")
    opposite = ask(page, QUESTION)
    assert opposite[:2] == added[:2]
    assert opposite[2] != added[2]
    expect(page.locator("#pane-added .pane-name")).to_have_text("Poetic: its opposite")


# ---------------------------------------------------------------- strength


def test_strength_zero_adds_nothing(page: Page) -> None:
    set_strength(page, 0)
    expect(page.locator("#zone-hint")).to_have_text("At 0 nothing is added. Left and right are equal.")
    first, out, added = ask(page, QUESTION)
    assert first == added
    assert first != out


# Notes the strengths that the page sends: how many tokens it shows at that moment, and how many come in a second.
WATCH_STRENGTHS = """() => {
  window.strengthsSent = [];
  const fetchAsBefore = window.fetch;
  window.fetch = (address, options) => {
    const data = typeof options?.body === 'string' ? JSON.parse(options.body).data : null;
    if (data?.length === 1 && typeof data[0] === 'number') {
      const rate = Number(document.querySelector('#pane-added .pane-stats').textContent.match(/(\\d+)\\/s/)?.[1] ?? 0);
      strengthsSent.push({ value: data[0], shown: Number(document.querySelector('#scope').dataset.tokens), rate });
    }
    return fetchAsBefore(address, options);
  };
}"""


def test_strength_moved_while_writing(page: Page, record_property: Callable[[str, object], None]) -> None:
    box = page.locator("#strength input[type=number]")
    start, end = float(box.input_value()), float(box.get_attribute("max") or 0)
    set_number(page, "Longest answer", 80)
    steady = ask(page, QUESTION)
    page.locator("#clear").click()
    wait_for_questions(page, 0)
    page.evaluate(WATCH_STRENGTHS)
    begin(page, QUESTION)
    wait_for_tokens(page, 8)
    for tokens, strength in ((20, 0.5), (36, 1.6), (52, end)):
        set_strength(page, strength)
        wait_for_tokens(page, tokens)
    # Only a line in the run's own log says so to the status line.
    page.wait_for_function(
        "document.querySelector('#status-words').textContent.includes('strength is past the point where text breaks')",
        timeout=PATIENCE / 4,
    )
    wait_for_state(page, "idle")
    moved = answers(page)
    assert moved[:2] == steady[:2]
    assert moved[2] != steady[2]
    assert moved[2][:12] == steady[2][:12]  # until it was moved
    assert start < end
    run = read_run(page)["turns"][-1]
    acted = {move["coefficient"]: move["token"] for move in run["strength_moved"]}
    assert list(acted) == [0.5, 1.6, end]
    sent = {entry["value"]: entry for entry in page.evaluate("strengthsSent")}
    lags = [(acted[strength] - sent[strength]["shown"], sent[strength]["rate"]) for strength in acted]
    record_property("tokens_from_strength_sent_to_change_and_rate", lags)
    # The engine takes at most two; the rest is written while the strength travels there and the tokens travel back, for
    # which a quarter of a second is plenty. How it is divided, benchmarks/live_control.py tells.
    assert all(0 < lag <= 3 + rate / 4 for lag, rate in lags), lags


# ---------------------------------------------------------------- ideas


def test_each_idea_keeps_its_conversation(page: Page) -> None:
    poetic = ask(page, QUESTION)
    choose_idea(page, "Pirate")
    wait_for_example(page)
    pirate = ask(page, "Where is the treasure?")
    assert all(questions(page, pane) == ["Where is the treasure?"] for pane in PANES)
    choose_idea(page, "Poetic")
    page.wait_for_function(
        "document.querySelector('#pane-baseline .user .message-content')?.textContent === 'Tell me about rivers.'"
    )
    assert answers(page) == poetic
    assert page.locator("#scope").get_attribute("data-tokens") == "24"
    choose_idea(page, "Pirate")
    page.wait_for_function(
        "document.querySelector('#pane-baseline .user .message-content')?.textContent === 'Where is the treasure?'"
    )
    assert answers(page) == pirate


def test_choosing_an_idea_while_writing_stops_and_keeps(page: Page) -> None:
    set_number(page, "Longest answer", 512)
    begin(page, QUESTION)
    wait_for_tokens(page, 5)
    choose_idea(page, "Pirate")
    wait_for_example(page)
    expect(page.locator("#ask")).to_be_visible()
    choose_idea(page, "Poetic")
    expect(page.locator("#status-words")).to_contain_text("Stopped after ")
    assert all(questions(page, pane) == [QUESTION] for pane in PANES)
    assert all(answers(page))


def test_questions_to_try_are_shown_whole_or_not_at_all(page: Page) -> None:
    for idea in ("Refusal", "Poetic"):
        choose_idea(page, idea)
        page.wait_for_function("""() => {
          const row = document.querySelector('#try').getBoundingClientRect();
          const buttons = [...document.querySelectorAll('#try .try-button')];
          return buttons.length > 0 && !buttons[0].inert && buttons.every((button) => {
            const box = button.getBoundingClientRect();
            const whole = button.scrollWidth <= button.clientWidth + 1;
            return whole && button.inert === (box.top >= row.bottom) && (button.inert || box.right <= row.right + 1);
          });
        }""")


# ---------------------------------------------------------------- the map by keyboard


def test_map_by_keyboard(page: Page) -> None:
    texts = ask(page, QUESTION)
    box, foot = page.locator("#sc-mapbox"), page.locator("#sc-read")
    box.focus()
    box.press("Home")
    expect(foot).to_contain_text(" token 1 · layer ")
    first = foot.locator("b").inner_text().strip("“”")
    assert texts[2].startswith(first)
    layer = foot.inner_text().split(" layer ")[1].split()[0]
    box.press("ArrowRight")
    box.press("ArrowUp")
    expect(foot).to_contain_text(f" token 2 · layer {int(layer) + 1} · cosine ")
    expect(page.locator("#sc-which")).to_contain_text("token 2: ")
    assert page.locator("#spoken").inner_text().startswith("“")
    box.press("End")
    expect(foot).to_contain_text(" token 24 · ")
    box.press("Enter")
    expect(foot).to_contain_text(" token 24 · ")
    page.locator("#sc-toggles button").first.click()
    box.focus()
    box.press("Home")
    first = texts[0].split()[0]
    page.wait_for_function(
        "first => first.startsWith(document.querySelector('#sc-read b').textContent.slice(1, -1))", arg=first
    )
    box.press("Escape")
    expect(foot).not_to_contain_text("cosine")


# ---------------------------------------------------------------- text is text


def test_markup_stays_text(page: Page) -> None:
    message = (
        'Write an HTML page with <h1>Hi</h1> <img src=x onerror="window.broken=1"> <script>window.broken=1</script> '
        "${window.broken=1} {{value}} &amp; **bold** $x^2$ [link](javascript:window.broken=1)"
    )
    ask(page, message)
    assert questions(page, "baseline") == [message]
    set_number(page, "Longest answer", 40)
    texts = ask(page, "Please write an example web page in HTML.")
    assert any("<html" in text or "<h1" in text or "<div" in text for text in texts), texts
    made = "#panes .message-content :is(h1, img, script, b, strong, a, div, pre, code, html, p)"
    assert page.locator(made).count() == 0
    assert page.evaluate("window.broken") is None
    box = page.locator("#sc-mapbox")
    box.focus()
    box.press("Home")
    for _ in range(40):
        if "<" in page.locator("#sc-read b").inner_text():
            break
        box.press("ArrowRight")
    assert "<" in page.locator("#sc-read b").inner_text()
    assert page.locator("#scope :is(h1, img, script)").count() == 0


# ---------------------------------------------------------------- looks


def brightness(page: Page, selector: str, colour: str) -> float:
    """0 for black to 255 for white."""
    channels: list[float] = page.locator(selector).first.evaluate(
        "(node, colour) => getComputedStyle(node)[colour].match(/[\\d.]+/g).slice(0, 3).map(Number)", colour
    )
    return sum(channels) / 3


def test_dark_colours(page: Page) -> None:
    ask(page, QUESTION)
    assert brightness(page, "body", "backgroundColor") > 200
    assert brightness(page, "#pane-added .bot .message-content", "color") < 80
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Light colours")
    assert brightness(page, "body", "backgroundColor") < 60
    assert brightness(page, "#pane-added .bot .message-content", "color") > 150
    page.reload()
    wait_until_ready(page)
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Light colours")
    assert brightness(page, "body", "backgroundColor") < 60


@pytest.mark.parametrize("width", [390, 320])
def test_narrow_window_scrolls_only_down(open_page: OpenPage, width: int) -> None:
    page = open_page(width=width, height=844)
    assert sideways(page) <= 0
    ask(page, "Write an extraordinarilylongwordwithoutanyspacesinitatallsothatitmustbebrokensomewhere about rivers.")
    assert sideways(page) <= 0
    assert shades_on_map(page) > 20
    with_settings(page, True)
    assert sideways(page) <= 0
    with_settings(page, False)
    page.locator("#switcher button").nth(2).click()
    page.wait_for_function(
        "() => { const pane = document.querySelector('#pane-added').getBoundingClientRect();"
        " return pane.left >= -1 && pane.right <= innerWidth + 1; }"
    )
    for tab in ("Make a direction", "How it works"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel")).to_be_visible()
        assert sideways(page) <= 0, tab


# ---------------------------------------------------------------- what can go wrong


def test_model_that_is_not_there(own_server: Callable[..., Server], open_page: OpenPage) -> None:
    broken = own_server("--model", "/nonexistent/model")
    page = open_page(at=broken, ready=False)
    wait_for_state(page, "error")
    words = status(page)
    assert "/nonexistent/model" in words
    assert words.endswith(".")
    assert "Traceback" not in page.locator("body").inner_text()
    # Asked all the same, it says so again, and the question is not lost.
    begin_without_model(page)
    expect(page.locator("#message textarea")).to_have_value(QUESTION)
    assert "/nonexistent/model" in status(page)
    assert "Traceback" not in page.locator("body").inner_text()


def test_changing_the_model(
    own_server: Callable[..., Server],
    open_page: OpenPage,
    family_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = family_folder("qwen2")
    page = open_page(at=own_server("--model", str(folder)))
    set_number(page, "Longest answer", 20)
    ask(page, QUESTION)
    choose_model(page, "SmolLM2-135M-Instruct")
    about = page.locator("#model-status textarea")
    expect(about).to_have_value("In use: SmolLM2-135M-Instruct.", timeout=PATIENCE)
    expect(page.locator("#settings").get_by_label("Model").first).to_have_value(re.compile("SmolLM2-135M"))
    with_settings(page, False)
    assert all(len(questions(page, pane)) == 1 for pane in PANES), "the conversation went away with the old model"
    ask(page, QUESTION)
    # One that cannot be had: the old one stays in use, and the list says so.
    choose_model(page, "SmolLM2-360M-Instruct")
    refused = re.compile(r"In use: SmolLM2-135M-Instruct\. .*cannot be reached")
    expect(about).to_have_value(refused, timeout=PATIENCE)
    expect(page.locator("#settings").get_by_label("Model").first).to_have_value(re.compile("SmolLM2-135M"))
    with_settings(page, False)
    assert all(ask(page, QUESTION))


def choose_model(page: Page, label: str) -> None:
    with_settings(page, True)
    page.locator("#settings").get_by_label("Model").first.click()
    page.get_by_role("option").filter(has_text=label).first.click()


def begin_without_model(page: Page) -> None:
    page.locator("#message textarea").fill(QUESTION)
    with page.expect_response(lambda response: "queue/join" in response.url):
        page.locator("#ask").click()
    wait_for_state(page, "error")


# ---------------------------------------------------------------- for programs


def test_steer_endpoint(server: Server, page: Page) -> None:
    client = Client(server.url, verbose=False)
    ticks = list(client.submit(QUESTION, "poetic", max_new_tokens=24, api_name="/steer"))
    last = ticks[-1]
    assert len(ticks) > 1
    assert set(last["texts"]) == set(PANES)
    assert last["tokens"] == dict.fromkeys(PANES, 24)
    assert isinstance(last["layer"], int)
    # The page and the endpoint are one thing.
    assert [last["texts"][pane].strip() for pane in PANES] == [text.strip() for text in ask(page, QUESTION)]
    with pytest.raises(AppError, match="There is no idea “happiness”"):
        client.predict(QUESTION, "happiness", api_name="/steer")
    with pytest.raises(AppError, match="The message is empty"):
        client.predict("  ", "poetic", api_name="/steer")


# ---------------------------------------------------------------- the README's picture


@pytest.mark.skipif(
    os.environ.get("STEERING_WRITE_SCREENSHOTS") != "1",
    reason="STEERING_WRITE_SCREENSHOTS=1 writes the README's picture",
)
def test_write_screenshot(open_page: OpenPage) -> None:
    page = open_page(short=False)
    page.locator("#ask").click()
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    expect(page.locator("#sc-which")).to_have_text("last token")  # the chart's last drawing
    assert len(chart_lines(page)) == 3
    page.evaluate("window.scrollTo(0, 0)")
    target = ROOT / "assets" / "screenshot.png"
    page.screenshot(path=target, animations="disabled", caret="hide")
    assert target.stat().st_size > 20_000
