"""Driving the page as a person would: what is done and read in the browser.

Everything here waits for a state of the page, never for a length of time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from benchmarks.running_app import PATIENCE as PATIENCE_SECONDS
from benchmarks.running_app import set_number, wait_for_state, wait_until_ready, with_settings

PLACES = ("baseline", "ablated", "added", "fourth", "fifth")
PANES = PLACES[:3]
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


def wait_for_example(page: Page) -> None:
    """Wait until the recorded run of the idea in view stands in the panes, drawn to its end."""
    page.wait_for_function(
        "document.querySelector('#status-words').textContent.startsWith('Recorded example.')"
        " && Number(document.querySelector('#scope').dataset.tokens) > 0",
        timeout=PATIENCE,
    )


def wait_for_columns(page: Page, count: int) -> None:
    """Wait until this many answers stand side by side."""
    page.locator(f'#panes[data-columns="{count}"]').wait_for(timeout=PATIENCE)


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


def choose_columns(page: Page, label: str) -> None:
    """Choose what to compare with."""
    page.locator("#beside label").filter(has_text=re.compile(f"^\\s*{re.escape(label)}\\s*$")).click()


def press_word(page: Page, pane: str, word: str) -> None:
    """Press the first place in a pane's newest answer that reads ``word``."""
    place = page.locator(f"#pane-{pane} .bot .message-content").last.evaluate(
        """(answer, word) => {
          const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            const at = walker.currentNode.data.indexOf(word);
            if (at < 0) continue;
            const range = document.createRange();
            range.setStart(walker.currentNode, at);
            range.setEnd(walker.currentNode, at + word.length);
            answer.scrollIntoView({ block: 'nearest' });
            const box = range.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
          }
        }""",
        word,
    )
    page.mouse.click(*place)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on what ``selector`` names."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"60 times Tab did not lead to {selector}")


def arrow_to(page: Page, group: str, key: str) -> None:
    """Tab to a group of choices and press an arrow key there; the page's script has to have made a group of them."""
    page.locator(f"#{group} input[name='{group}']").first.wait_for(state="attached")
    tab_to(page, f"#{group} input")
    page.keyboard.press(key)


# ---------------------------------------------------------------- reading


def questions(page: Page, pane: str) -> list[str]:
    """The questions a pane shows, oldest first."""
    return _texts(page, f"#pane-{pane} .user .message-content")


def replies(page: Page, pane: str) -> list[str]:
    """The answers a pane shows, oldest first."""
    return _texts(page, f"#pane-{pane} .bot .message-content")


def answers(page: Page, panes: Sequence[str] = PANES) -> list[str]:
    """The newest answer of each pane; "" where there is none."""
    return [(replies(page, pane) or [""])[-1] for pane in panes]


def pane_names(page: Page) -> list[str]:
    """What stands over the panes that are shown."""
    return page.locator("#panes .pane-name:visible").all_inner_texts()


def take(page: Page, button: str) -> None:
    """Press a button of the menu “Take it with you”."""
    page.locator("#take summary").click()
    page.locator(button).click()


def read_run(page: Page) -> dict[str, Any]:
    """The run as the page gives it away, downloaded and parsed."""
    with page.expect_download() as download:
        take(page, "#save-run")
    run: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    return run


def parting_marks(page: Page) -> dict[str, tuple[str, str]]:
    """For each pane with a mark where its answer leaves the others: the text before the mark, and the marked word."""
    found: dict[str, list[str]] = page.evaluate("""() => {
      const found = {};
      for (const [name, mark] of CSS.highlights) {
        if (!name.startsWith('part-')) continue;
        for (const range of mark) {
          const before = document.createRange();
          before.selectNodeContents(range.startContainer.parentElement.closest('.message-content'));
          before.setEnd(range.startContainer, range.startOffset);
          const pane = range.startContainer.parentElement.closest('.pane').id.replace('pane-', '');
          found[pane] = [before.toString(), range.toString()];
        }
      }
      return found;
    }""")
    return {pane: (before, word) for pane, (before, word) in found.items()}


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
    "PLACES",
    "answers",
    "arrow_to",
    "ask",
    "begin",
    "chart_lines",
    "choose_columns",
    "choose_idea",
    "choose_setting",
    "pane_names",
    "parting_marks",
    "press_word",
    "questions",
    "read_run",
    "replies",
    "set_number",
    "set_strength",
    "set_system_prompt",
    "shades_on_map",
    "sideways",
    "status",
    "stop",
    "tab_to",
    "take",
    "wait_for_columns",
    "wait_for_example",
    "wait_for_new_run",
    "wait_for_questions",
    "wait_for_state",
    "wait_for_tokens",
    "wait_until_ready",
    "with_settings",
]
