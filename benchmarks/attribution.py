"""What direct feature attribution costs: all heads and MLPs over a prompt, beside one plain forward pass of it.

    python -m benchmarks.attribution [--model bundled] [--tokens 200] [--rounds 15]

Both take turns; medians. The plain pass is that of the blocks alone, without logits, which the attribution does not
compute either. It attributes the stream that leaves the last block, so that both run every block.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.machine import print_machine

GOAL = 2.0
TEXT = (
    "The river rises in the hills, runs past the mill and the old bridge, and is wide and slow when it meets the sea. "
)


def main() -> None:
    from steering import Direction, load_model
    from steering.attribution import attribute
    from steering.machine import preferred_threads

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(preferred_threads())
    print_machine()
    model = load_model(arguments.model)
    ids = model.encode([{"role": "user", "content": TEXT * 20}])[: arguments.tokens]
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    direction = Direction(vector, (vector / vector.norm())[None], 1, -1, 1.0)

    def plain() -> None:
        with torch.inference_mode():
            model.model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)

    seconds: dict[str, list[float]] = {"plain pass": [], "attribution": []}
    ways: dict[str, Callable[[], object]] = {
        "plain pass": plain,
        "attribution": lambda: attribute(model, ids, direction),
    }
    for number in range(arguments.rounds + 2):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number >= 2:  # the first warm up
                seconds[name].append(time.perf_counter() - start)
    ratio = median(b / a for a, b in zip(seconds["plain pass"], seconds["attribution"], strict=True))
    for name, times in seconds.items():
        print(f"{name}: {1000 * median(times):.1f} ms")
    heads = model.n_layers * model.config.num_attention_heads
    print(f"{len(ids)} tokens, {heads} heads, {model.dtype}: {ratio:.2f} × one pass (goal {GOAL})")


if __name__ == "__main__":
    main()
