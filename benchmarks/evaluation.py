"""What an evaluation costs: three variants in one batch against three runs, and how well a reply's topic is told.

Replies: the same held-out harmless requests are answered by the baseline, an ablated and an added variant, once as rows
of one batch and once one variant after another, each with as many prompts at once. Topic: each baseline reply is held
against its own prompt and others, as an evaluation does, and then against a wrong prompt in the place of its own; the
share taken for off topic should be small in the first case and large in the second.

    python -m benchmarks.evaluation [--model MODEL] [--direction NAME] [--prompts 8] [--tokens 48] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from benchmarks.machine import print_machine
from steering import ContrastSet, Variant, load_model, stream_side_by_side
from steering.contrast import PRESETS
from steering.evaluate import OTHER_PROMPTS
from steering.figures import wilson
from steering.models import ChatModel
from steering.preset_directions import preset_direction
from steering.reply_logits import GivenReply, reply_log_probabilities
from steering.reply_readings import ON_TOPIC, TOPIC_TOKENS

REQUESTS = PRESETS / "evaluation" / "requests.jsonl"
GOAL = 2.0


def answer(model: ChatModel, prompts: Sequence[str], variants: Sequence[Variant], tokens: int) -> list[list[int]]:
    """Every variant's reply to every prompt, in one batch."""
    asked = [(prompt, variant) for prompt in prompts for variant in variants]
    conversations = [[{"role": "user", "content": prompt}] for prompt, _ in asked]
    *_, last = stream_side_by_side(model, conversations, [variant for _, variant in asked], max_new_tokens=tokens)
    return last.token_ids


def seconds(model: ChatModel, prompts: Sequence[str], batches: Sequence[Sequence[Variant]], tokens: int) -> float:
    start = time.perf_counter()
    for variants in batches:
        answer(model, prompts, variants, tokens)
    return time.perf_counter() - start


def throughput(model: ChatModel, prompts: Sequence[str], variants: list[Variant], tokens: int, rounds: int) -> None:
    ways = {"one batch": [variants], "three runs": [[variant] for variant in variants]}
    for batches in ways.values():  # warm
        seconds(model, prompts, batches, 4)
    for n_prompts in (1, len(prompts)):
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                taken[name].append(seconds(model, prompts[:n_prompts], ways[name], tokens))
        ratios = [runs / batch for batch, runs in zip(*taken.values(), strict=True)]
        medians = {name: statistics.median(values) for name, values in taken.items()}
        ratio = statistics.median(ratios)
        print(
            f"| {n_prompts} | {medians['one batch']:.1f} | {medians['three runs']:.1f} | {ratio:.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {'reached' if ratio >= GOAL else '**missed**'} |",
            flush=True,
        )


def topics(model: ChatModel, prompts: Sequence[str]) -> None:
    replies = [ids[:TOPIC_TOKENS] for ids in answer(model, prompts, [Variant.baseline()], TOPIC_TOKENS)]
    encoded = [model.encode([{"role": "user", "content": prompt}]) for prompt in prompts]
    n = len(prompts)
    off = {"its own prompt": 0, "another prompt in its place": 0}
    for number, reply in enumerate(replies):
        places = [(number + step) % n for step in range(OTHER_PROMPTS + 2)]
        rows = [GivenReply(encoded[place], reply, Variant.baseline()) for place in places]
        own, wrong, *others = (float(one.sum()) for one in reply_log_probabilities(model, rows))
        off["its own prompt"] += own - max(others) < ON_TOPIC
        off["another prompt in its place"] += wrong - max(others) < ON_TOPIC
    print("\n| reply held against | taken for off topic |\n| --- | --- |")
    for name, count in off.items():
        print(f"| {name} | {wilson(count, n).words('.0%')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--direction", default="poetic", help="a preset's name")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="as an evaluation computes on a CPU")
    parser.add_argument("--no-topics", action="store_true")
    arguments = parser.parse_args()
    print_machine()
    model = load_model(arguments.model, dtype=arguments.dtype)
    direction = preset_direction(model, arguments.direction)
    requests = [one.instruction for one in ContrastSet.load(str(REQUESTS)).negative]
    coefficient = direction.measured_start or direction.coefficient(0.2)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, coefficient)]
    print("| prompts at once | one batch, s | three runs, s | ratio | smallest and largest | goal ≥ 2 |")
    print("| --- | --- | --- | --- | --- | --- |")
    throughput(model, requests[: arguments.prompts], variants, arguments.tokens, arguments.rounds)
    if not arguments.no_topics:
        topics(model, requests[:32])


if __name__ == "__main__":
    main()
