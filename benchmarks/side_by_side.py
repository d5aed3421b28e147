"""Three variants side by side against one plain reply by transformers' own ``generate``, on the bundled model.

Steps a second, decode only, measured in turn in one run, medians. One step of the side-by-side gives three tokens.

    python -m benchmarks.side_by_side [--rounds 5] [--tokens 48] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import psutil
import torch

from benchmarks.machine import print_machine
from steering import Variant, load_model, stream_side_by_side
from steering.machine import preferred_threads
from steering.models import ChatModel
from steering.packed import PackedLinear, unpack
from steering.preset_directions import preset_direction

QUESTION = [{"role": "user", "content": "Explain to a neighbour how bread rises, and why kneading matters."}]


def generate_steps(model: ChatModel, tokens: int) -> float:
    """Steps a second of ``generate``, one row, greedy, no hooks: the time of the prompt's pass is taken off."""
    ids = torch.tensor([model.encode(QUESTION)])

    def run(count: int) -> float:
        start = time.perf_counter()
        model.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count, max_new_tokens=count
        )
        return time.perf_counter() - start

    prompt = run(1)
    return (tokens - 1) / (run(tokens) - prompt)


def side_by_side_steps(model: ChatModel, variants: list[Variant], tokens: int) -> float:
    """Steps a second of the engine with all cosines, from the first token to the last."""
    steps = stream_side_by_side(model, QUESTION, variants, max_new_tokens=tokens)
    next(steps)
    start, count = time.perf_counter(), 0
    for count, _ in enumerate(steps, 1):  # noqa: B007  counted after the loop
        pass
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    threads = arguments.threads or preferred_threads()
    torch.set_num_threads(threads)
    print_machine()

    packed = load_model("bundled", device="cpu", dtype="bfloat16")
    plain = load_model("bundled", device="cpu", dtype="bfloat16")
    unpack(plain.model)
    assert any(isinstance(module, PackedLinear) for module in packed.model.modules())
    assert not any(isinstance(module, PackedLinear) for module in plain.model.modules())
    direction = preset_direction(packed, "sounds-like-ai")
    three = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.0)]
    ways: dict[str, Callable[[], float]] = {
        "generate, 1 row, bfloat16, no hooks": lambda: generate_steps(plain, arguments.tokens),
        "3 variants, all cosines, packed (default)": lambda: side_by_side_steps(packed, three, arguments.tokens),
        "3 variants, all cosines, bfloat16": lambda: side_by_side_steps(plain, three, arguments.tokens),
        "1 variant, no intervention, packed": lambda: side_by_side_steps(packed, three[:1], arguments.tokens),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            measured[name].append(way())
    base = measured["generate, 1 row, bfloat16, no hooks"]
    print(f"threads {threads}, {arguments.rounds} rounds, {arguments.tokens} tokens\n")
    print("| way | steps/s | over generate |\n| --- | --- | --- |")
    for name, rates in measured.items():
        ratio = median(rate / reference for rate, reference in zip(rates, base, strict=True))
        print(f"| {name} | {median(rates):.1f} | {ratio:.2f} |")
    print(f"\nresident memory {psutil.Process().memory_info().rss / 1e6:.0f} MB with both copies loaded")


if __name__ == "__main__":
    main()
