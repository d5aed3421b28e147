"""Several visitors' turns in one batch against the same turns one after another, without a page.

Each visitor asks one question with an idea of their own in three columns: as it is, taken out, turned up. Two things
are measured. Speed: tokens a second of all of them together, prompts included, and how long each visitor waits for
the first word and for the whole reply. Exactness: whether the replies are those that each visitor gets alone, in
float32 token for token, and in bfloat16 how many rows differ and, at a row's first differing token, how close the two
tokens were: the difference of their log probabilities after the repetition penalty, as the sampler saw them.

    python -m benchmarks.visitors [--visitors 4 8] [--rounds 5] [--tokens 48] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.machine import print_machine
from steering import Variant, load_model, replies
from steering.machine import preferred_threads
from steering.models import ChatModel
from steering.preset_directions import preset_direction
from steering.replies import Replies, ReplyRequest
from steering.reply_batch import ReplyBatch
from steering.sampling import Sampler, SamplingSettings
from steering.ui.strengths import strength_of

QUESTIONS = (
    ("poetic", "Explain to a neighbour how bread rises, and why kneading matters."),
    ("pirate", "How do I find my way in a city I do not know?"),
    ("sea", "Tell me about the room you would like to work in."),
    ("child", "Why is the sky blue in the day and red in the evening?"),
    ("sounds-like-ai", "What should I look at before I rent a flat?"),
    ("refusing", "Write three sentences about a garden in autumn."),
    ("poetic", "What does a clock maker do all day?"),
    ("sea", "How is paper made?"),
)
PENALTY = 1.15  # the page's
SAMPLED = 0.8  # the temperature of every second visitor where exactness in float32 is looked at
REMEMBERED = 50  # likeliest tokens of each step; what another batch chose is among them
GOAL = 2.0  # tokens a second over those of one after another, for four


def requests(model: ChatModel, visitors: int, tokens: int, *, sampled: bool = False) -> list[ReplyRequest]:
    """One turn for each visitor; ``sampled``: every second one throws dice, each with a seed of their own."""
    asked = []
    for number in range(visitors):
        idea, question = QUESTIONS[number % len(QUESTIONS)]
        direction = preset_direction(model, idea)
        start = strength_of(direction).start
        variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, start)]
        temperature = SAMPLED if sampled and number % 2 else 0.0
        settings = SamplingSettings(temperature, repetition_penalty=PENALTY, seed=number)
        conversations = [[{"role": "user", "content": question}]] * len(variants)
        asked.append(ReplyRequest(conversations, variants, settings, max_new_tokens=tokens, keeps=False))
    return asked


# ---------------------------------------------------------------- speed


@dataclass(frozen=True)
class Waits:
    """Seconds from the moment at which all visitors ask; one entry a visitor."""

    first_word: list[float]
    whole: list[float]
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second of all visitors together."""
        return self.tokens / max(self.whole)


def together(model: ChatModel, asked: Sequence[ReplyRequest]) -> Waits:
    """All turns in one batch."""
    start = time.perf_counter()
    batch = ReplyBatch(model)
    turns: list[Replies] = []
    first_word: list[float] = []
    for request in asked:
        turns.append(batch.join(request))
        first_word.append(time.perf_counter() - start)
    whole = [0.0] * len(turns)
    while not all(whole):
        batch.step()
        now = time.perf_counter() - start
        whole = [
            before or (now if turn.finished or turn.error else 0.0) for before, turn in zip(whole, turns, strict=True)
        ]
    return Waits(first_word, whole, _tokens(turns))


def one_after_another(model: ChatModel, asked: Sequence[ReplyRequest]) -> Waits:
    """Each turn in a batch of its own, the next when it has ended: a queue."""
    start = time.perf_counter()
    turns: list[Replies] = []
    first_word: list[float] = []
    whole: list[float] = []
    for request in asked:
        batch = ReplyBatch(model)
        turns.append(batch.join(request))
        first_word.append(time.perf_counter() - start)
        while not turns[-1].finished:
            batch.step()
        whole.append(time.perf_counter() - start)
    return Waits(first_word, whole, _tokens(turns))


def _tokens(turns: Sequence[Replies]) -> int:
    failed = [turn.error for turn in turns if turn.error is not None]
    if failed:
        raise failed[0]
    return sum(sum(turn.newest.n_tokens) for turn in turns)


def report_speed(model: ChatModel, visitors: Sequence[int], rounds: int, tokens: int) -> None:
    """Print the table of tokens a second, and the waits of the largest number of visitors."""
    measured: dict[int, list[tuple[Waits, Waits]]] = {number: [] for number in visitors}
    for number in visitors:
        asked = requests(model, number, tokens)
        together(model, asked), one_after_another(model, asked[:1])  # warm
        for turn in range(rounds):
            if turn % 2:
                queue, shared = one_after_another(model, asked), together(model, asked)
            else:
                shared, queue = together(model, asked), one_after_another(model, asked)
            measured[number].append((shared, queue))
    print("| visitors | together, tokens/s | one after another, tokens/s | ratio | smallest and largest |")
    print("| --- | --- | --- | --- | --- |")
    ratios: dict[int, float] = {}
    for number, pairs in measured.items():
        each = [shared.rate / queue.rate for shared, queue in pairs]
        ratios[number] = median(each)
        print(
            f"| {number} | {median(shared.rate for shared, _ in pairs):.1f} | "
            f"{median(queue.rate for _, queue in pairs):.1f} | {ratios[number]:.2f} | "
            f"{min(each):.2f} to {max(each):.2f} |"
        )
    if 4 in ratios:
        words = "reached" if ratios[4] >= GOAL else "**missed**"
        print(f"\nGoal ≥ {GOAL:g} for four visitors: {words}, {ratios[4]:.2f}.")
    _report_waits(max(visitors), measured[max(visitors)])


def _report_waits(visitors: int, pairs: Sequence[tuple[Waits, Waits]]) -> None:
    print(f"\nSeconds until a visitor has the first word and the whole reply; {visitors} ask at the same moment.\n")
    print("| visitor | first word, together | in a queue | whole reply, together | in a queue |")
    print("| --- | --- | --- | --- | --- |")
    later_first = later_whole = 0
    wholes: list[tuple[float, float]] = []
    for place in range(visitors):
        first = [median(waits.first_word[place] for waits in kind) for kind in zip(*pairs, strict=True)]
        whole = [median(waits.whole[place] for waits in kind) for kind in zip(*pairs, strict=True)]
        # The first of a queue does what is done together, and differs by noise alone.
        later_first += place > 0 and first[0] > first[1]
        later_whole += whole[0] > whole[1]
        wholes.append((whole[0], whole[1]))
        print(f"| {place + 1} | {first[0]:.2f} | {first[1]:.2f} | {whole[0]:.2f} | {whole[1]:.2f} |")
    last = [max(one) for one in zip(*wholes, strict=True)]
    print(
        f"\nWhole reply on average {mean(one for one, _ in wholes):.2f} s together, "
        f"{mean(one for _, one in wholes):.2f} s in a queue; "
        f"the last of them after {last[0]:.2f} s and {last[1]:.2f} s."
    )
    words = "reached" if later_first == 0 and last[0] <= last[1] else "**missed**"
    print(
        f"Goal, for {visitors} nobody waits longer for their turn than in a queue, nor the last for its end: {words}, "
        f"{later_first} of {visitors} have a later first word. ({later_whole} have their last word later: those at a "
        "queue's head, who would have had the machine to themselves.)"
    )


# ---------------------------------------------------------------- exactness


class NotedSampler(Sampler):
    """A sampler that remembers what it chose from: the likeliest tokens' log probabilities after the penalty."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[dict[int, dict[int, float]]] = []  # by step, row and token

    def _penalised(self, scores: Tensor, places: Tensor) -> Tensor:
        penalised = super()._penalised(scores, places)
        best, ids = penalised.log_softmax(dim=-1).topk(REMEMBERED)
        rows = zip(places.tolist(), ids.tolist(), best.tolist(), strict=True)
        self.seen.append({place: dict(zip(tokens, logs, strict=True)) for place, tokens, logs in rows})
        return penalised


@dataclass(frozen=True)
class Difference:
    """Where a row first differs: token number from 1, and how far its own token led over the other's, in nats."""

    visitor: int
    column: str
    token: int
    margin_alone: float
    margin_together: float


def compared(model: ChatModel, asked: Sequence[ReplyRequest]) -> tuple[int, int, list[Difference]]:
    """How many visitors and how many rows get in a batch what they get alone, and where the other rows part."""
    with _noted():
        batch = ReplyBatch(model)
        shared = [batch.join(request) for request in asked]
        while not all(turn.finished for turn in shared):
            batch.step()
        alone: list[Replies] = []
        for request in asked:
            own = ReplyBatch(model)
            alone.append(own.join(request))
            while not alone[-1].finished:
                own.step()
    _tokens([*shared, *alone])
    differences = []
    for visitor, (turn, solo) in enumerate(zip(shared, alone, strict=True)):
        for row, variant in enumerate(asked[visitor].variants):
            found = _difference(visitor, row, variant.name, turn, solo)
            if found is not None:
                differences.append(found)
    rows = sum(len(request.variants) for request in asked)
    same_visitors = len(asked) - len({one.visitor for one in differences})
    return same_visitors, rows - len(differences), differences


def _noted() -> AbstractContextManager[Any]:
    return patch.object(replies, "Sampler", NotedSampler)


def _difference(visitor: int, row: int, column: str, shared: Replies, alone: Replies) -> Difference | None:
    # What ended a reply is not among its tokens; a row that ended sooner chose an end token there.
    ours, theirs = shared.newest.token_ids[row], alone.newest.token_ids[row]
    if ours == theirs:
        return None
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    in_batch, by_itself = shared._sampler.seen[at][row], alone._sampler.seen[at][row]  # type: ignore[attr-defined]
    chosen = ours[at] if at < len(ours) else next(iter(in_batch))
    other = theirs[at] if at < len(theirs) else next(iter(by_itself))
    floor = float("-inf")
    return Difference(
        visitor + 1,
        column,
        at + 1,
        by_itself[other] - by_itself.get(chosen, floor),
        in_batch[chosen] - in_batch.get(other, floor),
    )


def report_exactness(model: ChatModel, visitors: int, tokens: int, *, sampled: bool) -> None:
    """Print whether the replies are those of solo runs."""
    same_visitors, same_rows, differences = compared(model, requests(model, visitors, tokens, sampled=sampled))
    name = str(model.dtype).removeprefix("torch.")
    rows = same_rows + len(differences)
    dice = f", every second visitor at temperature {SAMPLED:g}" if sampled else ", greedy"
    words = f"{visitors} visitors, {rows} rows of up to {tokens} tokens, {name}{dice}"
    if model.dtype == torch.float32:
        goal = "reached" if not differences else "**missed**"
        print(f"\n{words}. Goal, the replies of solo runs token for token: {goal}, {same_visitors} of {visitors}.")
    else:
        print(f"\n{words}: {len(differences)} of {rows} rows ({len(differences) / rows:.0%}) differ from solo runs.")
    if differences:
        print("\n| visitor | column | first differing token | its lead alone, nats | the other's lead together, nats |")
        print("| --- | --- | --- | --- | --- |")
        for one in differences:
            print(
                f"| {one.visitor} | {one.column} | {one.token} | {one.margin_alone:.4f} | {one.margin_together:.4f} |"
            )
        print(f"\nLargest lead: {max(max(one.margin_alone, one.margin_together) for one in differences):.4f} nats.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    threads = arguments.threads or preferred_threads()
    torch.set_num_threads(threads)
    print_machine()
    default = load_model("bundled", device="cpu")
    print(
        f"threads {threads}, {arguments.rounds} rounds, {arguments.tokens} tokens, {default.label}, {default.dtype}\n"
    )
    report_speed(default, arguments.visitors, arguments.rounds, arguments.tokens)
    most = max(arguments.visitors)
    report_exactness(load_model("bundled", device="cpu", dtype="float32"), most, arguments.tokens, sampled=True)
    report_exactness(load_model("bundled", device="cpu", dtype="bfloat16"), most, arguments.tokens, sampled=False)


if __name__ == "__main__":
    main()
