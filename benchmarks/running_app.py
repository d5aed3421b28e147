"""The real program in a process of its own, and a Chromium for its page: for benchmarks and end-to-end tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds; only a program that hangs comes near it
# For those who ask more often than visitors may.
WITHOUT_RATES = (
    *("--session-requests", "100000", "--session-burst", "100000"),
    *("--address-requests", "1000000", "--address-burst", "1000000"),
)
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-background-networking"]
# The state is set by the page's script, "busy" while the model cannot answer.
READY = """() => {
  const page = document.documentElement.dataset;
  return page.state && page.state !== 'loading' && !('busy' in page) && document.querySelector('#ask');
}"""


@dataclass
class Server:
    """A running program.

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
            self.process.wait(timeout=20)  # replies that are being written have ten seconds to end
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(log_path: Path, *options: str, command: tuple[str, ...] = ("app.py",)) -> Server:
    """Start the program on a free port of this machine and wait until it serves the page; its model may still load.

    Args:
        log_path: where it prints to.
        options: its command line, ``--port`` and ``--host`` aside.
        command: what Python runs, from the project's folder.

    Raises:
        RuntimeError: if it ends or does not serve a page.
    """
    port = free_port()
    # A person's own variables could move the server, open it to the world, or set other limits.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GRADIO_", "STEERING_"))}
    start = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port), "--host", "127.0.0.1", *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment | {"PYTHONUNBUFFERED": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}/", log_path, process)
    while not _serves(server.url):
        if process.poll() is not None or time.monotonic() - start > PATIENCE:
            server.stop()
            raise RuntimeError(f"The server did not start. It printed:\n{server.log()}")
        time.sleep(0.02)  # between two knocks at a door that is still shut
    server.served_after = time.monotonic() - start
    return server


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
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


def wait_until_ready(page: Page) -> None:
    """Wait until the model is loaded and a question can be asked."""
    page.wait_for_function(READY, timeout=PATIENCE * 1000)


def wait_for_state(page: Page, *states: str) -> str:
    """Wait until the page is in one of these states (see ``steering/ui/scope.py``); the one it is in."""
    page.wait_for_function(
        "names => names.includes(document.querySelector('#scope')?.dataset.state)", arg=states, timeout=PATIENCE * 1000
    )
    return page.locator("#scope").get_attribute("data-state") or ""


def set_number(page: Page, label: str, value: float) -> None:
    """Type a number into one of the settings, in the drawer."""
    with_settings(page, True)
    box = page.locator("#settings").get_by_label(label).and_(page.locator("input[type=number]"))
    box.fill(str(value))
    box.press("Tab")
    with_settings(page, False)


def with_settings(page: Page, open_now: bool) -> None:
    """Open or close the settings."""
    if (page.locator("#open-settings").get_attribute("aria-expanded") == "true") != open_now:
        page.locator("#open-settings" if open_now else "#close-settings").click()
    page.wait_for_function("open => document.querySelector('#settings').inert !== open", arg=open_now)


def ask(page: Page, question: str) -> None:
    """Ask, and wait until the answers are written."""
    page.locator("#message textarea").fill(question)
    page.locator("#ask").click()
    wait_for_state(page, "prefill", "running", "queued")
    wait_for_state(page, "idle", "stopped", "error")
