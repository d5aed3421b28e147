"""Time to the first token as a conversation grows, with the keys and values of earlier turns kept and without.

A conversation of several turns in three columns, through the program's own desk: from asking to the first token that
is reported. Two conversations take turns, one of a visitor whose rows are kept, one of a visitor for whom nothing is.
Replies have their full length: the tokens that would end them cannot be chosen.

    python -m benchmarks.first_token [--rounds 3] [--turns 6] [--tokens 100]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.live_control import loaded_engine
from benchmarks.machine import print_machine
from steering.ui.strengths import preset_strength
from steering.ui.turn import Tick, TurnRequest

if TYPE_CHECKING:
    from steering.ui.conversations import Message
    from steering.ui.engine import Engine

IDEA = "poetic"
QUESTIONS = (
    "Explain to a neighbour how bread rises.",
    "Why does kneading matter for it?",
    "What if the room is cold in winter?",
    "How do I know that it is baked through?",
    "What can I do with what is left on the next day?",
    "Which flour would you take for a first try?",
)
GOAL = 1.5  # the last turn's time over the first one's


@dataclass
class Talk:
    """One conversation; ``owner`` is whose rows are kept, "" for nobody."""

    owner: str
    histories: list[list[Message]] = field(default_factory=lambda: [[], [], []])
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def ask(self, engine: Engine, question: str, tokens: int) -> None:
        """Have the next turn written, and note how long its first token took."""
        from steering.variants import Dial

        dial = Dial(preset_strength(IDEA).start)
        histories = [[*history] for history in self.histories]
        start = time.perf_counter()
        request = TurnRequest(IDEA, None, histories, question, dial, owner=self.owner, max_new_tokens=tokens)
        reply = engine.desk.ask(request)
        first, newest = 0.0, Tick("")
        for report in reply.reports():
            if isinstance(report, Tick) and not report.started:
                first = first or time.perf_counter() - start
                newest = report
        self.seconds.append(first)
        self.tokens.append(min(newest.n_tokens))
        for history, text in zip(self.histories, newest.texts, strict=True):
            history += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]

    @property
    def growth(self) -> float:
        """The last turn's time over the first one's."""
        return self.seconds[-1] / self.seconds[0]


def _never_choose(tokens: list[int]) -> None:
    """Let no reply have any of these tokens. (To ignore them instead would leave them in the middle of a reply.)"""
    from steering.sampling import Sampler

    choose = Sampler.choose

    def without(sampler: Sampler, logits: Tensor, rows: list[int]) -> Tensor:
        barred = logits.clone()
        barred[:, tokens] = -torch.inf
        return choose(sampler, barred, rows)

    Sampler.choose = without  # type: ignore[method-assign]


def measure(engine: Engine, rounds: int, turns: int, tokens: int) -> tuple[list[Talk], list[Talk], int]:
    """Conversations with kept rows and without, in turn, and the most bytes that were kept of one."""
    kept_talks: list[Talk] = []
    plain_talks: list[Talk] = []
    most = 0
    model = engine.ready_model()
    _never_choose(sorted(model.end_tokens))
    warm = Talk("")
    for question in QUESTIONS[:2]:
        warm.ask(engine, question, 8)
    for number in range(rounds):
        kept, plain = Talk(f"visitor {number}"), Talk("")
        for turn in range(turns):
            question = QUESTIONS[turn % len(QUESTIONS)]
            for talk in (kept, plain) if (turn + number) % 2 else (plain, kept):
                talk.ask(engine, question, tokens)
        most = max(most, engine.kept_rows.nbytes)
        engine.forget(kept.owner)
        kept_talks.append(kept)
        plain_talks.append(plain)
    return kept_talks, plain_talks, most


def report(kept: list[Talk], plain: list[Talk], nbytes: int) -> None:
    """Print the table."""
    turns = len(kept[0].seconds)
    print("| turn | first token, kept, ms | first token, nothing kept, ms |\n| --- | --- | --- |")
    for turn in range(turns):
        times = [1e3 * median(talk.seconds[turn] for talk in talks) for talks in (kept, plain)]
        print(f"| {turn + 1} | {times[0]:.0f} | {times[1]:.0f} |")
    ratio, plain_ratio = (median(talk.growth for talk in talks) for talks in (kept, plain))
    print(f"| turn {turns} / turn 1 | {ratio:.2f} | {plain_ratio:.2f} |")
    print(f"\nShortest reply {min(min(talk.tokens) for talk in kept + plain)} tokens.")
    print(f"Kept of one visitor after turn {turns}: {nbytes / 1e6:.1f} MB.")
    words = "reached" if ratio <= GOAL else "**missed**"
    print(f"\nGoal, turn {turns} over turn 1 ≤ {GOAL:g}: {words}, {ratio:.2f} (nothing kept: {plain_ratio:.2f}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=100)
    arguments = parser.parse_args()
    print_machine()
    engine = loaded_engine()
    print(f"{arguments.rounds} rounds, replies of {arguments.tokens} tokens, three columns\n")
    report(*measure(engine, arguments.rounds, arguments.turns, arguments.tokens))


if __name__ == "__main__":
    main()
