"""What the page costs: time from the server's tick to the drawing in the browser, bytes a tick, and decode speed.

The real program and a real Chromium on this machine, the bundled model. A tick's time runs from the moment the
handler gives it to Gradio until the browser's frame after the one that drew it; it is taken twice, for the map with
the status line (the scope's token counter) and for the third answer's text. Decode speed is measured three ways in
turn: by a process that writes the same three replies without a page; in the page with the browser held still while the
server writes, as if it were on another machine; and in the page with the browser drawing on the same cores.

    python -m benchmarks.page_latency [--rounds 5] [--tokens 120]
"""

from __future__ import annotations

import argparse
import html
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.machine import print_machine
from benchmarks.running_app import (
    CHROMIUM_OPTIONS,
    ROOT,
    ask,
    chromium_path,
    set_number,
    start_server,
    wait_for_state,
    wait_until_ready,
)

QUESTION = "Explain to a curious neighbour how bread rises, and why kneading matters for it."
IDEA = "poetic"  # the one in view when the page is opened

# Server and browser read the same clock. A drawing can be seen in the frame after it.
WATCH = """() => {
  const scope = document.querySelector('#scope');
  const now = () => (performance.timeOrigin + performance.now()) / 1000;
  const note = (list, size) => requestAnimationFrame(() => list.push([now(), size]));
  window.drawn = { map: [], text: [] };
  new MutationObserver(() => note(drawn.map, Number(scope.dataset.tokens)))
    .observe(scope, { attributeFilter: ['data-tokens'] });
  new MutationObserver(() => {
    const answers = document.querySelectorAll('#pane-added .bot .message-content');
    if (answers.length) note(drawn.text, answers[answers.length - 1].textContent.trim().length);
  }).observe(document.querySelector('#pane-added'), { childList: true, characterData: true, subtree: true });
}"""


@dataclass(frozen=True)
class Tick:
    """What the server gave at a time: tokens of the longest answer, characters of the third."""

    time: float
    tokens: int
    characters: int


@dataclass(frozen=True)
class Run:
    """One question on the page; delays in seconds, sizes in bytes of the event stream.

    The closing message, once a run, has every output whole; ``bytes_per_tick`` is of all others.
    """

    map_delays: list[float]
    text_delays: list[float]
    bytes_per_tick: float
    last_bytes: int
    steps_per_second: float
    ticks_per_second: float


# ---------------------------------------------------------------- the server's side


def serve(ticks_path: str, options: list[str]) -> None:
    """Run the program, and write down when its handler gave which tick to Gradio."""
    from steering.ui import serve as program
    from steering.ui.chat import Chat

    respond = Chat.respond
    ticks = Path(ticks_path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115  written until the program ends

    def noted(self: Chat, *arguments: Any) -> Iterator[Any]:
        for view in respond(self, *arguments):
            text = html.unescape(view[2][-1]["content"]).strip() if view[2] else ""
            ticks.write(json.dumps([time.time(), _newest_token(view[-1]), len(text)]) + "\n")
            yield view

    Chat.respond = noted  # type: ignore[method-assign]
    program.serve(options)


def _newest_token(log: str) -> int:
    at = log.rfind("\nT|")
    return int(log[at + 3 :].split("|", 1)[0]) if at >= 0 else 0


def write_without_page(tokens: int) -> None:
    """For each line on the standard input write the same replies, and print the steps a second."""
    import torch

    from steering import Variant, load_model, stream_side_by_side
    from steering.interventions import Dial
    from steering.preset_directions import preset_direction
    from steering.ui.strengths import preset_strength

    torch.set_num_threads(_app_threads())
    model = load_model("bundled", device="cpu")
    direction = preset_direction(model, IDEA)
    dial = Dial(preset_strength(IDEA).start)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, dial)]
    question = [{"role": "user", "content": QUESTION}]
    for _ in sys.stdin:
        steps = stream_side_by_side(
            model, question, variants, max_new_tokens=tokens, repetition_penalty=1.15, probe=direction
        )
        next(steps)
        start = time.perf_counter()
        count = sum(1 for _ in steps)
        print(count / (time.perf_counter() - start), flush=True)


def _app_threads() -> int:
    """With how many torch threads the program writes replies here."""
    from steering.machine import preferred_threads
    from steering.ui.engine import threads_beside_page

    return threads_beside_page(preferred_threads())


# ---------------------------------------------------------------- the browser's side


def run_on_page(page: Page, ticks_path: Path) -> Run:
    """Ask once, and put the server's ticks beside what the browser drew."""
    ticks_path.write_text("")
    chunks: list[int] = []
    streams: set[str] = set()
    wire = page.context.new_cdp_session(page)
    wire.on("Network.responseReceived", lambda event: _note_stream(event, streams))
    wire.on("Network.dataReceived", lambda event: event["requestId"] in streams and chunks.append(event["dataLength"]))
    wire.send("Network.enable")
    page.evaluate(WATCH)
    ask(page, QUESTION)
    page.locator("#ask").wait_for(state="visible")
    drawn = page.evaluate("drawn")
    wire.detach()
    ticks = _read_ticks(ticks_path)
    _clear(page)
    return Run(
        map_delays=_delays([(tick.time, tick.tokens) for tick in ticks], drawn["map"]),
        text_delays=_delays([(tick.time, tick.characters) for tick in ticks], drawn["text"]),
        bytes_per_tick=(sum(chunks) - max(chunks)) / len(ticks),
        last_bytes=max(chunks),
        steps_per_second=_steps_per_second(ticks),
        ticks_per_second=(len({tick.tokens for tick in ticks}) - 1) / (ticks[-1].time - ticks[0].time),
    )


def rate_with_browser_held(page: Page, ticks_path: Path) -> float:
    """Ask once and stop the browser's processes while the server writes; its steps a second."""
    ticks_path.write_text("")
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#ask").click()
    wait_for_state(page, "running")
    browser = [process for process in psutil.Process().children(recursive=True) if "chrom" in process.name()]
    for process in browser:
        process.suspend()
    try:
        _wait_until_quiet(ticks_path)
    finally:
        for process in browser:
            process.resume()
    wait_for_state(page, "idle")
    rate = _steps_per_second(_read_ticks(ticks_path))
    _clear(page)
    return rate


def _wait_until_quiet(path: Path) -> None:
    """Wait until a file has not grown for two seconds."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 2:
        time.sleep(0.2)
        if path.stat().st_size != size:
            size, since = path.stat().st_size, time.monotonic()


def _clear(page: Page) -> None:
    page.locator("#clear").click()
    page.wait_for_function("!document.querySelector('#panes .message-content')")


def _read_ticks(path: Path) -> list[Tick]:
    ticks = [Tick(*json.loads(line)) for line in path.read_text().splitlines()]
    return [tick for tick in ticks if tick.tokens]


def _steps_per_second(ticks: list[Tick]) -> float:
    return (ticks[-1].tokens - ticks[0].tokens) / (ticks[-1].time - ticks[0].time)


def _delays(given: list[tuple[float, int]], drawn: list[list[float]]) -> list[float]:
    """For each tick that brought something new, the seconds until as much or more was drawn."""
    delays, before = [], 0
    for moment, size in given:
        if size <= before:
            continue
        before = size
        delays.append(next(shown for shown, shown_size in drawn if shown_size >= size) - moment)
    return delays


def _note_stream(event: dict[str, Any], streams: set[str]) -> None:
    if "/queue/data" in event["response"]["url"]:
        streams.add(event["requestId"])


# ---------------------------------------------------------------- both in turn


def measure(rounds: int, tokens: int) -> tuple[list[Run], list[float], list[float]]:
    """Runs on the page, and steps a second with the browser held and without a page, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        ticks_path = Path(folder) / "ticks.jsonl"
        command = ("-m", "benchmarks.page_latency", "--serve", str(ticks_path))
        server = start_server(Path(folder) / "app.log", command=command)
        plain = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.page_latency", "--without-page", "--tokens", str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium_path(playwright), args=CHROMIUM_OPTIONS)
                page = browser.new_page(viewport={"width": 1360, "height": 900})
                page.goto(server.url)
                wait_until_ready(page)
                set_number(page, "Longest answer", tokens)
                runs, held, rates = [], [], []
                for turn in range(rounds + 1):
                    rate, run = _rate(plain), run_on_page(page, ticks_path)
                    still = rate_with_browser_held(page, ticks_path)
                    if turn:  # the first is for warming up
                        runs.append(run)
                        held.append(still)
                        rates.append(rate)
                browser.close()
        finally:
            server.stop()
            plain.kill()
            plain.wait()
    return runs, held, rates


def _rate(plain: subprocess.Popen[str]) -> float:
    assert plain.stdin is not None
    assert plain.stdout is not None
    plain.stdin.write("once\n")
    plain.stdin.flush()
    return float(plain.stdout.readline())


def report(runs: list[Run], held: list[float], rates: list[float]) -> None:
    """Print the tables."""
    print("| from tick to drawn, ms | p50 | p95 | max | ticks |\n| --- | --- | --- | --- | --- |")
    for name, delays in {
        "map, chart, status": [delay for run in runs for delay in run.map_delays],
        "third answer's text": [delay for run in runs for delay in run.text_delays],
    }.items():
        p50, p95 = median(delays), quantiles(delays, n=20)[-1]
        print(f"| {name} | {p50 * 1e3:.0f} | {p95 * 1e3:.0f} | {max(delays) * 1e3:.0f} | {len(delays)} |")
    per_tick = [run.bytes_per_tick for run in runs]
    print(f"\nbytes a tick: {median(per_tick):.0f} (largest of the runs {max(per_tick):.0f})")
    print(f"closing message, once a run: {median(run.last_bytes for run in runs):.0f} bytes")
    print(f"ticks a second: {median(run.ticks_per_second for run in runs):.1f}")
    print("\n| decode | steps/s | cost, median of the rounds |\n| --- | --- | --- |")
    print(f"| without a page | {median(rates):.1f} | |")
    for name, paged in {
        "in the page, browser held still": held,
        "in the page, browser drawing on the same cores": [run.steps_per_second for run in runs],
    }.items():
        cost = 1 - median(mine / other for mine, other in zip(paged, rates, strict=True))
        print(f"| {name} | {median(paged):.1f} | {100 * cost:.1f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--serve", metavar="TICKS", help=argparse.SUPPRESS)
    parser.add_argument("--without-page", action="store_true", help=argparse.SUPPRESS)
    arguments, others = parser.parse_known_args()
    if arguments.serve:
        serve(arguments.serve, others)
    elif arguments.without_page:
        write_without_page(arguments.tokens)
    else:
        print_machine()
        print(f"threads that write replies: {_app_threads()}")
        print(f"rounds {arguments.rounds}, {arguments.tokens} tokens\n", flush=True)
        report(*measure(arguments.rounds, arguments.tokens))


if __name__ == "__main__":
    main()
