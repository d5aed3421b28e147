"""How soon the page is there, and whether it stays still: the real program, a real Chromium, one fresh context a visit.

A visit opens the page as it is, goes to five columns and back, and has one question answered; a second one opens a link
that shows One knob. Times are the browser's own, from the beginning of the navigation: until the recorded answers can
be read and the chart's lines are drawn, first as the page's file has them (`steering.ui.first_paint`), then as the
page does that can be used; and the largest contentful paint. Layout shifts are those that CLS counts.
The first visit warms the server up and counts only for what must not happen: an error in the console, a request to
another host.

    python -m benchmarks.page_load [--visits 7]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from benchmarks.machine import print_machine
from benchmarks.running_app import (
    CHROMIUM_OPTIONS,
    PATIENCE,
    ask,
    chromium_path,
    set_number,
    start_server,
    wait_until_ready,
)

QUESTION = "How do I boil an egg?"
TOKENS = 40
KNOB_LINK = "?beside=knob"
SETTLED = 600  # ms in which a shift that follows from the last thing done would have come
SHIFTS = (
    "shifts, page as it opens",
    "shifts, three to five columns and back",
    "shifts, while answers are written",
    "shifts, link to One knob",
)
GOALS: dict[str, float | None] = {
    "recorded text can be read, s": 1.0,
    "chart is drawn, s": 1.5,
    "largest contentful paint, s": 1.2,
    "page can be used, s": None,
    "a pointer on the chart, to what Plotly drew, s": None,
    **dict.fromkeys(SHIFTS, 0.05),
}
TIMES = dict(zip(("text", "chart", "paint", "page", "plot"), GOALS, strict=False))

# Written down by the page itself, at the frame in which it can be seen.
WATCH = """() => {
  window.seen = { shift: 0, paint: 0, moved: [] };
  const shows = (part) => part && (part.localName === 'path' || part.textContent.trim())
    && part.checkVisibility({ visibilityProperty: true });
  const look = () => {
    const note = (name, part) => { if (!seen[name] && shows(part)) seen[name] = performance.now(); };
    const first = document.getElementById('first-paint')?.shadowRoot;
    const answer = document.querySelector('#pane-added .bot .message-content');
    const plot = document.querySelector('#sc-line .scatterlayer path.js-line');
    note('page', document.querySelector('#ask') && answer);
    note('plot', plot);
    note('text', first ? first.querySelector('[data-look="2"] .chat .said') : answer);
    note('chart', first ? first.querySelector('.lines path[data-look="2"]') : plot);
    if (!seen.page || !seen.plot) requestAnimationFrame(look);
  };
  look();
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      if (entry.hadRecentInput) continue;
      seen.shift += entry.value;
      for (const { node } of entry.sources) {
        seen.moved.push(String(node?.id || node?.parentElement?.id || node?.nodeName));
      }
    }
  }).observe({ type: 'layout-shift', buffered: true });
  new PerformanceObserver((list) => { seen.paint = list.getEntries().at(-1).startTime; })
    .observe({ type: 'largest-contentful-paint', buffered: true });
}"""

TAKE_SHIFTS = """() => {
  const taken = [seen.shift, seen.moved];
  Object.assign(seen, { shift: 0, moved: [] });
  return taken;
}"""


@dataclass
class Measured:
    """What the visits gave.

    Attributes:
        figures: for each goal one figure a visit; seconds, or the sum of the layout shifts.
        moved: what shifted, by the name of the shifts' figure.
        problems: errors in the console, and requests to other hosts.
    """

    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in GOALS})
    moved: dict[str, set[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext, host: str) -> None:
        """Note what must not happen in a context."""
        context.on("console", self._wrote)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        context.on("request", lambda request: self._requested(request, host))

    def _wrote(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.problems.append(f"console: {line.text}")

    def _requested(self, request: Request, host: str) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != host:
            self.problems.append(f"request to another host: {request.url}")

    def shifts(self, name: str, page: Page) -> None:
        """Keep the shifts since they were last taken."""
        shift, moved = _take_shifts(page)
        self.figures[name].append(shift)
        self.moved.setdefault(name, set()).update(moved)

    def drop_first(self) -> None:
        for values in self.figures.values():
            del values[0]


def _take_shifts(page: Page) -> tuple[float, list[str]]:
    page.wait_for_timeout(SETTLED)
    shift, moved = page.evaluate(TAKE_SHIFTS)
    return shift, moved


def measure(visits: int) -> Measured:
    """Visit the page so often, after once for warming up."""
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "app.log")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium_path(playwright), args=CHROMIUM_OPTIONS)
                for visit in range(visits + 1):
                    _visit(browser, server.url, measured)
                    _visit_link(browser, server.url, measured)
                    if visit == 0:
                        measured.drop_first()
                browser.close()
        finally:
            server.stop()
    return measured


def _open(browser: Browser, address: str, measured: Measured) -> Page:
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    context.add_init_script(f"({WATCH})()")
    measured.watch(context, urlsplit(address).netloc)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(address)
    wait_until_ready(page)
    return page


def _visit(browser: Browser, address: str, measured: Measured) -> None:
    page = _open(browser, address, measured)
    page.wait_for_function("window.seen.page")
    measured.shifts(SHIFTS[0], page)
    paint = page.evaluate("seen.paint")  # before a pointer comes: the largest paint ends with what is pressed
    asked = page.evaluate("performance.now()")
    page.locator("#sc-line").hover()  # Plotly's script is fetched when someone comes to the chart
    page.wait_for_function("window.seen.plot")
    seen = page.evaluate("seen") | {"paint": paint}
    seen["plot"] -= asked
    for key, name in TIMES.items():
        measured.figures[name].append(seen[key] / 1000)
    for label, count in (("One knob", 5), ("Three", 3)):
        page.locator("#beside").get_by_label(label, exact=True).check()
        page.wait_for_function(f"document.querySelector('#panes').dataset.columns === '{count}'")
    measured.shifts(SHIFTS[1], page)
    set_number(page, "Longest answer", TOKENS)
    _take_shifts(page)  # what the drawer moved is none of the answers'
    ask(page, QUESTION)
    measured.shifts(SHIFTS[2], page)
    page.context.close()


def _visit_link(browser: Browser, address: str, measured: Measured) -> None:
    page = _open(browser, address + KNOB_LINK, measured)
    page.wait_for_function("document.querySelector('#panes').dataset.columns === '5'")
    measured.shifts(SHIFTS[3], page)
    page.context.close()


def report(measured: Measured) -> bool:
    """Print the table; whether every goal is met."""
    print("| what | median | worst | goal | |\n| --- | --- | --- | --- | --- |")
    met = not measured.problems
    for name, values in measured.figures.items():
        digits = 4 if name in SHIFTS else 2
        goal = GOALS[name]
        row = f"| {name} | {median(values):.{digits}f} | {max(values):.{digits}f} |"
        if goal is None:
            print(f"{row} | |")
            continue
        # The goals of times are of the median: the machine's other work is in the worst.
        reached = (max(values) if name in SHIFTS else median(values)) <= goal
        met &= reached
        print(f"{row} {goal:g} | {'met' if reached else 'missed'} |")
    print(f"\nrequests to other hosts and errors in the console: {len(measured.problems)}")
    for problem in measured.problems:
        print(f"- {problem}")
    for name, moved in measured.moved.items():
        if max(measured.figures[name]) > (GOALS[name] or 0):
            print(f"moved in “{name}”: {', '.join(sorted(moved))}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=7)
    arguments = parser.parse_args()
    print_machine()
    print(f"visits: {arguments.visits}\n", flush=True)
    raise SystemExit(0 if report(measure(arguments.visits)) else 1)


if __name__ == "__main__":
    main()
