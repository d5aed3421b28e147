"""The side-by-side engine: all variants decode as the rows of one batch, and every step says what was in the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from steering.conversation import fitted, with_system
from steering.directions import Direction
from steering.errors import OutOfMemoryError, SteeringError
from steering.interventions import Steering, Variant
from steering.out_of_memory import is_out_of_memory
from steering.sampling import Sampler, SamplingSettings

if TYPE_CHECKING:
    from steering.models import ChatModel, Message

Conversation = list[dict[str, str]]


def last_positions(n: int, device: torch.device) -> Tensor:
    """The last ``n`` positions of each row, for a model's ``logits_to_keep``.

    An index takes copies. What a plain number takes is a view with gaps between the rows, which torch multiplies by the
    head row by row: for 32 rows in bfloat16 on a CPU 300 times slower.
    """
    return torch.arange(-n, 0, device=device)


class Decoder(Protocol):
    """One way to run the rows of a batch; the engine does not care which."""

    def prefill(self, prompts: list[list[int]]) -> Tensor:
        """Read the prompts, one a row; logits of the next token, ``[rows, vocabulary]``."""

    def step(self, tokens: Tensor) -> Tensor:
        """Take one more token a row, ``[rows]``; logits of the next, ``[rows, vocabulary]``."""

    def cosines(self) -> Tensor:
        """Cosines of the newest tokens with the probe, float32 ``[rows, n_layers]``."""


class ModuleDecoder:
    """Decodes with transformers' own modules; takes every architecture the library knows."""

    def __init__(self, model: ChatModel, steering: Steering) -> None:
        from transformers import DynamicCache

        self.model = model
        self.steering = steering
        self._cache = DynamicCache(config=model.config)
        self._mask: Tensor | None = None
        self._positions: Tensor | None = None

    def prefill(self, prompts: list[list[int]]) -> Tensor:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.model.pad_token)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        if bool(mask.all()):  # without padding the plain causal path is faster, and the one `generate` takes
            return self._forward(ids, None, None)
        self._mask = mask.to(self.model.device)
        self._positions = positions[:, -1:].to(self.model.device)
        return self._forward(ids, self._mask, positions.to(self.model.device))

    def step(self, tokens: Tensor) -> Tensor:
        if self._mask is None or self._positions is None:
            return self._forward(tokens[:, None], None, None)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._positions = self._positions + 1
        return self._forward(tokens[:, None], self._mask, self._positions)

    def cosines(self) -> Tensor:
        return self.steering.cosines()

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        with torch.inference_mode(), self.steering.applied():
            output: Any = self.model.model(
                input_ids=ids.to(self.model.device),
                attention_mask=mask,
                position_ids=positions,
                cache=self._cache,
                use_cache=True,
                logits_to_keep=last_positions(1, self.model.device),
            )
        return output.logits[:, -1]


class Reply:
    """The tokens of one reply and the text each of them brought, decoded only as far as someone asks."""

    def __init__(self, tokenizer: Any) -> None:
        self.ids: list[int] = []
        self._tokenizer = tokenizer
        self._texts = [""]

    def text(self, n_tokens: int) -> str:
        """The text of the first ``n_tokens`` tokens.

        A character whose bytes are not complete yet is left out.
        """
        while len(self._texts) <= n_tokens:
            text = self._tokenizer.decode(self.ids[: len(self._texts)], skip_special_tokens=True)
            self._texts.append(self._texts[-1] if text.endswith("\ufffd") else text)
        return self._texts[n_tokens]

    def brought(self, n_tokens: int) -> str:
        """What the token at place ``n_tokens``, from 1, added to the text; "" while a character is incomplete."""
        return self.text(n_tokens)[len(self.text(n_tokens - 1)) :]


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of all variants brought. Texts are decoded only when they are asked for.

    Attributes:
        cosines: float32 ``[n_variants, n_layers]``, cos(x^(l), ablation unit) at the token whose reading gave each
            variant's newest token; a finished variant keeps its last.
        finished: whether each variant's reply has ended.
        n_tokens: how many tokens each reply has, the end token not counted.
        left_out: how many of the oldest messages of each conversation did not fit and were left out.
    """

    cosines: Tensor
    finished: list[bool]
    n_tokens: list[int]
    left_out: list[int]
    _replies: list[Reply]
    _advanced: list[bool]

    @cached_property
    def texts(self) -> list[str]:
        """The reply of each variant so far."""
        return [reply.text(n) for reply, n in zip(self._replies, self.n_tokens, strict=True)]

    @cached_property
    def tokens(self) -> list[str | None]:
        """What each variant's newest token added to its text; None for a variant that wrote none in this step."""
        return [
            reply.brought(n) if advanced else None
            for reply, n, advanced in zip(self._replies, self.n_tokens, self._advanced, strict=True)
        ]

    @property
    def token_ids(self) -> list[list[int]]:
        """The token ids of each reply so far, without the end token."""
        return [reply.ids[:n] for reply, n in zip(self._replies, self.n_tokens, strict=True)]


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
) -> Iterator[Step]:
    """Write the replies of all variants at the same time, one token a step.

    Args:
        conversation: messages that end with the user's, or one such list per variant.
        variants: the columns; each is one row of the batch.
        max_new_tokens: the longest reply.
        temperature, top_p, repetition_penalty, seed: see :class:`steering.sampling.SamplingSettings`.
        probe: the direction whose cosines are measured; by default the first that a variant uses.

    Yields:
        A :class:`Step` for each token; the last has every variant finished or at ``max_new_tokens``.

    Raises:
        SteeringError: if a setting is out of range, the message is empty or too long, a direction does not fit, memory
            runs out, or the model's numbers overflow.
    """
    if not variants:
        raise SteeringError("There is no variant to run. Give at least one, such as Variant.baseline().")
    if max_new_tokens < 1:
        raise SteeringError(f"A reply needs at least one token; max_new_tokens is {max_new_tokens}.")
    settings = SamplingSettings(temperature, top_p, repetition_penalty, seed)
    conversations = _one_each(conversation, len(variants))
    prompts, left_out = [], []
    for variant, messages in zip(variants, conversations, strict=True):
        ids, missing = fitted(model, with_system(messages, variant.system), max_new_tokens)
        prompts.append(ids)
        left_out.append(missing)
    decoder: Decoder = ModuleDecoder(model, Steering(model, variants, probe))
    yield from _decode(
        model, decoder, prompts, left_out, Sampler(settings, len(variants), model.device), max_new_tokens
    )


def _decode(
    model: ChatModel,
    decoder: Decoder,
    prompts: list[list[int]],
    left_out: list[int],
    sampler: Sampler,
    max_new_tokens: int,
) -> Iterator[Step]:
    rows = len(prompts)
    replies = [Reply(model.tokenizer) for _ in range(rows)]
    finished = [False] * rows
    tokens: Tensor | None = None
    cosines: Tensor | None = None
    for _ in range(max_new_tokens):
        try:
            logits = decoder.prefill(prompts) if tokens is None else decoder.step(tokens)
            with torch.inference_mode():
                tokens = sampler.choose(logits)
                newest = decoder.cosines()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "The model ran out of memory. Shorten your message or start a new chat, then ask again."
            ) from error
        running = [not done for done in finished]
        # Outside inference mode `where` gives an ordinary tensor, which its owner may change.
        cosines = torch.where(torch.tensor(running)[:, None], newest, newest if cosines is None else cosines)
        for row, token in enumerate(tokens.tolist()):
            if running[row]:
                finished[row] = token in model.end_tokens
                if not finished[row]:
                    replies[row].ids.append(token)
        advanced = [was and not done for was, done in zip(running, finished, strict=True)]
        yield Step(cosines, list(finished), [len(reply.ids) for reply in replies], left_out, replies, advanced)
        if all(finished):
            return


def _one_each(conversation: Conversation | Sequence[Conversation], rows: int) -> list[list[Message]]:
    if conversation and isinstance(conversation[0], dict):
        return [list(conversation)] * rows  # type: ignore[arg-type]
    conversations = [list(messages) for messages in conversation]
    if len(conversations) != rows:
        raise SteeringError(
            f"There are {len(conversations)} conversations for {rows} variants. Give one for each, or one for all."
        )
    return conversations  # type: ignore[return-value]
