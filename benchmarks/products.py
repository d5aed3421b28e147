"""What a decode step's products cost alone, without everything else of a step, by the number of rows.

    python -m benchmarks.products [--threads 1] [--rounds 15]

The matrices have the bundled model's shapes and random content, one for each of its 30 layers, so that none is in the
processor's cache when its turn comes. Each is multiplied packed (4 bits; the output matrix 8) and in bfloat16 in
oneDNN's order, in turns; a table has the sum of the medians. Last, what a large product reaches here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.machine import print_machine
from steering.packed import GROUP_SIZE, kernel_layout, packed_linear

LAYERS = 30
SHAPES = {"qkv": (576, 960), "o": (576, 576), "gate and up": (576, 3072), "down": (1536, 576), "head": (576, 49152)}
ROWS = (1, 3, 6, 12)
LARGE = (512, 1536, 3072)


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ways(name: str, rows: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """All of a step's products with one kind of matrix, packed and in bfloat16."""
    width, out = SHAPES[name]
    count, columns = (1, 2 * width) if name == "head" else (LAYERS, width)
    x = torch.randn(rows, width).bfloat16()
    numbers = kernel_layout(torch.randint(0, 256, (out, columns // 2), dtype=torch.uint8))
    packed = [(numbers.clone(), torch.rand(columns // GROUP_SIZE, out, 2).bfloat16()) for _ in range(count)]
    plain: list[Tensor] = [
        torch.ops.mkldnn._reorder_linear_weight(torch.randn(out, width).bfloat16(), None) for _ in range(count)
    ]
    return (
        lambda: [packed_linear(x, *one) for one in packed],
        lambda: [torch.ops.mkldnn._linear_pointwise(x, one, None, "none", [], "") for one in plain],
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print_machine()
    print("| rows | packed, ms a step | bfloat16, ms a step |\n| --- | --- | --- |")
    for rows in ROWS:
        sums = [0.0, 0.0]
        for name in SHAPES:
            both = ways(name, rows)
            times: list[list[float]] = [[], []]
            for _ in range(arguments.rounds + 1):  # the first round warms up
                for taken, run in zip(times, both, strict=True):
                    taken.append(seconds(run))
            sums = [so_far + median(taken[1:]) for so_far, taken in zip(sums, times, strict=True)]
        print(f"| {rows} | {1e3 * sums[0]:.0f} | {1e3 * sums[1]:.0f} |", flush=True)
    n, width, out = LARGE
    operations = 2 * n * width * out
    for dtype in (torch.bfloat16, torch.float32):
        x, weight = torch.randn(n, width).to(dtype), torch.randn(out, width).to(dtype)
        taken = [seconds(lambda x=x, weight=weight: linear(x, weight)) for _ in range(arguments.rounds + 1)]  # type: ignore[misc]
        print(f"\n{n} rows of {width} into {out}, {dtype}: {operations / median(taken[1:]) / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
