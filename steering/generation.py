"""The side-by-side engine: all variants decode as the rows of one batch, and every step says what was in the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steering.directions import Direction
from steering.replies import Reply, ReplyRequest, Step
from steering.reply_batch import ReplyBatch
from steering.sampling import SamplingSettings
from steering.variants import Variant

if TYPE_CHECKING:
    from steering.models import ChatModel, Message

__all__ = ["Reply", "Step", "stream_side_by_side"]

Conversation = list[dict[str, str]]


def stream_side_by_side(
    model: ChatModel,
    conversation: Conversation | Sequence[Conversation],
    variants: Sequence[Variant],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    probe: Direction | None = None,
    likeliest: int = 0,
) -> Iterator[Step]:
    """Write the replies of all variants at the same time, one token a step.

    Args:
        conversation: messages that end with the user's, or one such list per variant.
        variants: the columns; each is one row of the batch.
        max_new_tokens: the longest reply.
        temperature, top_p, repetition_penalty, seed: see :class:`steering.sampling.SamplingSettings`.
        probe: the direction whose cosines are measured; by default the first that a variant uses.
        likeliest: how many of the likeliest next tokens each step tells, with their probabilities.

    Yields:
        A :class:`Step` for each token; the last has every variant finished or at ``max_new_tokens``.

    Raises:
        SteeringError: if a setting is out of range, the message is empty or too long, a direction does not fit, memory
            runs out, or the model's numbers overflow.
    """
    request = ReplyRequest(
        conversations=_one_each(conversation, len(variants)),
        variants=variants,
        settings=SamplingSettings(temperature, top_p, repetition_penalty, seed),
        max_new_tokens=max_new_tokens,
        probe=probe,
        likeliest=likeliest,
        keeps=False,
    )
    batch = ReplyBatch(model)
    replies = batch.join(request)
    yield replies.newest
    while not replies.finished:
        batch.step()
        if replies.error is not None:
            raise replies.fault or replies.error
        yield replies.newest


def _one_each(conversation: Conversation | Sequence[Conversation], rows: int) -> list[list[Message]]:
    if conversation and isinstance(conversation[0], dict):
        return [list(conversation)] * rows  # type: ignore[arg-type]
    return [list(messages) for messages in conversation]  # type: ignore[arg-type]
