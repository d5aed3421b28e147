"""How fast a difference in means is, against whole hidden states, repeng and steering-vectors, and its memory.

    python -m benchmarks.difference_in_means [--json] [--rounds 5] [--prompts 128] [--dtype bfloat16] [--threads 2]

Ours computes every post-instruction position and every layer, and so does the plain way with transformers: whole
hidden states of left-padded batches. repeng and steering-vectors compute one position, the last, as their documentation
says to. All read the same prompts, rendered by the same template, with the same weights, number type and number of
threads. They run in turn, the other two in a process each; each runs twice in a row and the second time counts, for
what lay idle meanwhile is cold. Memory is what the largest resident size of a process of its own grows by, for fewer
and for more prompts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks.machine import describe_machine, print_machine
from benchmarks.plain_selection import padded
from benchmarks.rivals import RIVALS, environment
from benchmarks.rivals import __file__ as rivals_file
from benchmarks.worker import Worker
from steering import ContrastSet, difference_in_means, load_model
from steering.directions import Candidates
from steering.models import ChatModel
from steering.weights import cache_folder, model_folder

GOAL, HIDDEN_GOAL = 3.0, 4.0
LEAST_COSINE = 0.999
OURS = "steering, all positions and layers"
HIDDEN = "transformers, whole hidden states, batches of 32"
BATCH = 32
MEMORY_OF = (32, 64, 128)  # prompts a side
# What is shown in the table: (row, rival, what its worker is asked to do, whether it is the documented call).
RUNS = [
    ("repeng, ControlVector.train", "repeng", "train", True),
    ("repeng, reading only, without its PCA", "repeng", "read", False),
    ("steering-vectors, train_steering_vector", "steering-vectors", "train", True),
    ("steering-vectors, with batch_size=32", "steering-vectors", "train in batches", False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=128, help="on each side")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model("bundled", device="cpu", dtype=getattr(torch, arguments.dtype))
    prompts = first_prompts(arguments.prompts)
    seconds, vectors, versions = time_all(model, prompts, arguments.rounds)
    report = {
        "machine": describe_machine(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts": arguments.prompts,
        "versions": versions,
        "positions": len(model.post_instruction_tokens),
        "seconds": seconds,
        "medians": {name: median(times) for name, times in seconds.items()},
        **agreement(prompts, vectors),
        "memory_mb": {n: memory_of(n) for n in MEMORY_OF},
    }
    report["ratios"] = {name: value / report["medians"][OURS] for name, value in report["medians"].items()}
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)
    if report["least_cosine_in_float32"] < LEAST_COSINE:
        raise SystemExit(
            f"Ours differs from a plain loop: a cosine is below {LEAST_COSINE}, so equals are not compared."
        )


def first_prompts(n: int) -> ContrastSet:
    """The first ``n`` prompts a side of the preset refusal."""
    preset = ContrastSet.load("refusal")
    if min(len(preset.positive), len(preset.negative)) < n:
        raise SystemExit(f"The preset refusal has fewer than {n} prompts on a side. Give a smaller --prompts.")
    return ContrastSet.from_examples(f"refusal, first {n}", preset.positive[:n], preset.negative[:n])


def time_all(
    model: ChatModel, prompts: ContrastSet, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Tensor], dict[str, dict[str, str]]]:
    """Time everything alternately.

    Returns:
        Seconds of each round, by the table's row; what each row that is a difference in means gave at the last
        position, float32 ``[n_layers, d_model]``, where row ``l`` is the residual stream **entering** block ``l + 1``;
        and the versions of each rival and what it runs on.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        readable_by_transformers_4(model_folder("bundled"), folder)
        setting = {
            "folder": str(folder),
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "positive": [model.format(list(example.messages)) for example in prompts.positive],
            "negative": [model.format(list(example.messages)) for example in prompts.negative],
        }
        rivals = {}
        for name in RIVALS:
            python = environment(name, cache_folder())
            rivals[name] = stack.enter_context(Worker(python, rivals_file, name, name, setting))
        calls: dict[str, Callable[[], tuple[float, Tensor | None]]] = {
            OURS: lambda: timed(lambda: at_last_position(difference_in_means(model, prompts))),
            HIDDEN: lambda: timed(lambda: by_hidden_states(model, prompts)[-1, 1:]),
        }
        for row, name, what, _ in RUNS:
            calls[row] = lambda rival=rivals[name], what=what: rival_call(rival, what)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        vectors: dict[str, Tensor] = {}
        for number in range(1, rounds + 1):
            print(f"Round {number} of {rounds}", file=sys.stderr)
            for row, call in calls.items():
                call()
                taken, given = call()
                seconds[row].append(taken)
                if given is not None:
                    vectors[row] = given
        versions = {name: {name: RIVALS[name], **rival.about} for name, rival in rivals.items()}
    return seconds, vectors, versions


def timed(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    found = compute()
    return time.perf_counter() - start, found


def at_last_position(candidates: Candidates) -> Tensor:
    return candidates.vectors[candidates.positions.index(-1), 1:]


def rival_call(rival: Worker, what: str) -> tuple[float, Tensor | None]:
    taken, given = rival.run(what)
    return taken, None if given is None else torch.tensor(given)[:-1]  # the last block's output is no layer of ours


def by_hidden_states(model: ChatModel, prompts: ContrastSet) -> Tensor:
    """The plain way: float32 ``[n_positions, n_layers, d_model]`` from hidden states of whole prompts."""
    n = len(model.post_instruction_tokens)

    def mean(examples: list[Any]) -> Tensor:
        total = torch.zeros(n, model.n_layers, model.d_model, dtype=torch.float64)
        for first in range(0, len(examples), BATCH):
            batch = padded(model, examples[first : first + BATCH])
            with torch.inference_mode():
                states = model.model.base_model(
                    input_ids=batch.ids,
                    attention_mask=batch.mask,
                    position_ids=batch.positions,
                    output_hidden_states=True,
                    use_cache=False,
                ).hidden_states[:-1]
            for layer, state in enumerate(states):
                total[:, layer] += state[:, -n:].double().sum(dim=0)
        return total / len(examples)

    return (mean(list(prompts.positive)) - mean(list(prompts.negative))).float()


def memory_of(n: int) -> float:
    """By how many MB the largest resident size of a process grows when it reads ``n`` + ``n`` prompts; on Linux."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_growth, (n,)))


def _growth(n: int) -> float:
    model = load_model("bundled", device="cpu")
    difference_in_means(model, first_prompts(2))  # what is set up once
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far, of loading, is forgotten
    before = psutil.Process().memory_info().rss
    difference_in_means(model, first_prompts(n))
    largest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(largest.split()[1]) * 1024 / 1e6 - before / 1e6


def readable_by_transformers_4(source: Path, folder: Path) -> None:
    """The model in ``source`` again in ``folder``, its two small files in words that versions 4 and 5 both know."""
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]  # version 4 would silently take 10,000
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))


def agreement(prompts: ContrastSet, vectors: dict[str, Tensor]) -> dict[str, Any]:
    """Whether the answers are the same, against a plain loop over single prompts in float32.

    In float32 ours must equal it. In the number type that was timed each answer has its own rounding, most of all at
    the first layers, where the two sides hardly differ yet: the cosine of each, at its worst and at its median layer.
    Layer 0 is left out: there the last position holds the same token in every prompt, and the difference is zero.
    """
    exact = load_model("bundled", device="cpu", dtype=torch.float32)
    expected = plain_loop(exact, prompts)
    candidates = difference_in_means(exact, prompts)
    ours = at_last_position(candidates)
    cosines = {row: torch.cosine_similarity(given, expected, dim=-1) for row, given in vectors.items()}
    return {
        "least_cosine_in_float32": float(torch.cosine_similarity(ours, expected, dim=-1).min()),
        "accuracy": {row: [float(cosine.min()), float(cosine.median())] for row, cosine in cosines.items()},
    }


def plain_loop(model: ChatModel, prompts: ContrastSet) -> Tensor:
    """The difference in means at the last position, one prompt at a time, from transformers' own hidden states.

    Float32 ``[n_layers - 1, d_model]``: layers 1 and up.
    """

    def mean(examples: list[Any]) -> Tensor:
        total = torch.zeros(model.n_layers + 1, model.d_model, dtype=torch.float64)
        for example in examples:
            ids = torch.tensor([model.encode(list(example.messages))])
            with torch.inference_mode():
                states = model.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            total += torch.stack([state[0, -1] for state in states]).double()
        return total / len(examples)

    return (mean(prompts.positive) - mean(prompts.negative)).float()[1:-1]


def print_report(report: dict[str, Any]) -> None:
    print_machine()
    n = report["prompts"]
    print(f"{n} + {n} prompts, {report['dtype']}; ours reads {report['positions']} positions")
    for name, versions in report["versions"].items():
        print(f"{name} runs on " + ", ".join(f"{what} {version}" for what, version in versions.items()))
    print(f"In float32 ours equals a plain loop: cosine at every layer ≥ {report['least_cosine_in_float32']:.5f}\n")
    print("| | seconds, median | slowest round | times ours | cosine with float32: worst layer, median layer |")
    print("| --- | --- | --- | --- | --- |")
    for row, times in report["seconds"].items():
        accuracy = report["accuracy"].get(row)
        cosine = f"{accuracy[0]:.3f}, {accuracy[1]:.4f}" if accuracy else "(not a mean)"
        print(f"| {row} | {median(times):.2f} | {max(times):.2f} | {report['ratios'][row]:.2f} | {cosine} |")
    documented = [report["ratios"][row] for row, _, _, is_documented in RUNS if is_documented]
    hidden = report["ratios"][HIDDEN]
    print(
        f"\nGoal ≥ {GOAL:.0f} × both documented calls: {verdict(min(documented), GOAL)} (least {min(documented):.2f})"
    )
    print(f"Goal ≥ {HIDDEN_GOAL:.0f} × whole hidden states: {verdict(hidden, HIDDEN_GOAL)} ({hidden:.2f})")
    grown = ", ".join(f"{n} + {n} prompts {mb:.0f} MB" for n, mb in report["memory_mb"].items())
    print(f"Memory above the model's: {grown}")


def verdict(ratio: float, goal: float) -> str:
    return "reached" if ratio >= goal else "**missed**"


if __name__ == "__main__":
    main()
