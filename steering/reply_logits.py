"""What a model would have said at each token of replies that are given: logits, likelihoods and divergences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.continuations import memory_errors
from steering.interventions import Steering
from steering.metrics import kl_divergence, token_log_probabilities
from steering.module_decoder import last_positions

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.variants import Variant

MOST_LOGITS = 100_000_000  # numbers of a pass that lie in memory, of all rows' replies over the whole vocabulary


@dataclass(frozen=True, eq=False)
class GivenReply:
    """A reply and the prompt it is read behind, as tokens, and what is done to the model meanwhile."""

    prompt: list[int]
    reply: list[int]
    variant: Variant


def reply_logits(model: ChatModel, rows: Sequence[GivenReply]) -> Iterator[Tensor]:
    """Logits of each reply's tokens and of what would follow it, ``[len(reply) + 1, vocabulary]``, row by row.

    As many rows are read in a pass as fit; each under its own variant, which acts at every position.

    Raises:
        DirectionError: if a direction does not fit the model.
        OutOfMemoryError: if the rows do not fit into memory together.
    """
    longest = max((len(row.reply) for row in rows), default=0) + 1
    at_once = max(1, MOST_LOGITS // (longest * int(model.config.vocab_size)))
    for first in range(0, len(rows), at_once):
        part = rows[first : first + at_once]
        logits = _read(model, part)
        for row, own in zip(part, logits, strict=True):
            yield own[-(len(row.reply) + 1) :]


def reply_log_probabilities(model: ChatModel, rows: Sequence[GivenReply]) -> list[Tensor]:
    """log P(token | what is before it) of each reply's tokens, in nats, ``[len(reply)]`` each, on the CPU."""
    return [
        token_log_probabilities(logits[:-1], torch.tensor(row.reply, dtype=torch.long)).cpu()
        for row, logits in zip(rows, reply_logits(model, rows), strict=True)
    ]


@dataclass(frozen=True)
class Read:
    """One reply read under a variant, beside the first row of its group.

    Attributes:
        cross_entropy: −mean log P of the reply's tokens, nats; NaN for an empty reply.
        kl_first: KL from the first row of what the reply begins with, nats.
        kl: the mean of it over the reply's tokens; NaN for an empty reply.
    """

    cross_entropy: float
    kl_first: float
    kl: float


def read_beside(model: ChatModel, rows: Sequence[GivenReply], first: Tensor | None = None) -> tuple[list[Read], Tensor]:
    """Read one reply under several variants and tell how far each is from the first: KL(P_first ‖ P).

    Args:
        rows: all with the same reply; their prompts may differ. At least one.
        first: the logits that all are held against, ``[len(reply) + 1, vocabulary]``; by default the first row's.

    Returns:
        What was read of each row, and those logits.
    """
    found = []
    for row, logits in zip(rows, reply_logits(model, rows), strict=True):
        held_against = logits if first is None else first
        divergences = kl_divergence(held_against, logits.to(held_against.device))
        likelihood = token_log_probabilities(logits[:-1], torch.tensor(row.reply, dtype=torch.long))
        found.append(Read(float(-likelihood.mean()), float(divergences[0]), float(divergences[:-1].mean())))
        first = held_against.clone() if first is None else first  # a view would keep the logits of all rows
    if first is None:
        raise ValueError("There is nothing to read.")
    return found, first


def _read(model: ChatModel, rows: Sequence[GivenReply]) -> Tensor:
    """One pass; rows are padded on the left, so that the replies end together."""
    lengths = torch.tensor([len(row.prompt) + len(row.reply) for row in rows])
    width = int(lengths.max())
    ids = torch.full((len(rows), width), model.pad_token)
    for row, own in zip(rows, ids, strict=True):
        own[width - len(row.prompt) - len(row.reply) :] = torch.tensor([*row.prompt, *row.reply])
    columns = torch.arange(width)
    padding = width - lengths[:, None]
    is_padded = bool(padding.any())  # without padding the plain causal path is faster
    kept = max(len(row.reply) for row in rows) + 1
    steering = Steering(model, [row.variant for row in rows])
    with memory_errors(), torch.inference_mode(), steering.applied():
        output: Any = model.model(
            input_ids=ids.to(model.device),
            attention_mask=(columns >= padding).to(model.device) if is_padded else None,
            position_ids=(columns - padding).clamp_min(0).to(model.device) if is_padded else None,
            use_cache=False,
            logits_to_keep=last_positions(kept, model.device),
        )
    logits: Tensor = output.logits
    return logits
