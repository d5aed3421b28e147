"""Resident memory of the program with the bundled model, as it is loaded by default, after 1, 10, 20, … 50 turns.

The real program in a process of its own, driven by pages in Chromium (a process of its own too, not counted). The
turns are spread over several visitors, each with a conversation that grows, and over two ideas.

    python -m benchmarks.memory [--turns 50] [--visitors 5] [--tokens 24]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.machine import print_machine
from benchmarks.running_app import (
    CHROMIUM_OPTIONS,
    Server,
    ask,
    chromium_path,
    set_number,
    start_server,
    wait_until_ready,
)

QUESTIONS = (
    "Tell me about rivers.",
    "What is the moon made of?",
    "How do I bake bread?",
    "Write a letter to an old friend.",
    "Why do leaves turn red?",
)


def resident(server: Server) -> tuple[float, float]:
    """Megabytes of the program with its children: resident, and of these the private ones."""
    program = psutil.Process(server.process.pid)
    usages = [process.memory_full_info() for process in (program, *program.children(recursive=True))]
    return sum(usage.rss for usage in usages) / 1e6, sum(usage.uss for usage in usages) / 1e6


def open_visitor(browser: Browser, server: Server, tokens: int, second_idea: bool) -> Page:
    """A page of its own context, ready to ask."""
    page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
    page.goto(server.url)
    wait_until_ready(page)
    set_number(page, "Longest answer", tokens)
    if second_idea:
        page.locator("#idea label").nth(1).click()
        page.locator("#idea label.selected").nth(0).wait_for()
    return page


def measure(turns: int, visitors: int, tokens: int) -> Iterator[tuple[int, float, float]]:
    """(turns, resident, private), the last two in megabytes, as they are measured."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = start_server(Path(folder) / "app.log")
        try:
            browser = playwright.chromium.launch(executable_path=chromium_path(playwright), args=CHROMIUM_OPTIONS)
            pages = [open_visitor(browser, server, tokens, second_idea=bool(i % 2)) for i in range(visitors)]
            yield 0, *resident(server)
            for turn in range(1, turns + 1):
                ask(pages[turn % visitors], QUESTIONS[turn % len(QUESTIONS)])
                if turn == 1 or turn % 10 == 0:
                    yield turn, *resident(server)
            browser.close()
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--visitors", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    arguments = parser.parse_args()
    print_machine()
    print(f"{arguments.visitors} visitors, {arguments.tokens} tokens an answer\n", flush=True)
    print("| turns | resident, MB | private, MB |\n| --- | --- | --- |", flush=True)
    settled = []
    for turn, rss, uss in measure(arguments.turns, arguments.visitors, arguments.tokens):
        print(f"| {turn} | {rss:.0f} | {uss:.0f} |", flush=True)
        if turn >= 10:
            settled.append(rss)
    if len(settled) > 1:
        print(f"\nfrom turn 10 to turn {arguments.turns}: {settled[-1] - settled[0]:+.0f} MB")


if __name__ == "__main__":
    main()
