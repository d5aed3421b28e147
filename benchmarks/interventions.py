"""What each way to take a direction out, or to turn it up, costs elsewhere, all at the same effect.

    python -m benchmarks.interventions [--model bundled] [--preset poetic] [--direction FILE] [--prompts 32]
        [--tokens 48] [--seed 0]

The effect is the set's own metric on its validation examples, as in selection: how far it falls on the positive side
where the direction is taken out, and how far it rises on the negative side where it is turned up. Plain addition at the
calibrated coefficient gives the effect that the other additions are set to by their coefficient. Ablation has nothing
to set, so the affine kind and capping are set to what it does: their target moves along the way from the negative
side's mean (0, their own) to the positive side's (1).

The cost is measured on harmless text: the model's own greedy replies to instructions that are in no preset. KL is of
each of their tokens' distributions from the unsteered model's, and the rise of cross-entropy is of the tokens
themselves; both in nats a token, with 95 % intervals by bootstrap over the replies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import print_machine
from benchmarks.sounds_like_ai import PROMPTS
from steering import Ablation, Addition, AffineAblation, Capping, ContrastSet, Direction, Variant, load_model
from steering.calibration import calibrated
from steering.directions import Candidates, difference_in_means
from steering.figures import Figure, bootstrapped
from steering.float32_linear import FastLinears
from steering.generation import stream_side_by_side
from steering.metrics import kl_divergence, token_log_probabilities
from steering.models import ChatModel
from steering.neutral_means import NeutralMeans
from steering.preparation import prepare
from steering.preset_directions import preset_direction
from steering.prompt_trees import prompt_trees
from steering.scoring import Scorer, scorer_for
from steering.tree_pass import TreePass

NODES_A_TREE = 400  # all of a reply's logits are read
DOSES = tuple(0.05 * 1.25**i for i in range(14))  # of the stream's usual length: 0.05 to 0.91
TARGETS = tuple(np.linspace(1.0, -2.0, 13).tolist())  # 1: the positive side's mean; below 0: beyond the negative's
HALVINGS = 5
NOT_REACHED = "not reached; at the most it does: "


@dataclass(frozen=True)
class Way:
    """A way to intervene with something to set.

    Attributes:
        settings: in order of growing effect.
        words: of what is set; “” if there is nothing.
    """

    name: str
    variant: Callable[[float], Variant]
    settings: Sequence[float]
    words: str
    first_layer: int = 0


class Texts:
    """The model's own replies, and what steering changes on them."""

    def __init__(self, model: ChatModel, prompts: Sequence[str], tokens: int) -> None:
        asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
        replies: list[list[int]] = []
        for messages in asked:
            for step in stream_side_by_side(model, messages, [Variant.baseline()], max_new_tokens=tokens):  # noqa: B007
                pass
            replies.append(step.token_ids[0])
        written = [(model.encode(messages), reply) for messages, reply in zip(asked, replies, strict=True) if reply]
        linears = FastLinears(model.model)
        self._parts = []
        for indices, tree in prompt_trees([[prompt + reply] for prompt, reply in written], NODES_A_TREE):
            reads, wanted, sizes = [], [], []
            for path, (prompt, reply) in zip(tree.paths, [written[i] for i in indices], strict=True):
                reads += path[len(prompt) - 1 : -1]
                wanted += reply
                sizes.append(len(reply))
            one = TreePass(model, tree, torch.tensor(reads), linears)
            self._parts.append((one, one.take_unsteered(), torch.tensor(wanted), sizes))

    def cost(self, variant: Variant, seed: int) -> tuple[Figure, Figure]:
        """KL and the rise of cross-entropy, nats a token; means over replies."""
        kl: list[float] = []
        rise: list[float] = []
        for one, base, wanted, sizes in self._parts:
            steered = one.logits([variant])[0]
            divergence = kl_divergence(base, steered)
            lost = token_log_probabilities(base, wanted) - token_log_probabilities(steered, wanted)
            kl += [float(part.mean()) for part in divergence.split(sizes)]
            rise += [float(part.mean()) for part in lost.split(sizes)]
        return bootstrapped([np.array(kl)], np.mean, seed), bootstrapped([np.array(rise)], np.mean, seed)


def moved_target(direction: Direction, candidates: Candidates, part: float) -> Direction:
    """The direction with its negative side's means moved towards the positive side's along what is ablated."""
    assert direction.neutral is not None, "the direction is too old to know its negative side"
    differences = candidates.vectors[candidates.positions.index(direction.position)].double()
    unit = direction.ablation_unit.double()
    axes = direction.neutral.axes.double()
    shift = part * (differences @ unit)[:, None] * (axes @ unit)
    return replace(
        direction, neutral=NeutralMeans(direction.neutral.axes, direction.neutral.components + shift.float())
    )


def removals(direction: Direction, candidates: Candidates) -> list[Way]:
    def to(part: float) -> Direction:
        return moved_target(direction, candidates, part)

    ways = [
        Way("ablation" + (", centred" if direction.is_centred else ""), lambda _: Variant.ablated(direction), (), ""),
        Way("affine ablation", lambda t: Variant("affine", [AffineAblation(to(t))]), TARGETS, "target"),
        Way("capping", lambda t: Variant("capped", [Capping(to(t))]), TARGETS, "target", direction.layer),
    ]
    if direction.is_centred:
        plain = direction.plain()
        ways.append(Way("ablation, not centred", lambda _: Variant("plain", [Ablation(plain)]), (), ""))
    return ways


def additions(direction: Direction) -> list[Way]:
    projected = direction.projected()

    def way(name: str, of: Direction, keep_norm: bool = False) -> Way:
        def variant(dose: float) -> Variant:
            return Variant(name, [Addition(of, of.coefficient(dose), keep_norm=keep_norm)])

        return Way(name, variant, DOSES, "dose", direction.layer)

    return [
        way("addition", direction),
        way("addition, length kept", direction, keep_norm=True),
        way("projected direction added", projected),
    ]


def setting_for(wanted: float, way: Way, effect: Callable[[Variant], float]) -> tuple[float, bool]:
    """The smallest setting at which the effect is ``wanted``, and whether there is one; else the one that does most."""
    effects = [effect(way.variant(setting)) for setting in way.settings]
    reached = next((i for i, found in enumerate(effects) if found >= wanted), None)
    if reached is None:
        return way.settings[int(np.argmax(effects))], False
    if reached == 0:
        return way.settings[0], True
    low, high = way.settings[reached - 1], way.settings[reached]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if effect(way.variant(middle)) >= wanted:
            high = middle
        else:
            low = middle
    return high, True


def compare(
    title: str,
    ways: Sequence[Way],
    wanted: float,
    effect: Callable[[Variant], float],
    texts: Texts,
    seed: int,
) -> None:
    print(f"\n{title}, effect {wanted:.2f}\n")
    print("| way | set to | effect | KL | rise of cross-entropy |\n| --- | --- | --- | --- | --- |")
    for way in ways:
        setting, words = 0.0, "–"
        if way.settings:
            setting, is_reached = setting_for(wanted, way, effect)
            words = ("" if is_reached else NOT_REACHED) + f"{way.words} {setting:.3g}"
        variant = way.variant(setting)
        kl, rise = texts.cost(variant, seed)
        print(
            f"| {way.name} | {words} | {effect(variant):.2f} | {kl.words('.3f')} | {rise.words('+.3f')} |", flush=True
        )


def mean_metric(scorer: Scorer, side: str, variant: Variant, first_layer: int = 0) -> float:
    values: Tensor = scorer.metric(side, [variant], first_layer)
    return float(values.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--preset", default="poetic")
    parser.add_argument("--direction", type=Path, help="a direction file in place of the preset's direction")
    parser.add_argument("--prompts", type=int, default=32, help="how many replies the cost is measured on")
    parser.add_argument("--tokens", type=int, default=48, help="of a reply at most")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the bootstrap")
    arguments = parser.parse_args()
    print_machine()
    model = load_model(arguments.model, device="cpu", dtype=torch.bfloat16)
    direction = (
        Direction.load(arguments.direction, model) if arguments.direction else preset_direction(model, arguments.preset)
    )
    if "strength" not in direction.card:
        direction = calibrated(model, direction)
    prepared = prepare(
        model, ContrastSet.load(arguments.preset), filtered=bool(direction.card.get("filtered")), seed=arguments.seed
    )
    candidates = difference_in_means(model, prepared.train)
    scorer = scorer_for(model, prepared.validation, prepared.tokens)
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()[: arguments.prompts]
    texts = Texts(model, prompts, arguments.tokens)
    positive, negative = (float(side.mean()) for side in (scorer.unsteered.positive, scorer.unsteered.negative))
    start = float(direction.card["strength"]["start"])
    print(f"\n{model.label}, “{direction.name}”: position {direction.position}, layer {direction.layer}; c = {start:g}")
    print(f"unsteered metric: {positive:.2f} on the positive side, {negative:.2f} on the negative side")

    def falls(variant: Variant) -> float:
        return positive - mean_metric(scorer, "positive", variant)

    def rises(variant: Variant) -> float:
        return mean_metric(scorer, "negative", variant, direction.layer) - negative

    seed = arguments.seed
    compare("Taken out", removals(direction, candidates), falls(Variant.ablated(direction)), falls, texts, seed)
    wanted = rises(Variant.added(direction, start))
    compare("Turned up", additions(direction), wanted, rises, texts, seed)


if __name__ == "__main__":
    main()
