"""Driving the page as a person would: the server, and what is done and read in the browser.

Everything here waits for a state of the page, never for a length of time.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from playwright.sync_api import Page, Playwright

ROOT = Path(__file__).resolve().parents[2]
PANES = ("baseline", "ablated", "added")
PATIENCE = 120_000  # ms; only a page that hangs comes near it
RUNNING = ("prefill", "running")


@dataclass
class Server:
    """The real program in a process of its own.

    Attributes:
        url: the page's address.
        log_path: what the program printed.
        process: the program; its process id is the server's.
        served_after: seconds from its start to the page.
    """

    url: str
    log_path: Path
    process: subprocess.Popen[bytes]
    served_after: float = 0.0

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(log_path: Path, *options: str) -> Server:
    """Start ``app.py`` on a free port of this machine and wait until it serves the page; its model may still load."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Gradio's own variables would move the server, and the copy of a page it keeps for anyone to fetch.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRADIO_")}
    start = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--host", "127.0.0.1", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment | {"PYTHONUNBUFFERED": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}/", log_path, process)
    while not _serves(server.url):
        if process.poll() is not None or time.monotonic() - start > PATIENCE / 1000:
            server.stop()
            raise RuntimeError(f"The server did not start. It printed:\n{server.log()}")
        time.sleep(0.02)  # between two knocks at a door that is still shut
    server.served_after = time.monotonic() - start
    return server


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def chromium_path(playwright: Playwright) -> str:
    """A Chromium on this machine: ``CHROMIUM``, one in the path, else Playwright's own.

    Raises:
        RuntimeError: if there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    own = playwright.chromium.executable_path
    found = [os.environ.get("CHROMIUM"), *(shutil.which(name) for name in names), own if Path(own).exists() else None]
    for path in found:
        if path:
            return path
    raise RuntimeError("There is no Chromium here. Run “make browser”, or set CHROMIUM to the path of one.")


# ---------------------------------------------------------------- states


def wait_until_ready(page: Page) -> None:
    """Wait until the model is loaded and a question can be asked."""
    page.wait_for_function(
        "document.documentElement.dataset.state && document.documentElement.dataset.state !== 'loading'"
        " && !('busy' in document.documentElement.dataset) && document.querySelector('#ask')",
        timeout=PATIENCE,
    )


def wait_for_state(page: Page, *states: str) -> str:
    """Wait until the page is in one of these states (see ``steering/ui/scope.py``); the one it is in."""
    page.wait_for_function(
        "names => names.includes(document.querySelector('#scope')?.dataset.state)", arg=states, timeout=PATIENCE
    )
    return page.locator("#scope").get_attribute("data-state") or ""


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


def set_number(page: Page, label: str, value: float) -> None:
    """Type a number into a setting's box."""
    with_settings(page, True)
    box = page.locator("#settings").get_by_label(label, exact=False).and_(page.locator("input[type=number]"))
    box.fill(str(value))
    box.press("Tab")
    with_settings(page, False)


def choose_setting(page: Page, label: str) -> None:
    with_settings(page, True)
    page.locator("#settings").get_by_label(label, exact=True).check()
    with_settings(page, False)


def set_system_prompt(page: Page, text: str) -> None:
    with_settings(page, True)
    page.locator("#system-prompt textarea").fill(text)
    with_settings(page, False)


def with_settings(page: Page, open_now: bool) -> None:
    """Open or close the settings."""
    if (page.locator("#open-settings").get_attribute("aria-expanded") == "true") != open_now:
        page.locator("#open-settings" if open_now else "#close-settings").click()
    page.wait_for_function("open => document.querySelector('#settings').inert !== open", arg=open_now)


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
