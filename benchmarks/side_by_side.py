"""Three variants side by side against one plain reply by transformers' own ``generate``, on the bundled model.

Steps a second, decode only, measured in turn in one run, medians. A step gives a token in every row, and every way
but `generate` gives the cosines of every layer too.

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
from steering import Direction, Variant, load_model, stream_side_by_side
from steering.decoders import Decoder, NewRow
from steering.fused import FusedDecoder
from steering.machine import preferred_threads
from steering.models import ChatModel
from steering.module_decoder import ModuleDecoder
from steering.packed import PackedLinear, unpack
from steering.preset_directions import preset_direction

QUESTION = [{"role": "user", "content": "Explain to a neighbour how bread rises, and why kneading matters."}]


BASE = "generate, 1 row, bfloat16, no hooks"


def median_ratio(rates: list[float], base: list[float]) -> float:
    """The median over the rounds of one way's rate over another's."""
    return median(rate / reference for rate, reference in zip(rates, base, strict=True))


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


def decoder_steps(decoder: Decoder, prompt: list[int], rows: list[Variant], probe: Direction, tokens: int) -> float:
    """Steps a second of a decoder whose rows take their likeliest tokens, cosines read in each step."""
    logits = decoder.join([NewRow(prompt, variant, probe) for variant in rows])
    logits = decoder.step(logits.argmax(dim=-1))  # what a first step makes once is not timed
    start = time.perf_counter()
    for _ in range(tokens - 1):
        logits = decoder.step(logits.argmax(dim=-1))
        decoder.cosines()
    return (tokens - 1) / (time.perf_counter() - start)


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
    prompt, tokens = packed.encode(QUESTION), arguments.tokens

    def fused(rows: list[Variant], model: ChatModel = packed) -> Callable[[], float]:
        return lambda: decoder_steps(FusedDecoder(model), prompt, rows, direction, tokens)

    ways: dict[str, Callable[[], float]] = {
        BASE: lambda: generate_steps(plain, tokens),
        "3 variants, the whole engine, as it runs by default": lambda: side_by_side_steps(packed, three, tokens),
        "3 variants, fused, packed": fused(three),
        "3 variants, fused, bfloat16": fused(three, plain),
        "3 variants, by modules, packed": lambda: decoder_steps(
            ModuleDecoder(packed), prompt, three, direction, tokens
        ),
        "1 row, fused, packed": fused(three[:1]),
        "6 rows, fused, packed": fused(2 * three),
        "12 rows, fused, packed": fused(4 * three),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            measured[name].append(way())
    base = measured[BASE]
    print(f"threads {threads}, {arguments.rounds} rounds, {arguments.tokens} tokens\n")
    print("| way | steps/s | over generate |\n| --- | --- | --- |")
    for name, rates in measured.items():
        print(f"| {name} | {median(rates):.1f} | {median_ratio(rates, base):.2f} |")
    crowd = median_ratio(measured["12 rows, fused, packed"], measured["3 variants, fused, packed"])
    print(f"\ntokens a second of 12 rows over those of 3: {4 * crowd:.2f}")
    print(f"\nresident memory {psutil.Process().memory_info().rss / 1e6:.0f} MB with both models loaded")


if __name__ == "__main__":
    main()
