"""How soon a moved strength and a pressed Stop act on a reply that is being written.

A move is counted in tokens that still come with the old strength: those after the newest that the model had written
when the strength was moved, and those after the newest that was shown by then. (The page is told of tokens about twelve
times a second, so those shown are some tokens behind; no control makes tokens unwritten.) A token counts as computed
with a strength only if its pass began after the strength was there, so one is usual: it is being computed. Without a
browser, the dial is turned at random moments during replies of the desk; with one, the slider of the real page is moved
with the arrow keys.

    python -m benchmarks.live_control [--moves 30] [--stops 8] [--tokens 120] [--browser]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.machine import print_machine
from benchmarks.running_app import (
    CHROMIUM_OPTIONS,
    chromium_path,
    set_number,
    start_server,
    wait_for_state,
    wait_until_ready,
)
from steering.ui.engine import Engine, ModelOptions
from steering.ui.turn import Tick, TurnRequest, TurnWriter

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from steering.ui.desk import Reply

IDEA = "poetic"  # the one in view when the page is opened
QUESTION = "Explain to a curious neighbour how bread rises, and why kneading matters for it."
GOAL_TOKENS = 2
GOAL_STOP = 0.3  # seconds, and one step
BEFORE_FIRST_MOVE = 0.4  # seconds from the first token shown
PAUSES = (0.15, 0.7)  # seconds between two moves: shortest and longest
SEED = 0

# Server and browser read the same clock. The listener is the first to hear of a move, before Gradio's script.
WATCH = """() => {
  const scope = document.querySelector('#scope');
  const now = () => (performance.timeOrigin + performance.now()) / 1000;
  window.moves = [];
  window.stops = [];
  document.addEventListener('input', (event) => {
    if (event.target.matches('#strength input[type=range]'))
      moves.push([now(), Number(scope.dataset.tokens), Number(event.target.value)]);
  }, true);
  document.addEventListener('click', (event) => {
    if (event.target.closest('#stop')) stops.push([now(), 0]);
  }, true);
  new MutationObserver(() => {
    if (scope.dataset.state === 'stopped' && stops.length && !stops.at(-1)[1]) stops.at(-1)[1] = now();
  }).observe(scope, { attributeFilter: ['data-state'] });
}"""


@dataclass(frozen=True)
class Note:
    """After a step: the time, the tokens of the longest reply, and the strength that the next pass begins with."""

    time: float
    tokens: int
    strength: float


@dataclass(frozen=True)
class Move:
    """A strength that was set, when, and how many tokens had been shown."""

    time: float
    shown: int
    strength: float


@dataclass
class Measured:
    """What came of all moves and stops; tokens as counted above, seconds."""

    from_written: list[int] = field(default_factory=list)
    from_shown: list[int] = field(default_factory=list)
    on_the_way: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    too_late: int = 0

    def take(self, notes: Sequence[Note], moves: Sequence[Move]) -> None:
        """Take up one reply; moves that came too near its end to act are only counted."""
        self.steps += [after.time - before.time for before, after in pairwise(notes)]
        for move, following in zip(moves, [*moves[1:], None], strict=True):
            until = following.time if following else float("inf")
            seen = next((n for n in notes if n.time >= move.time and abs(n.strength - move.strength) < 1e-6), None)
            changed = next((n.tokens for n in notes if seen and n.time > seen.time), None)
            written = max((n.tokens for n in notes if n.time < move.time), default=0)
            if seen is None or changed is None or seen.time > until:
                self.too_late += 1
                continue
            self.from_written.append(changed - written - 1)
            self.from_shown.append(changed - move.shown - 1)
            self.on_the_way.append(seen.time - move.time)


@contextmanager
def noted(note: Callable[[Note], None]) -> Iterator[None]:
    """Within this context each step of a turn is noted, on the model's thread."""
    take = TurnWriter.take

    def taking(self: TurnWriter, step: Any) -> None:
        take(self, step)
        note(Note(time.time(), max(step.n_tokens), self.dial.value))

    with patch.object(TurnWriter, "take", taking):
        yield


# ---------------------------------------------------------------- without a browser


def at_the_desk(moves: int, stops: int, tokens: int) -> Measured:
    """Turn the dial, and stop, during replies of the program's own engine."""
    from steering.ui.strengths import preset_strength
    from steering.variants import Dial

    engine = loaded_engine()
    measured, dice, notes = Measured(), random.Random(SEED), list[Note]()
    end = preset_strength(IDEA).end
    with noted(notes.append):
        _read(engine.desk.ask(_request(Dial(1.0), 8)))  # warm
        while len(measured.from_written) < moves:
            notes.clear()
            dial = Dial(preset_strength(IDEA).start)
            reply = engine.desk.ask(_request(dial, tokens))
            measured.take(notes, _turned(reply, dial, dice, end))
        for _ in range(stops):
            reply = engine.desk.ask(_request(Dial(1.0), tokens))
            measured.stops.append(_stopped(reply, dice))
    return measured


def loaded_engine() -> Engine:
    """The program's engine with the bundled model, as the page has it."""
    engine = Engine(ModelOptions(device="cpu"))
    engine.load("bundled", "bundled")
    while engine.model is None:
        if engine.loading is not None and engine.loading.error:
            raise RuntimeError(engine.loading.error)
        time.sleep(0.02)
    return engine


def _request(dial: Any, tokens: int) -> TurnRequest:
    return TurnRequest(IDEA, None, [[], [], []], QUESTION, dial, max_new_tokens=tokens)


def _read(reply: Reply) -> None:
    for _ in reply.reports():
        pass


def _turned(reply: Reply, dial: Any, dice: random.Random, end: float) -> list[Move]:
    """Read a reply to its end, and turn the dial meanwhile from another thread."""
    moves: list[Move] = []
    shown, first, over = [0], threading.Event(), threading.Event()

    def turn() -> None:
        first.wait()
        pause = BEFORE_FIRST_MOVE
        while not over.wait(pause):
            strength = round(dice.uniform(0, end), 4)
            moves.append(Move(time.time(), shown[0], strength))
            dial.value = strength
            pause = dice.uniform(*PAUSES)

    turning = threading.Thread(target=turn)
    turning.start()
    for report in reply.reports():
        if isinstance(report, Tick) and not report.started:
            shown[0] = max(report.n_tokens)
            first.set()
    first.set()
    over.set()
    turning.join()
    return moves


def _stopped(reply: Reply, dice: random.Random) -> float:
    """Stop a reply at a random moment; seconds until its reader is told the end."""
    asked_at: list[float] = []

    def stop() -> None:
        asked_at.append(time.time())
        reply.stop()

    timer = None
    for report in reply.reports():
        if timer is None and isinstance(report, Tick) and not report.started:
            timer = threading.Timer(dice.uniform(0.1, 0.6), stop)
            timer.start()
    end = time.time()
    if timer is not None:
        timer.join()
    return end - asked_at[0]


# ---------------------------------------------------------------- in the browser


def serve(notes_path: str, options: list[str]) -> None:
    """Run the program, and write down each step."""
    from steering.ui import serve as program

    notes = Path(notes_path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115  written until the program ends

    def write(note: Note) -> None:
        notes.write(json.dumps([note.time, note.tokens, note.strength]) + "\n")

    with noted(write):
        program.serve(options)


def on_the_page(moves: int, stops: int, tokens: int) -> Measured:
    """Move the slider with the arrow keys, and press Stop, in Chromium on the real page."""
    from playwright.sync_api import sync_playwright

    measured, dice = Measured(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        notes_path = Path(folder) / "notes.jsonl"
        command = ("-m", "benchmarks.live_control", "--serve", str(notes_path))
        server = start_server(Path(folder) / "app.log", command=command)
        try:
            browser = playwright.chromium.launch(executable_path=chromium_path(playwright), args=CHROMIUM_OPTIONS)
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            page.goto(server.url)
            wait_until_ready(page)
            set_number(page, "Longest answer", tokens)
            page.evaluate(WATCH)
            _begin(page)  # warm
            wait_for_state(page, "idle")
            _clear(page)
            while len(measured.from_written) < moves:
                notes_path.write_text("")
                page.evaluate("moves.length = 0")
                _begin(page)
                _press_arrows(page, dice)
                notes = [Note(*json.loads(line)) for line in notes_path.read_text().splitlines()]
                measured.take(notes, [Move(*move) for move in page.evaluate("moves")])
                _clear(page)
            for _ in range(stops):
                _begin(page)
                page.wait_for_timeout(1000 * dice.uniform(0.1, 0.6))
                page.locator("#stop").click()
                wait_for_state(page, "stopped")
                _clear(page)
            measured.stops += [end - start for start, end in page.evaluate("stops")]
            browser.close()
        finally:
            server.stop()
    return measured


def _begin(page: Page) -> None:
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#ask").click()
    wait_for_state(page, "running")


def _press_arrows(page: Page, dice: random.Random) -> None:
    """Move the slider back and forth until the reply has ended."""
    slider = page.locator("#strength input[type=range]")
    page.wait_for_timeout(1000 * BEFORE_FIRST_MOVE)
    keys = ("ArrowLeft", "ArrowRight")
    count = 0
    while page.locator("#scope").get_attribute("data-state") == "running":
        slider.press(keys[count % 2])
        count += 1
        page.wait_for_timeout(1000 * dice.uniform(*PAUSES))
    wait_for_state(page, "idle")


def _clear(page: Page) -> None:
    page.locator("#clear").click()
    page.wait_for_function("!document.querySelector('#panes .message-content')")


# ---------------------------------------------------------------- both


def report(name: str, measured: Measured) -> None:
    """Print the table of one level."""
    step = median(measured.steps)
    print(f"\n{name}: {len(measured.from_written)} moves, {len(measured.stops)} stops, {1 / step:.1f} steps/s.\n")
    print("| | median | worst |\n| --- | --- | --- |")
    print(_row("tokens with the old strength, after the newest written", measured.from_written))
    print(_row("tokens with the old strength, after the newest shown", measured.from_shown))
    print(_row("move until the model's thread has it, ms", [1e3 * one for one in measured.on_the_way]))
    print(_row("Stop to the end, ms", [1e3 * one for one in measured.stops]))
    print(_row("one step, ms", [1e3 * one for one in measured.steps]))
    print()
    for seen, counts in {"written": measured.from_written, "shown": measured.from_shown}.items():
        within = sum(one <= GOAL_TOKENS for one in counts)
        moved = "reached" if within == len(counts) else "**missed**"
        print(
            f"Goal, at most {GOAL_TOKENS} old tokens after the newest {seen}: {moved}, {within} of {len(counts)} moves."
        )
    if measured.stops:
        ended = "reached" if max(measured.stops) <= GOAL_STOP + step else "**missed**"
        limit = 1e3 * (GOAL_STOP + step)
        print(
            f"Goal, Stop acts within 300 ms and one step ({limit:.0f} ms): {ended}, {1e3 * max(measured.stops):.0f} ms."
        )
    if measured.too_late:
        print(f"({measured.too_late} more moves came at a reply's end, or were moved on before they could act.)")


def _row(name: str, values: Sequence[float]) -> str:
    if not values:
        return f"| {name} | – | – |"
    return f"| {name} | {median(values):.0f} | {max(values):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=30)
    parser.add_argument("--stops", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--browser", action="store_true", help="on the real page instead, in Chromium")
    parser.add_argument("--serve", metavar="NOTES", help=argparse.SUPPRESS)
    arguments, others = parser.parse_known_args()
    if arguments.serve:
        serve(arguments.serve, others)
        return
    print_machine()
    if arguments.browser:
        report("In Chromium, on the page", on_the_page(arguments.moves, arguments.stops, arguments.tokens))
    else:
        report("At the desk, without a browser", at_the_desk(arguments.moves, arguments.stops, arguments.tokens))


if __name__ == "__main__":
    main()
