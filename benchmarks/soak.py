"""Many visitors for some minutes at the real program on this machine, half of them leaving in the middle of a reply.

Three of five visitors have a page: a session with a heartbeat, questions through the page's own events and its queue,
two questions a visit. The others are programs that ask `/steer` over plain HTTP. Every second visit ends in the middle
of a reply, without a word. The server computes in float32, so that what it should have answered is known: the same
replies written alone. It ends by itself: after the minutes no visit is begun.

    python -m benchmarks.soak [--minutes 10] [--visitors 50] [--tokens 24]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.http_visitor import PATIENCE, Events, Left, Refused, page_visit, steer
from benchmarks.machine import print_machine
from benchmarks.running_app import Server, start_server
from steering.ui.chat import FIRST_IDEA
from steering.ui.strengths import preset_strength

SCRIPTS = (  # an idea and the two questions of a visit
    ("poetic", ("Tell me about rivers.", "And where do they end?")),
    ("pirate", ("How do I bake bread?", "What goes well with it?")),
    ("sea", ("What is a good way to rest?", "Name one more.")),
    ("poetic", ("Why do leaves turn red?", "Do all of them?")),
    ("pirate", ("What is the moon made of?", "How far away is it?")),
    ("child", ("What does a baker do?", "When does the work begin?")),
)
PENALTY = 1.15  # the page's, and the default of /steer
GOAL_MEMORY = 60  # MB above what it was before
MOST_VISITS = 40  # of one visitor
PAUSE = (1.0, 8.0)  # seconds between two visits
PATIENCE_TO_SETTLE = 90  # seconds until what runs for visitors who left must be gone
SETTLE = 10  # seconds after that, until the memory is read
SEED = 0


@dataclass
class Outcome:
    """What became of all questions."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Crowd:
    """The visitors, and what they should be answered.

    Args:
        expected: by script, the three texts of each of its questions.
    """

    def __init__(self, url: str, expected: list[list[list[str]]], tokens: int) -> None:
        self._url = url
        self._expected = expected
        self._tokens = tokens
        self.outcome = Outcome()

    async def run(self, visitors: int, seconds: float, leaving: bool = True, most_visits: int = MOST_VISITS) -> None:
        """Let so many come, each again and again, until the time is over; every visit that was begun is ended."""
        end = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=PATIENCE, limits=limits) as client:
            events = await Events.of(client)
            crowd = [self._visitor(client, events, number, end, leaving, most_visits) for number in range(visitors)]
            await asyncio.gather(*crowd)

    async def _visitor(
        self, client: httpx.AsyncClient, events: Events, number: int, end: float, leaving: bool, most_visits: int
    ) -> None:
        dice = random.Random(SEED + number)
        await asyncio.sleep(dice.uniform(0, min(10.0, max(0.0, end - time.monotonic()) / 4)))
        for visit in range(most_visits):
            script = dice.randrange(len(SCRIPTS))
            leave_after = dice.randint(1, 6) if leaving and (number + visit) % 2 else None
            try:
                if number % 5 < 3:
                    await self._on_a_page(client, events, script, leave_after)
                else:
                    await self._by_program(client, script, leave_after)
            except Left:
                self.outcome.counts["left in the middle"] += 1
            except Refused as refusal:
                self.outcome.counts["refused"] += 1
                self.outcome.wrong.append(f"refused: {refusal}")
            except httpx.HTTPError as error:
                self.outcome.counts["lost"] += 1
                self.outcome.wrong.append(f"lost: {type(error).__name__} {error}")
            pause = dice.uniform(*PAUSE)
            if time.monotonic() + pause > end:
                return
            await asyncio.sleep(pause)

    async def _on_a_page(self, client: httpx.AsyncClient, events: Events, script: int, leave_after: int | None) -> None:
        idea, questions = SCRIPTS[script]
        leaves_at = script % len(questions) if leave_after else None  # at the first question or the second
        async with page_visit(client, events) as page:
            self.outcome.counts["visits on a page"] += 1
            if idea != FIRST_IDEA:
                await page.call(events.choose, [idea, ""])
            for place, question in enumerate(questions):
                start = time.monotonic()
                after = leave_after if place == leaves_at else None
                texts = await page.ask(question, preset_strength(idea).start, self._tokens, after)
                self._judge(script, place, texts, start)

    async def _by_program(self, client: httpx.AsyncClient, script: int, leave_after: int | None) -> None:
        idea, questions = SCRIPTS[script]
        self.outcome.counts["calls of /steer"] += 1
        start = time.monotonic()
        arguments = [questions[0], idea, preset_strength(idea).start, 0, self._tokens, 0.0, "", PENALTY]
        self._judge(script, 0, await steer(client, arguments, leave_after), start)

    def _judge(self, script: int, place: int, texts: list[str], start: float) -> None:
        """Hold an answer against what was expected; another question's answer is mixed, any other text wrong."""
        self.outcome.seconds.append(time.monotonic() - start)
        found = [text.strip() for text in texts]
        if found == [text.strip() for text in self._expected[script][place]]:
            self.outcome.counts["whole and right"] += 1
            return
        others = {text.strip() for answers in self._expected for one in answers for text in one if text.strip()}
        mixed = any(text in others for text in found if text not in map(str.strip, self._expected[script][place]))
        self.outcome.counts["mixed" if mixed else "wrong"] += 1
        self.outcome.wrong.append(f"{SCRIPTS[script]} at {place}: {found}, not {self._expected[script][place]}")


# ---------------------------------------------------------------- what should be answered


def expected_answers(tokens: int) -> list[list[list[str]]]:
    """By script and question, the three texts that a turn written alone has, in float32."""
    from steering.ui.engine import Engine, ModelOptions
    from steering.ui.turn import Tick, TurnRequest, run_turn
    from steering.variants import Dial

    engine = Engine(ModelOptions(device="cpu", dtype="float32"))
    engine.load("bundled", "bundled")
    while engine.model is None:
        time.sleep(0.02)
    answers = []
    for idea, questions in SCRIPTS:
        histories: list[list[dict[str, str]]] = [[], [], []]
        written: list[list[str]] = []
        for question in questions:
            ticks: list[Tick] = []
            dial = Dial(preset_strength(idea).start)
            request = TurnRequest(
                idea, None, [[*history] for history in histories], question, dial, max_new_tokens=tokens
            )
            run_turn(engine, request, ticks.append, lambda *_: None)
            written.append(ticks[-1].texts)
            for history, text in zip(histories, ticks[-1].texts, strict=True):
                history += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        answers.append(written)
    return answers


# ---------------------------------------------------------------- the server


def serve(options: list[str]) -> None:
    """Run the program with two facts more on its status page: hooks on the model, and bytes kept between turns."""
    from steering.ui import serve as program
    from steering.ui import status as page

    plain = page.status

    def with_more(engine: Any, *others: Any) -> dict[str, Any]:
        modules = engine.model.model.modules() if engine.model else ()
        hooks = sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)
        kept = engine.kept_rows.nbytes if "kept_rows" in engine.__dict__ else 0
        return plain(engine, *others) | {"hooks": hooks, "kept_bytes": kept, "decoded_rows": engine.desk.rows}

    page.status = with_more
    program.serve(options)


def facts(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}status.json", timeout=30) as answer:
        return dict(json.load(answer))


RESTING = ("turns", "rows", "decoded_rows", "queue", "visitors", "kept_bytes", "hooks")  # 0 when nobody is there


def settled(server: Server) -> dict[str, Any]:
    """What the server says of itself once nothing runs any more, or once patience has ended."""
    end = time.monotonic() + PATIENCE_TO_SETTLE
    while any(facts(server)[name] for name in RESTING) and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(SETTLE)
    return facts(server)


def measure(minutes: float, visitors: int, tokens: int) -> tuple[Outcome, dict[str, Any], dict[str, Any]]:
    """What became of the questions, and the server's facts before and after."""
    expected = expected_answers(tokens)
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "benchmarks.soak", "--serve")
        options = ("--dtype", "float32", "--status-page")
        server = start_server(Path(folder) / "app.log", *options, command=command)
        try:
            while facts(server)["model"] is None:
                time.sleep(0.2)
            # A batch that was full once and one turn of each kind: what is taken then is kept, and no leak.
            asyncio.run(Crowd(server.url, expected, tokens).run(min(visitors, 10), 5, leaving=False, most_visits=1))
            before = settled(server)
            crowd = Crowd(server.url, expected, tokens)
            asyncio.run(crowd.run(visitors, 60 * minutes))
            after = settled(server)
            crowd.outcome.counts["tracebacks in the log"] = server.log().count("Traceback")
        finally:
            server.stop()
    return crowd.outcome, before, after


def report(outcome: Outcome, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print the tables."""
    print("| visits and questions | |\n| --- | --- |")
    names = ("visits on a page", "calls of /steer", "left in the middle", "whole and right", "mixed", "wrong")
    for name in (*names, "lost", "refused", "tracebacks in the log"):
        print(f"| {name} | {outcome.counts[name]} |")
    if outcome.seconds:
        ordered = sorted(outcome.seconds)
        print(f"| seconds of a whole answer, median | {ordered[len(ordered) // 2]:.1f} |")
        print(f"| seconds of a whole answer, longest | {ordered[-1]:.1f} |")
    print("\n| the server | before | after |\n| --- | --- | --- |")
    for name in ("memory_mb", *RESTING):
        print(f"| {name.replace('_', ' ')} | {before[name]:,} | {after[name]:,} |")
    for line in outcome.wrong[:10]:
        print(f"\n{line}")
    grown = after["memory_mb"] - before["memory_mb"]
    bad = sum(outcome.counts[name] for name in ("mixed", "wrong", "lost", "refused", "tracebacks in the log"))
    left = [name for name in RESTING if after[name]]
    reached = not bad and not left and grown <= GOAL_MEMORY and outcome.counts["whole and right"]
    words = "reached" if reached else "**missed**"
    print(
        f"\nGoal, no answer lost or mixed, memory back to within {GOAL_MEMORY} MB, hooks, queue and rows 0: {words}; "
        f"{outcome.counts['whole and right']} whole answers right, {bad} not, {grown:+d} MB, left behind: "
        f"{', '.join(left) or 'nothing'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments, others = parser.parse_known_args()
    if arguments.serve:
        serve(others)
        return
    print_machine()
    print(f"{arguments.visitors} visitors, {arguments.minutes:g} minutes, {arguments.tokens} tokens an answer\n")
    report(*measure(arguments.minutes, arguments.visitors, arguments.tokens))


if __name__ == "__main__":
    main()
