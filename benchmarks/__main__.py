"""Run every benchmark, in turn: ``python -m benchmarks``; or the named ones: ``python -m benchmarks memory``."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "side_by_side",
    "products",
    "packed_accuracy",
    "difference_in_means",
    "selection",
    "attribution",
    "evaluation",
    "interventions",
    "preset_effects",
    "sounds_like_ai",
    "subspace",
    "refusal",
    "visitors",
    "first_token",
    "page_latency",
    "page_load",
    "lighthouse",
    "live_control",
    "memory",
    "edit_checkpoint",
    "soak",
)


def main() -> int:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        print(f"There is no benchmark {unknown[0]}. Choose from {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    worst = 0
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
