"""The end-to-end tests' fixtures: one server for all of them, one fresh browser context for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from driving import PATIENCE, set_number, wait_until_ready
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from benchmarks.running_app import CHROMIUM_OPTIONS, WITHOUT_RATES, Server, chromium_path, start_server

FAILED = Path(__file__).resolve().parents[1] / "screenshots" / "failed"
SHORT = 24  # tokens; long enough for three answers to part
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash.setdefault(REPORTS, {})[report.when] = report
    return report


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real program with the bundled model, shared by all tests: ``.url``, ``.log_path``, ``.process``."""
    running = start_server(tmp_path_factory.mktemp("server") / "app.log", *WITHOUT_RATES)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def exact_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One in float32, where a reply is the same whoever shares its batch; the rows of four visitors fill that."""
    running = start_server(
        tmp_path_factory.mktemp("exact") / "app.log", "--dtype", "float32", "--rows", "12", *WITHOUT_RATES
    )
    yield running
    running.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``own_server("--model", …)`` starts a server for one test."""
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(start_server(tmp_path / f"app-{len(started)}.log", *WITHOUT_RATES, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE / 4)  # as what the pages themselves wait for
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(playwright), args=CHROMIUM_OPTIONS)
        yield chromium
        chromium.close()


# What Gradio's script writes when a page is left while its answer streams.
LEAVING = ("AbortError: signal is aborted without reason", "Unexpected error Connection errored out.")


class Watch:
    """What must not happen on a page: errors in its console, errors of its scripts, requests to other hosts."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.problems: list[str] = []

    def follow(self, context: BrowserContext) -> None:
        context.on("console", self._wrote)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        context.on("request", self._requested)

    def _wrote(self, line: ConsoleMessage) -> None:
        if line.type == "error" and not line.text.startswith(LEAVING):
            self.problems.append(f"console: {line.text}")

    def _requested(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._host:
            self.problems.append(f"request to another host: {request.url}")


@pytest.fixture
def open_page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """``open_page(width=1360, height=900, at=server, link="", ready=True, short=True)`` opens a page in a new context.

    ``link`` is the address's part behind the question mark; ``ready`` waits for the model; ``short`` sets the longest
    answer to 24 tokens. A problem on any of the pages, or a
    traceback in the server's log, fails the test; a test that failed leaves a screenshot of each page.
    """
    opened: list[tuple[Page, Watch]] = []
    log_starts: dict[Path, int] = {server.log_path: len(server.log())}
    servers: list[Server] = [server]

    def open_one(
        *,
        width: int = 1360,
        height: int = 900,
        at: Server | None = None,
        link: str = "",
        ready: bool = True,
        short: bool = True,
    ) -> Page:
        target = at or server
        if target not in servers:
            servers.append(target)
        watch = Watch(urlsplit(target.url).netloc)
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=target.url)
        context.set_default_timeout(PATIENCE / 4)
        watch.follow(context)
        page = context.new_page()
        opened.append((page, watch))
        page.goto(f"{target.url}?{link}" if link else target.url)
        page.wait_for_selector("#ask")
        if ready:
            wait_until_ready(page)
            if short:
                set_number(page, "Longest answer", SHORT)
        return page

    yield open_one

    problems = [problem for _, watch in opened for problem in watch.problems]
    problems += [f"traceback in the log: {text}" for text in _tracebacks(servers, log_starts)]
    failed = any(report.failed for report in request.node.stash.get(REPORTS, {}).values())
    for number, (page, _) in enumerate(opened):
        if failed or problems:
            FAILED.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^\w-]+", "-", request.node.name).strip("-")
            page.screenshot(path=FAILED / f"{name}{f'-{number + 1}' if number else ''}.png", full_page=True)
        page.context.close()
    assert not problems, "\n".join(problems)


def _tracebacks(servers: list[Server], starts: dict[Path, int]) -> list[str]:
    written = [server.log()[starts.get(server.log_path, 0) :] for server in servers]
    return [text for text in written if "Traceback" in text]


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """A fresh page whose model is loaded and whose answers are short."""
    return open_page()
