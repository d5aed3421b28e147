"""The “Blind test” tab as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from driving import PATIENCE, sideways, wait_until_ready
from playwright.sync_api import Page, expect

PLACES = "abc"
EMPTY = "The answer appears here."
NAMES = re.compile("baseline|ablated|added|as it is|taken out|turned up|swatch|as-it-is|variant", re.IGNORECASE)
# All that the answers ever showed, and every status line, from when this runs on.
RECORD = """() => {
  window.shown = new Set();
  window.said = [];
  const look = () => {
    for (const text of document.querySelectorAll('.blind-answer p')) shown.add(text.textContent);
    const words = document.querySelector('#blind-status').textContent.trim();
    if (said.at(-1)?.words !== words) said.push({ words, at: performance.now() });
  };
  look();
  const everything = { subtree: true, childList: true, characterData: true };
  new MutationObserver(look).observe(document.querySelector('#blind'), everything);
}"""


@pytest.fixture
def tab(open_page: Callable[..., Page]) -> Page:
    page = open_page(short=False)
    open_tab(page)
    return page


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Blind test").click()
    expect(page.locator("#blind-ask")).to_be_visible()


def begin(page: Page, question: str) -> None:
    page.locator("#blind-question textarea").fill(question)
    page.locator("#blind-ask").click()
    expect(page.locator("#blind-cancel")).to_be_visible()


def ask(page: Page, question: str) -> list[str]:
    """Ask, wait for the three answers, and return them as they are shown."""
    begin(page, question)
    expect(page.locator("#blind-vote-c")).to_be_visible(timeout=PATIENCE)
    return texts(page)


def texts(page: Page) -> list[str]:
    found: list[str] = page.locator(".blind-text").evaluate_all("all => all.map(text => text.textContent)")
    return found


def vote(page: Page, place: str) -> str:
    """Vote, and return what stands at that place."""
    page.locator(f"#blind-vote-{place}").click()
    expect(page.locator("#blind-result h3")).to_be_visible(timeout=PATIENCE)
    words = page.locator("#blind-result h3").inner_text()
    label = re.fullmatch(f"You chose answer {place.upper()}: (.*)\\.", words)
    assert label is not None, words
    return label[1]


def places(page: Page) -> list[str]:
    """The markup of the three places without texts, letters and the numbers Gradio gives its parts."""
    found = []
    for place in PLACES:
        html: str = page.locator(f"#blind-place-{place}").evaluate(
            "node => { const copy = node.cloneNode(true); copy.querySelector('.blind-text').textContent = '';"
            " return copy.outerHTML; }"
        )
        html = re.sub(r'id="html-\w+"', "", html)
        found.append(re.sub(f"(blind-(?:place|answer|vote)-){place}|([Aa]nswer ){place.upper()}", r"\1\2…", html))
    return found


def test_ask_vote_and_come_back(tab: Page) -> None:
    page = tab
    expect(page.locator("#blind-idea input")).to_have_value("Sounds like AI")
    expect(page.locator("#blind-try .try-button")).to_have_count(4)
    expect(page.locator("#blind-result")).to_contain_text("No vote yet on Sounds like AI")
    page.evaluate(RECORD)
    page.locator("#blind-try .try-button").first.click()
    question = page.locator("#blind-try .try-button").first.inner_text()
    expect(page.locator("#blind-question textarea")).to_have_value(question)
    answers = ask(page, question)

    # Three whole answers at once, and nothing of them before.
    assert len(set(answers)) == 3
    assert all(answers)
    assert set(page.evaluate("[...shown]")) == {EMPTY, *answers}
    said = [line["words"] for line in page.evaluate("said")]
    assert len([words for words in said if re.match(r"Writing… \d+ of at most 120 tokens", words)]) > 1
    assert said[-1] == "Done. Which answer sounds most human to you?"
    expect(page.locator("#blind-spoken")).to_have_text(said[-1])

    # Nothing on the page tells which is which.
    before = places(page)
    assert before[0] == before[1] == before[2]
    assert not NAMES.search(before[0])
    expect(page.locator("#blind-result")).to_be_hidden()
    assert all(page.get_by_role("button", name=f"Most human: answer {letter}").count() == 1 for letter in "ABC")

    # The vote, by keyboard, from the first control on.
    page.locator("#blind-idea input").focus()
    stops = ["blind-question", "blind-ask", *["blind-try"] * 4, "blind-vote-a", "blind-vote-b"]
    for stop in stops:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('[id^=blind-]').id") == stop
    page.keyboard.press("Enter")
    expect(page.locator("#blind-result h3")).to_be_focused(timeout=PATIENCE)
    labels = page.locator(".blind-answer h3 span").all_inner_texts()
    assert sorted(labels) == ["As it is", "Sounds like AI taken out", "Sounds like AI turned up"]
    assert texts(page) == answers
    expect(page.locator("#blind-answer-b")).to_contain_text("Your choice")
    expect(page.locator(".blind-chosen")).to_have_count(1)
    chosen = labels[1][:1].lower() + labels[1][1:] if labels[1] == "As it is" else labels[1]
    expect(page.locator("#blind-result h3")).to_have_text(f"You chose answer B: {chosen}.")
    short = chosen.removeprefix("Sounds like AI ")
    tally = page.locator(".tally-words").inner_text()
    assert tally.startswith("Most human so far, 1 vote: as it is ")
    assert f"{short} 100 % (21 to 100 %)" in tally
    assert tally.count("0 % (0 to 79 %)") == 2
    assert all(page.locator(f"#blind-vote-{place}").count() == 0 for place in PLACES)

    # It is there after a reload, and the same question is not counted twice.
    page.reload()
    wait_until_ready(page)
    open_tab(page)
    expect(page.locator(".tally-words")).to_have_text(tally)
    ask(page, question)
    vote(page, "a")
    expect(page.locator("#blind-result")).to_contain_text("Not counted: you have voted on this question before.")
    expect(page.locator(".tally-words")).to_have_text(tally)

    # Another idea has a tally of its own.
    page.locator("#blind-idea input").click()
    page.get_by_role("option", name="Pirate").click()
    expect(page.locator("#blind-result")).to_contain_text("No vote yet on Pirate")
    expect(page.locator("#blind-question textarea")).to_have_value("Greet me like a pirate captain.")

    # Forgotten is forgotten.
    page.locator("#blind-forget").click()
    expect(page.locator("#blind-result .forgotten")).to_be_focused()
    expect(page.locator("#blind-forget")).to_have_count(0)
    page.reload()
    wait_until_ready(page)
    open_tab(page)
    expect(page.locator("#blind-result")).to_contain_text("No vote yet on Sounds like AI")


def test_cancel_and_what_cannot_be_asked(tab: Page) -> None:
    page = tab
    page.evaluate(RECORD)
    begin(page, "What is a river?")
    page.wait_for_function("document.querySelector('#blind-status').textContent.includes('Writing…')", timeout=PATIENCE)
    page.locator("#blind-cancel").click()
    expect(page.locator("#blind-status")).to_have_text("Cancelled. Your question is still there.")
    expect(page.locator("#blind-ask")).to_be_focused()
    expect(page.locator("#blind-question textarea")).to_have_value("What is a river?")
    assert page.evaluate("[...shown]") == [EMPTY]
    page.locator("#blind-question textarea").fill("   ")
    page.locator("#blind-question textarea").press("Enter")
    sentence = "Write a question first, or pick one below."
    expect(page.locator("#blind-status")).to_have_text(sentence)
    expect(page.locator("#blind-spoken")).to_have_text(sentence)
    expect(page.locator("#blind-ask")).to_be_visible()


def test_a_direction_of_ones_own_can_be_tested(tab: Page) -> None:
    page = tab
    page.get_by_role("tab", name="Make a direction").click()
    page.locator("#use-sample").click()
    expect(page.locator("#make-check .figures")).to_contain_text("32 + 8")
    page.get_by_label("Name it").fill("My sea")
    page.locator("#compute").click()
    expect(page.locator("#use-direction")).to_be_visible(timeout=PATIENCE)
    page.locator("#use-direction").click()
    expect(page.locator("#pane-ablated .pane-name")).to_have_text("Your idea taken out")
    open_tab(page)
    page.locator("#blind-idea input").click()
    page.get_by_role("option", name="My sea").click()
    expect(page.locator("#blind-result")).to_contain_text("No vote yet on My sea")
    ask(page, "What can I do at the weekend?")
    assert vote(page, "c") in ("as it is", "My sea taken out", "My sea turned up")


@pytest.mark.parametrize("width", [390, 320])
def test_narrow_window(open_page: Callable[..., Page], width: int) -> None:
    page = open_page(width=width, height=844, short=False)
    open_tab(page)
    assert sideways(page) <= 0
    tops = [page.locator(f"#blind-place-{place}").bounding_box() for place in PLACES]
    assert tops[0]["y"] + tops[0]["height"] <= tops[1]["y"] < tops[2]["y"]  # type: ignore[index]
    if width == 390:
        ask(
            page, "Write an extraordinarilylongwordwithoutanyspacesinitatallsothatitmustbebrokensomewhere about rivers."
        )
        assert sideways(page) <= 0
        vote(page, "a")
        assert sideways(page) <= 0
        page.wait_for_function(
            "() => { const result = document.querySelector('#blind-result').getBoundingClientRect();"
            " return result.top >= 0 && result.bottom <= innerHeight + 1; }"
        )
    sizes = page.locator("#blind button, #blind textarea, #blind input").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])"
    )
    assert len(sizes) >= 7
    assert all(min(size) >= 24 for size in sizes), sizes
