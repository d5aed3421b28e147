"""What each preset's direction does on the bundled model, on questions that are not in the preset.

For each reply: how much of the idea is in it, how likely it is under the model as it is, and how much it repeats.
The idea in a text is read by the unsteered model: its mean residual over the reply, at the direction's layer, along the
direction, where 0 is the mean of the preset's negative side and 1 that of its positive side. Ablation is shown centred
(the default) and plain, as far as the two differ.

    python -m benchmarks.preset_effects [--texts] [--tokens 60] [--penalty 1.15] [name …]
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch

from benchmarks.machine import print_machine
from steering import ContrastSet, Direction, Example, Variant, load_model, stream_side_by_side
from steering.activations import RESPONSE, class_means, residuals
from steering.calibration import mean_negative_log_likelihoods, repeated_share
from steering.contrast import preset_names
from steering.models import ChatModel
from steering.preset_directions import preset_direction


def idea_in(
    model: ChatModel, direction: Direction, ends: list[float], question: str, replies: list[str]
) -> list[float]:
    """Where each reply lies between ``ends``, along the direction at its layer."""
    positive, negative = ends
    asked = ({"role": "user", "content": question},)
    read = residuals(model, [Example(asked, reply or " ") for reply in replies])[:, 0, direction.layer] @ direction.unit
    return ((read - negative) / (positive - negative)).tolist()


def ends_of(model: ChatModel, direction: Direction, data: ContrastSet) -> list[float]:
    """Where the means of the set's positive and negative side lie along the direction at its layer."""
    sides = class_means(model, [data.positive, data.negative])
    return [float(side.means[0, direction.layer] @ direction.unit) for side in sides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=preset_names())
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--penalty", type=float, default=1.15, help="the repetition penalty; 1.15 is the page's")
    parser.add_argument("--texts", action="store_true", help="print the beginnings of the replies")
    arguments = parser.parse_args()
    print_machine()
    model = load_model("bundled", device="cpu", dtype=torch.bfloat16)
    print("\n| preset | questions | variant | idea | rise of NLL | repeated 3-grams |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.names:
        data = ContrastSet.load(name)
        direction = preset_direction(model, name)
        ends = ends_of(model, direction, data)
        coefficient = direction.card["strength"]["start"]
        variants = [
            Variant.baseline(),
            Variant.ablated(direction, "taken out (default)"),
            Variant.ablated(direction.plain(), "taken out, plain direction"),
            Variant.added(direction, coefficient, f"turned up, c = {coefficient:g}"),
            Variant.added(direction, -coefficient, f"its opposite, c = {-coefficient:g}"),
        ]
        if not direction.is_centred:
            del variants[2]
        for kind, words in (("calls_for", "call for it"), ("does_not", "do not")):
            rows: dict[str, list[tuple[float, float, float]]] = {variant.name: [] for variant in variants}
            for question in data.card[kind]:
                messages = [{"role": "user", "content": question}]
                for step in stream_side_by_side(  # noqa: B007  the last step is what counts
                    model, messages, variants, max_new_tokens=arguments.tokens, repetition_penalty=arguments.penalty
                ):
                    pass
                ideas = [float("nan")] * len(variants)
                if direction.position == RESPONSE:
                    ideas = idea_in(model, direction, ends, question, step.texts)
                likelihoods = mean_negative_log_likelihoods(model, messages, step.token_ids)
                for variant, idea, likelihood, ids in zip(variants, ideas, likelihoods, step.token_ids, strict=True):
                    rows[variant.name].append((idea, likelihood - likelihoods[0], repeated_share(ids)))
                if arguments.texts:
                    print(f"\n{name}: {question}")
                    for variant, text in zip(variants, step.texts, strict=True):
                        print(f"  {variant.name}: {text[:150]!r}")
            for variant_name, values in rows.items():
                idea, rise, again = (mean(column) for column in zip(*values, strict=True))
                shown = "–" if idea != idea else f"{idea:.2f}"
                print(f"| {name} | {words} | {variant_name} | {shown} | {rise:+.2f} | {again:.2f} |", flush=True)


if __name__ == "__main__":
    main()
