"""How many directions an idea has: what is left of it, and what ablation does, with 1 to k directions ablated at once.

    python -m benchmarks.subspace [--model bundled] [--preset sounds-like-ai] [--k 8] [--seed 0] [--out FILE]

The directions are differences in means, each in the model with those before it ablated; beside them stand the principal
components of the examples' differences. All are read where the preset's own direction is, in bfloat16. “Left” is the
length of the difference in means that remains, as a part of ‖r‖: on the training part, of which ablation takes out what
is peculiar to it as well, and on the validation part, without what chance adds to the length of so few examples'
difference. Bypass and KL are of the validation part. Intervals are of 95 %, by bootstrap over examples.

``--out FILE`` keeps the direction at the default k.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.machine import print_machine
from steering import ContrastSet, Direction, difference_in_means, load_model
from steering.effect_curve import KEffect, default_k, effect_curve
from steering.figures import Figure
from steering.models import ChatModel
from steering.preparation import Prepared, prepare
from steering.preset_directions import preset_direction
from steering.scoring import scorer_for
from steering.subspace import Subspace, pca_subspace, subspace

# What was measured before, of 24 pairs of this idea on another model (0.5B parameters, layer 14), without intervals.
CLAIMED_LEFT = (0.46, 0.20, 0.09)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--preset", default="sounds-like-ai")
    parser.add_argument("--k", type=int, default=8, help="how many directions at most, from 1 to 8")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the bootstrap")
    parser.add_argument("--out", type=Path, help="a file for the direction at the default k")
    arguments = parser.parse_args()
    print_machine()
    model = load_model(arguments.model, dtype=torch.bfloat16)
    prepared = prepare(model, ContrastSet.load(arguments.preset), seed=arguments.seed)
    direction = direction_at_the_presets_place(model, prepared, arguments.preset)
    scorer = scorer_for(model, prepared.validation, prepared.tokens)
    print(
        f"{model.label}, {arguments.preset}: layer {direction.layer}, position {direction.position}, "
        f"{len(prepared.train.positive)} + {len(prepared.train.negative)} examples to learn from, "
        f"{len(prepared.validation.positive)} + {len(prepared.validation.negative)} to check with; unsteered metric "
        f"{float(scorer.unsteered.positive.mean()):.2f}\n"
    )
    print("| directions | k | left, training | left, validation | bypass | KL |\n| --- | --- | --- | --- | --- | --- |")
    curves = []
    for make in (subspace, pca_subspace):
        made = make(model, prepared, direction, arguments.k, seed=arguments.seed)
        directions = [made.direction(k) for k in range(1, made.k_max + 1)]
        curves.append(effect_curve(scorer, directions, seed=arguments.seed))
        print_rows(made, curves[-1])
        if make is subspace:
            by_differences = made
    chosen = default_k(curves[0])
    print(f"\nDefault k: {chosen} of differences in means, {default_k(curves[1])} of principal components.")
    print(what_is_left(by_differences))
    print(what_more_directions_do(curves[0], chosen))
    if arguments.out:
        print(f"Kept: {by_differences.direction(chosen).save(arguments.out)}")


def direction_at_the_presets_place(model: ChatModel, prepared: Prepared, name: str) -> Direction:
    """The difference in means of the training part, at the position and layer of the preset's own direction."""
    known = preset_direction(model, name)
    found = difference_in_means(model, prepared.train).direction(known.position, known.layer, name=known.name)
    return replace(found, card=known.card | found.card | {"data_sha256": prepared.data.sha256, "seed": prepared.seed})


def print_rows(made: Subspace, curve: Sequence[KEffect]) -> None:
    print(f"| {made.method} | 0 | {made.lengths[0]:.2f} | {shown(made.remainders[0])} | | |")
    for effect in curve:
        left = "| |"
        if effect.k < made.k_max:
            left = f"| {made.lengths[effect.k]:.2f} | {shown(made.remainders[effect.k])} |"
        print(f"| {made.method} | {effect.k} {left} {shown(effect.bypass)} | {shown(effect.kl, '.3f')} |", flush=True)


def shown(figure: Figure, form: str = ".2f") -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def what_is_left(made: Subspace) -> str:
    """Whether the remainders are those measured before; they are if each lies within its interval here."""
    claimed = ", ".join(f"{value:.2f}" for value in CLAIMED_LEFT)
    here = made.remainders[1 : 1 + len(CLAIMED_LEFT)]
    if len(here) < len(CLAIMED_LEFT):
        return f"“Remainders {claimed} of the norm”: not measured, for that takes k = {len(CLAIMED_LEFT) + 1}."
    agrees = all(figure.low <= value <= figure.high for figure, value in zip(here, CLAIMED_LEFT, strict=True))
    raw = ", ".join(f"{length:.2f}" for length in made.lengths[1 : 1 + len(CLAIMED_LEFT)])
    return (
        f"“Remainders {claimed} of the norm”: {'confirmed' if agrees else 'refuted'} here, they are {raw} on the "
        f"training part and {', '.join(map(shown, here))} on the validation part."
    )


def what_more_directions_do(curve: Sequence[KEffect], chosen: int) -> str:
    """Whether more directions than one change the effect; they do if the default k is more than one."""
    best = min(curve, key=lambda effect: effect.bypass.value)
    return (
        f"“Little change after k = 1”: {'confirmed' if chosen == 1 else 'refuted'} here, bypass is "
        f"{shown(curve[0].bypass)} at k = 1 and at its best {shown(best.bypass)} at k = {best.k}."
    )


if __name__ == "__main__":
    main()
