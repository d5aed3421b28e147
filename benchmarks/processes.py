"""One process against two that hold the model together, and two that share out the work: what it costs.

    python -m benchmarks.processes --model MODEL [--processes 2] [--rounds 2] [--dtype float32]

In every round each way is started anew, in turn: one process with all the cores, several with tensor parallelism
(``torchrun``, gloo), several with data parallelism. Each writes three answers side by side (as it is, one direction
taken out, turned up), reads a contrast set, and selects a direction. Loading is not timed. On the cores of one machine
no gain is to be expected: the figures show what the exchange between the processes costs, and that the texts, the
directions and the winner are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import print_machine

ONE, TENSOR, DATA = "one", "tensor", "data"
WAYS = (ONE, TENSOR, DATA)
QUESTIONS = ("Why is the sky blue?", "How do I make pancakes?", "What can I do on a rainy Sunday?")
TOKENS = 32
SET = "poetic"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a hub id, a folder or a .gguf file")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--examples", type=int, default=32, help="of each side, to learn from; a quarter to check with")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        _work(arguments)
        return
    print_machine()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            found[way].append(_started(way, arguments))
    first = found[ONE][0]
    print(f"\n{arguments.processes} processes, {arguments.dtype}, medians of {arguments.rounds} rounds\n")
    print("| way | threads each | a token of three answers, ms | reading the set, s | selection, s |")
    print("| --- | --- | --- | --- | --- |")
    for way, results in found.items():
        step, reading, selection = (
            median(one["seconds"][name] for one in results) for name in ("step", "reading", "selection")
        )
        print(f"| {way} | {results[0]['threads']} | {1000 * step:.0f} | {reading:.1f} | {selection:.1f} |")
    print()
    for way in (TENSOR, DATA):
        ratios = {
            name: median(
                one["seconds"][name] / other["seconds"][name] for one, other in zip(found[way], found[ONE], strict=True)
            )
            for name in ("step", "reading", "selection")
        }
        print(f"{way} over one: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
        one = found[way][0]
        same = sum(a == b for a, b in zip(one["texts"], first["texts"], strict=True))
        apart = max(abs(a - b) for a, b in zip(one["vector"], first["vector"], strict=True))
        print(
            f"{way}: {same} of {len(first['texts'])} answers the same; "
            f"the same winner: {one['place'] == first['place']} (position {one['place'][0]}, layer {one['place'][1]}), "
            f"its vector's numbers at most {apart:.1e} apart"
        )


def _started(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a way found, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = ["-m", "benchmarks.processes", "--way", way, "--out", str(out)]
        command += ["--model", arguments.model, "--dtype", arguments.dtype, "--examples", str(arguments.examples)]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.processes)]
        alone = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        subprocess.run(
            [sys.executable, *([] if way == ONE else launcher), *command],
            check=True,
            env=alone,
            stderr=subprocess.DEVNULL,
        )
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def _work(arguments: argparse.Namespace) -> None:
    from steering import load_model
    from steering.machine import preferred_threads
    from steering.processes import Processes
    from steering.shared_models import follow, load_shared

    torch.set_num_threads(preferred_threads())
    dtype = getattr(torch, arguments.dtype)
    if arguments.way == ONE:
        arguments.out.write_text(json.dumps(_measured(load_model(arguments.model, dtype=dtype), arguments)))
        return
    whole = arguments.way == DATA
    processes = Processes(torch.device("cpu"))
    model = load_shared(processes, arguments.model, dtype=dtype, whole=whole)
    if not processes.leads:
        follow(model, processes, whole=whole)
        return
    arguments.out.write_text(json.dumps(_measured(model, arguments)))
    processes.end()


def _measured(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    from steering import ContrastSet, Variant, difference_in_means, stream_side_by_side
    from steering.finding import Finder, prepare

    n = arguments.examples
    prepared = prepare(model, ContrastSet.load(SET), n_train=n, n_validation=n // 4)
    seconds: dict[str, float] = {}
    difference_in_means(model, prepared.validation)  # warm
    start = time.perf_counter()
    candidates = difference_in_means(model, prepared.train)
    seconds["reading"] = time.perf_counter() - start
    start = time.perf_counter()
    selection = Finder(model, prepared).find_relaxed()
    seconds["selection"] = time.perf_counter() - start
    direction = candidates.direction(candidates.positions[-1], model.n_layers // 2)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.0)]
    steps, texts = [], []
    for number, question in enumerate(("Hello.", *QUESTIONS)):
        asked = [{"role": "user", "content": question}]
        replies = stream_side_by_side(model, asked, variants, max_new_tokens=TOKENS)
        ends = []
        for step in replies:
            ends.append(time.perf_counter())
            newest = step.texts
        if number:  # the first warms up
            steps += [after - before for before, after in pairwise(ends)]
            texts += newest
    seconds["step"] = median(steps)
    return {
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "texts": texts,
        "place": list(selection.score.place),
        "vector": selection.direction.vector.tolist(),
    }


if __name__ == "__main__":
    main()
