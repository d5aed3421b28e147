"""What the preset “Sounds like AI” does to replies to 64 instructions that are in no preset, against controls.

Two measures read each reply, and neither is a chat model: published markers of assistant prose (steering.style_markers)
and a classifier learned from the preset's training side (steering.style_classifier). The same direction is ablated and
added; random directions of equal length show what any push or cut does, another one for each instruction; a system
prompt shows what plainly asking does. Intervals are 95 %, by bootstrap over the instructions, and not corrected for the
number of comparisons. NLL is of the reply under the unsteered model; KL is of the distribution of a reply's first token
from the unsteered model's.

    python -m benchmarks.sounds_like_ai [--model bundled|PATH] [--prompts 64] [--tokens 80] [--seed 0] [--penalty 1.15]
        [--direction FILE] [--subspace FILE] [--batch 4] [--texts] [--out FILE]

``--subspace`` is a direction file whose ablation basis has several rows (steering.subspace).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine, print_machine
from benchmarks.style_conditions import BASELINE, Condition, Reply, conditions, write
from steering import ContrastSet, Direction, load_model
from steering.calibration import calibrated
from steering.figures import UNKNOWN, Figure, bootstrapped
from steering.preset_directions import preset_direction
from steering.style_classifier import HeldOut, StyleClassifier
from steering.style_markers import GROUPS, count_markers

PRESET = "sounds-like-ai"
PROMPTS = Path(__file__).resolve().parent / "data" / "held_out_prompts.txt"


@dataclass(frozen=True)
class Summary:
    """A condition's means over the instructions, and those of the differences from the baseline's reply to the same.

    ``groups`` has the markers of each group in 100 words, all replies together; ``empty`` counts replies without words.
    """

    name: str
    means: dict[str, Figure]
    changes: dict[str, Figure]
    groups: dict[str, float]
    empty: int


def summarise(ways: list[Condition], written: list[list[Reply]], style: StyleClassifier, seed: int) -> list[Summary]:
    """Figures of every condition, the first of which is the baseline; what is not a number is left out of them."""
    found: list[Summary] = []
    baseline: dict[str, NDArray[np.float64]] = {}
    for way, replies in zip(ways, zip(*written, strict=True), strict=True):
        counts = [count_markers(reply.text) for reply in replies]
        columns = {
            "markers": [count.per_100_words for count in counts],
            "classifier": style.scores([reply.text for reply in replies]),
            "words": [count.words for count in counts],
            "NLL": [reply.likelihood for reply in replies],
            "repeated": [reply.repeated for reply in replies],
            "KL": [reply.kl for reply in replies],
        }
        values = {what: np.array(column, dtype=np.float64) for what, column in columns.items()}
        baseline = baseline or values
        figures = {what: mean_of(column, seed) for what, column in values.items()}
        changes = {what: mean_of(column - baseline[what], seed) for what, column in values.items()}
        words = max(1, sum(count.words for count in counts))
        groups = {group.name: 100 * sum(getattr(one, group.name) for one in counts) / words for group in GROUPS}
        found.append(Summary(way.name, figures, changes, groups, sum(count.words == 0 for count in counts)))
    return found


def mean_of(values: NDArray[np.float64], seed: int) -> Figure:
    known = values[np.isfinite(values)]
    return bootstrapped([known], np.mean, seed) if len(known) else UNKNOWN


def level(summary: Summary, what: str) -> str:
    figure = summary.means[what]
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def change(summary: Summary, what: str) -> str:
    """A difference in words; an interval that includes 0 shows no effect, whatever the mean is."""
    figure = summary.changes[what]
    if summary.name == BASELINE:
        return "–"
    shown = f"{figure.value:+.2f} ({figure.low:+.2f} to {figure.high:+.2f})"
    return f"{shown}, no effect shown" if figure.low <= 0 <= figure.high else shown


def print_tables(summaries: list[Summary], held_out: HeldOut) -> None:
    print(
        f"\nThe classifier on {held_out.n} held-out responses of the preset: accuracy {held_out.accuracy.words()}, "
        f"AUROC {held_out.auroc.words('.3f')}; the number of tokens alone: AUROC {held_out.length_ruler.words()}, "
        f"longer: {held_out.longer}.\n"
    )
    print("| replies | markers in 100 words | against baseline | classifier | against baseline |")
    print("| --- | --- | --- | --- | --- |")
    for one in summaries:
        cells = [text for what in ("markers", "classifier") for text in (level(one, what), change(one, what))]
        print(f"| {one.name} | {' | '.join(cells)} |")
    print("\n| replies | words | empty | rise of NLL, nats a token | repeated 3-grams | KL, nats |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in summaries:
        words, repeated, kl = (one.means[what].value for what in ("words", "repeated", "KL"))
        print(f"| {one.name} | {words:.0f} | {one.empty} | {change(one, 'NLL')} | {repeated:.3f} | {kl:.3f} |")
    print(f"\n| in 100 words | {' | '.join(group.name.replace('_', ' ') for group in GROUPS)} |")
    print(f"| --- |{' --- |' * len(GROUPS)}")
    for one in summaries:
        print(f"| {one.name} | {' | '.join(f'{rate:.2f}' for rate in one.groups.values())} |")


def plain(value: Any) -> Any:
    """``value`` for JSON, which knows neither figures nor paths."""
    if isinstance(value, Figure):
        return value.as_card()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0, help="of the random directions and the bootstraps")
    parser.add_argument("--penalty", type=float, default=1.15, help="the repetition penalty; 1.15 is the page's")
    parser.add_argument("--direction", type=Path, help="a direction file in place of the preset's direction")
    parser.add_argument("--subspace", type=Path, help="a direction file with several rows to ablate")
    parser.add_argument("--batch", type=int, default=4, help="instructions whose replies are written at once")
    parser.add_argument("--texts", action="store_true", help="print the beginnings of the replies")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    print_machine()
    model = load_model(arguments.model)
    direction = Direction.load(arguments.direction, model) if arguments.direction else preset_direction(model, PRESET)
    if "strength" not in direction.card:
        direction = calibrated(model, direction)
    coefficient = float(direction.card["strength"]["start"])
    subspace = Direction.load(arguments.subspace, model) if arguments.subspace else None
    train, validation = ContrastSet.load(PRESET).split(seed=0)  # as the preset's direction is made
    style = StyleClassifier.fit(train, arguments.seed)
    held_out = style.held_out(
        validation, lambda text: len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()[: arguments.prompts]
    ways = conditions(direction, coefficient, subspace, arguments.seed)
    written = write(model, prompts, ways, arguments.batch, arguments.tokens, arguments.penalty)
    print(f"\n{model.label}: {len(prompts)} instructions, {arguments.tokens} tokens a reply")
    if arguments.texts:
        for prompt, replies in zip(prompts, written, strict=True):
            print(f"\n{prompt}")
            for way, reply in zip(ways, replies, strict=True):
                print(f"  {way.name}: {reply.text[:150]!r}")
    summaries = summarise(ways, written, style, arguments.seed)
    print_tables(summaries, held_out)
    if arguments.out:
        results = {
            "machine": describe_machine(),
            "settings": vars(arguments),
            "direction": {"name": direction.name, "layer": direction.layer, "coefficient": coefficient},
            "held_out": vars(held_out),
            "replies": [vars(one) for one in summaries],
        }
        arguments.out.write_text(json.dumps(plain(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
