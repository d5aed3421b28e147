"""Looking into an answer: where the answers part, and what each might have said at a token."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from driving import (
    PANES,
    PLACES,
    answers,
    ask,
    choose_columns,
    parting_marks,
    press_word,
    wait_for_columns,
    wait_for_new_run,
    wait_for_state,
)
from playwright.sync_api import Locator, Page, expect

OpenPage = Callable[..., Page]
QUESTION = "Tell me about rivers."


def check_marks(page: Page, panes: tuple[str, ...]) -> None:
    """Each answer is marked at the word at which it leaves the first one, and the first where one leaves it first."""
    texts = dict(zip(panes, answers(page, panes), strict=True))
    found = parting_marks(page)
    plain = texts["baseline"]
    assert set(found) == {"baseline", *(pane for pane in panes if texts[pane] != plain)}
    for pane, (before, word) in found.items():
        assert texts[pane].startswith(before + word)
        assert plain.startswith(before.rstrip())
        assert word.strip()
        if pane != "baseline":
            shared = next((i for i, (a, b) in enumerate(zip(texts[pane], plain, strict=False)) if a != b), len(plain))
            # What is marked is a token; the first letter that differs is in it, or right behind one that was cut short.
            assert len(before) <= shared <= len(before + word)
    assert len(found["baseline"][0]) == min(len(before) for before, _ in found.values())


def test_marks_where_the_answers_part(page: Page) -> None:
    ask(page, QUESTION)
    check_marks(page, PANES)
    part = int(re.findall(r"They part at token (\d+)\.", page.locator("#status-words").inner_text())[0])
    assert part >= 1
    choose_columns(page, "Random direction")
    wait_for_columns(page, 4)
    wait_for_new_run(page)
    wait_for_state(page, "idle")
    check_marks(page, PLACES[:4])


def column_shares(column: Locator) -> list[float]:
    """The probabilities of the five, as they are drawn."""
    shares: list[float] = column.locator("li:not(.look-rest)").evaluate_all(
        "rows => rows.map(row => Number(row.style.getPropertyValue('--share')))"
    )
    return shares


@pytest.mark.parametrize("run", ["live", "recorded"])
def test_what_each_answer_might_have_said(page: Page, run: str) -> None:
    if run == "live":
        ask(page, QUESTION)
    text = answers(page)[2]
    look = page.locator("#sc-look")
    expect(look).to_be_hidden()
    word = text.split()[3]
    press_word(page, "added", word)
    expect(look).to_be_visible()
    columns = look.locator(".look-column")
    expect(columns).to_have_count(3)
    for column in columns.all():
        shares = column_shares(column)
        assert len(shares) == 5
        assert shares[0] > 0
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0005  # they are drawn to four places
        # What was said is one of the five, or named among all the others.
        said = column.locator("li.said").count()
        assert said + column.locator(".look-rest", has_text="✓").count() == 1
        assert len(column.locator("li output").all_inner_texts()) == 6
    expect(look.locator("#sc-look-wrote")).to_contain_text("Along the direction at layer ")
    number = int(re.findall(r"at token (\d+)$", look.locator("h2").first.inner_text())[0])
    said_here = page.locator("#sc-read b").inner_text().strip("“”")
    assert said_here in word

    page.keyboard.press("ArrowRight")
    expect(look.locator("#sc-look-title")).to_have_text(re.compile(f" at token {number + 1}$"))
    expect(columns).to_have_count(3)
    for _ in range(number):
        page.keyboard.press("ArrowLeft")
    expect(look.locator("#sc-look-title")).to_have_text(re.compile(" at token 1$"))
    expect(look.locator('[data-step="-1"]')).to_have_attribute("aria-disabled", "true")
    # Before any token was said, all have read the same question; the one as it is says its likeliest.
    expect(columns.first.locator("li").first).to_have_class("said")
    page.keyboard.press("Escape")
    expect(look).to_be_hidden()
    expect(page.locator("#chat-added [role=log]")).to_be_focused()
