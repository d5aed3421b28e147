"""Driving the page as a person would: what is done and read in the browser.

Everything here waits for a state of the page, never for a length of time.
"""

from __future__ import annotations

import re

from playwright.sync_api import Page

from benchmarks.running_app import PATIENCE as PATIENCE_SECONDS
from benchmarks.running_app import set_number, wait_for_state, wait_until_ready, with_settings

PANES = ("baseline", "ablated", "added")
PATIENCE = PATIENCE_SECONDS * 1000  # Playwright counts in milliseconds
RUNNING = ("prefill", "running")


# ---------------------------------------------------------------- states


def wait_for_tokens(page: Page, count: int) -> None:
    """Wait until the run has drawn ``count`` tokens."""
    page.wait_for_function(
        "count => Number(document.querySelector('#scope').dataset.tokens) >= count"
        " && document.querySelector('#scope').dataset.state === 'running'",
        arg=count,
        timeout=PATIENCE,
    )


def wait_for_questions(page: Page, count: int) -> None:
    """Wait until every pane shows ``count`` questions, each with its answer's place."""
    page.wait_for_function(
        "count => ['baseline', 'ablated', 'added'].every(pane =>"
        " document.querySelectorAll(`#pane-${pane} .user .message-content`).length === count)",
        arg=count,
        timeout=PATIENCE,
    )


# ---------------------------------------------------------------- doing


def ask(page: Page, question: str, *, states: tuple[str, ...] = ("idle",)) -> list[str]:
    """Ask, wait for the end of the answers, and return the three."""
    begin(page, question)
    wait_for_state(page, *states)
    return answers(page)


def begin(page: Page, question: str) -> None:
    """Ask, and wait until the answers are under way."""
    box = page.locator("#message textarea")
    box.fill(question)
    page.locator("#ask").click()
    wait_for_new_run(page)


def wait_for_new_run(page: Page) -> None:
    """Wait until a run that was just asked for has begun and the question has left the box."""
    wait_for_state(page, *RUNNING, "queued")


def stop(page: Page) -> None:
    page.locator("#stop").click()
    wait_for_state(page, "stopped")


def choose_setting(page: Page, label: str) -> None:
    with_settings(page, True)
    page.locator("#settings").get_by_label(label, exact=True).check()
    with_settings(page, False)


def set_system_prompt(page: Page, text: str) -> None:
    with_settings(page, True)
    page.locator("#system-prompt textarea").fill(text)
    with_settings(page, False)


def set_strength(page: Page, value: float) -> None:
    box = page.locator("#strength input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def choose_idea(page: Page, title: str) -> None:
    """Choose an idea and wait until the page names it."""
    page.locator("#idea label").filter(has_text=re.compile(f"^\\s*{re.escape(title)}\\s*$")).click()
    page.wait_for_function(
        "title => document.querySelector('#pane-ablated .pane-name').textContent === `${title} taken out`",
        arg=title,
        timeout=PATIENCE,
    )


# ---------------------------------------------------------------- reading


def questions(page: Page, pane: str) -> list[str]:
    """The questions a pane shows, oldest first."""
    return _texts(page, f"#pane-{pane} .user .message-content")


def replies(page: Page, pane: str) -> list[str]:
    """The answers a pane shows, oldest first."""
    return _texts(page, f"#pane-{pane} .bot .message-content")


def answers(page: Page) -> list[str]:
    """The newest answer of each pane; "" where there is none."""
    return [(replies(page, pane) or [""])[-1] for pane in PANES]


def _texts(page: Page, selector: str) -> list[str]:
    texts: list[str] = page.locator(selector).evaluate_all("nodes => nodes.map(node => node.textContent)")
    return texts


def status(page: Page) -> str:
    """The words of the status line."""
    return page.locator("#status-words").inner_text()


def shades_on_map(page: Page) -> int:
    """How many different colours the map's canvas shows."""
    count: int = page.locator("#sc-mapbox canvas").evaluate(
        "canvas => new Set(new Uint32Array(canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
    )
    return count


def chart_lines(page: Page) -> list[str]:
    """The paths of the chart's lines, as they are drawn."""
    paths: list[str] = page.locator("#sc-line .scatterlayer path.js-line").evaluate_all(
        "paths => paths.map(path => path.getAttribute('d'))"
    )
    return paths


def sideways(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    over: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return over


__all__ = [
    "PANES",
    "PATIENCE",
    "answers",
    "ask",
    "begin",
    "chart_lines",
    "choose_idea",
    "choose_setting",
    "questions",
    "replies",
    "set_number",
    "set_strength",
    "set_system_prompt",
    "shades_on_map",
    "sideways",
    "status",
    "stop",
    "wait_for_new_run",
    "wait_for_questions",
    "wait_for_state",
    "wait_for_tokens",
    "wait_until_ready",
    "with_settings",
]
