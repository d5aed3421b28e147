"""The ways in which the benchmark of style has replies written: steered, with controls, and plainly asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from steering import Ablation, Addition, Direction, Variant, stream_side_by_side
from steering.calibration import mean_negative_log_likelihoods, repeated_share
from steering.conversation import with_system
from steering.decoders import NewRow
from steering.metrics import kl_divergence
from steering.models import ChatModel
from steering.module_decoder import ModuleDecoder

BASELINE = "baseline"
LIKE_AN_ASSISTANT = (
    "Answer in the typical style of an AI assistant: polished and enthusiastic, with stock phrases, a list with bold "
    "headers, and an offer of more help at the end."
)
LIKE_A_PERSON = (
    "Answer as a thoughtful person would in a conversation: in plain, direct words, without lists, bold text, stock "
    "phrases or an offer of more help."
)


@dataclass(frozen=True)
class Condition:
    """One way to write the replies; a variant for each instruction, by its number."""

    name: str
    variant: Callable[[int], Variant]


@dataclass(frozen=True)
class Reply:
    """One reply, its mean negative log-likelihood (NaN if it is empty) and KL, both in nats."""

    text: str
    likelihood: float
    repeated: float
    kl: float


def random_like(direction: Direction, k: int, seed: Sequence[int]) -> Direction:
    """A random direction as long as r, with a random basis of k rows to ablate; all rotations are equally likely."""
    normal = np.random.default_rng(seed).standard_normal((len(direction.vector), k))
    basis = torch.from_numpy(np.linalg.qr(normal).Q.T).float().contiguous()
    return replace(direction, vector=direction.norm * basis[0], ablation_basis=basis, neutral=None)


def conditions(direction: Direction, coefficient: float, subspace: Direction | None, seed: int) -> list[Condition]:
    """The baseline first."""

    def same(name: str, *interventions: Ablation | Addition, system: str | None = None) -> Condition:
        variant = Variant(name, interventions, system)
        return Condition(name, lambda _: variant)

    def random(name: str, k: int, act: Callable[[Direction], Ablation | Addition]) -> Condition:
        return Condition(name, lambda number: Variant(name, (act(random_like(direction, k, (seed, number))),)))

    k = len(direction.ablation_basis)
    found = [
        same(BASELINE),
        same("ablated", Ablation(direction)),
        random("random ablated", k, Ablation),
        same(f"added, c = {coefficient:g}", Addition(direction, coefficient)),
        random("random added", 1, lambda one: Addition(one, coefficient)),
        same("asked to sound like AI", system=LIKE_AN_ASSISTANT),
        same("asked for plain style", system=LIKE_A_PERSON),
    ]
    if subspace is not None:
        k = len(subspace.ablation_basis)
        found.insert(3, same(f"{k} dimensions ablated", Ablation(subspace)))
        found.insert(4, random(f"{k} random dimensions ablated", k, Ablation))
    return found


def write(
    model: ChatModel, prompts: list[str], ways: list[Condition], batch: int, tokens: int, penalty: float
) -> list[list[Reply]]:
    """For each instruction the replies of every condition; ``batch`` instructions' replies are rows of one batch."""
    written = []
    for first in tqdm(range(0, len(prompts), batch), unit="batch"):
        part = prompts[first : first + batch]
        variants = [way.variant(first + i) for i in range(len(part)) for way in ways]
        asked = [[{"role": "user", "content": prompt}] for prompt in part]
        conversations = [messages for messages in asked for _ in ways]
        for step in stream_side_by_side(  # noqa: B007  the last step is what counts
            model, conversations, variants, max_new_tokens=tokens, repetition_penalty=penalty
        ):
            pass
        logits = ModuleDecoder(model).join(
            [
                NewRow(model.encode(with_system(one, way.system)), way)
                for one, way in zip(conversations, variants, strict=True)
            ]
        )
        for i, messages in enumerate(asked):
            rows = slice(i * len(ways), (i + 1) * len(ways))
            ids = step.token_ids[rows]
            divergences = kl_divergence(logits[rows][:1], logits[rows]).tolist()
            likelihoods = mean_negative_log_likelihoods(model, messages, ids)
            repeated = [repeated_share(one) for one in ids]
            written.append(list(map(Reply, step.texts[rows], likelihoods, repeated, divergences)))
    return written
