"""One turn: what is asked for, and its replies while they are being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.decoders import KeptRow, NewRow
from steering.directions import Direction
from steering.errors import OutOfMemoryError, SteeringError
from steering.kept_rows import ReadingCondition, reading_condition, ready_for
from steering.out_of_memory import is_out_of_memory
from steering.reply_steps import Likeliest, Reply, Step
from steering.sampling import Sampler, SamplingSettings
from steering.thoughts import Thought
from steering.variants import Addition, Variant

if TYPE_CHECKING:
    from steering.models import ChatModel, Message

__all__ = ["Likeliest", "Replies", "Reply", "ReplyRequest", "Step", "out_of_memory"]


@dataclass(frozen=True, eq=False)
class ReplyRequest:
    """A turn that is asked for.

    Attributes:
        conversations: messages that end with the user's, one such list a variant.
        variants: the columns; each is one row of the batch.
        settings: how tokens are chosen.
        max_new_tokens: the longest reply.
        probe: the direction whose cosines are measured, one for all variants or for each one or None; by default the
            first that a variant uses.
        likeliest: how many of the likeliest next tokens a step tells.
        kept: keys and values of each row's last turn, or None; what of them fits is gone on from. They must have been
            read under the variant's `reading_condition`.
        keeps: whether the rows' keys and values are kept when they leave.

    Raises:
        SteeringError: if there is no variant, not one conversation for each, or no token to write.
    """

    conversations: Sequence[list[Message]]
    variants: Sequence[Variant]
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    max_new_tokens: int = 64
    probe: Direction | Sequence[Direction | None] | None = None
    likeliest: int = 0
    kept: Sequence[KeptRow | None] | None = None
    keeps: bool = True

    def __post_init__(self) -> None:
        if not self.variants:
            raise SteeringError("There is no variant to run. Give at least one, such as Variant.baseline().")
        if self.max_new_tokens < 1:
            raise SteeringError(f"A reply needs at least one token; max_new_tokens is {self.max_new_tokens}.")
        if len(self.conversations) != len(self.variants):
            raise SteeringError(
                f"There are {len(self.conversations)} conversations for {len(self.variants)} variants. Give one for "
                "each, or one for all."
            )

    @property
    def probes(self) -> list[Direction | None]:
        """The direction whose cosine is measured in each row."""
        if self.probe is not None and not isinstance(self.probe, Direction):
            return list(self.probe)
        first = next((direction for variant in self.variants for direction in variant.directions), None)
        return [self.probe or first] * len(self.variants)


class Replies:
    """One turn being written. `ReplyBatch` makes it and moves it on; others read it.

    Attributes:
        request: what was asked for.
        conditions: under what each row's prompt was read, for whoever keeps the rows; none if the request keeps none.
        newest: the newest step.
        running: the variants whose replies go on, which are those with a row in the batch.
        error: why the turn ended before its time, as a sentence, or None.
        fault: what was raised, if it was not about memory and is not for a visitor to read.
    """

    newest: Step

    def __init__(self, model: ChatModel, request: ReplyRequest, prompts: list[list[int]], left_out: list[int]) -> None:
        n_variants = len(request.variants)
        self.request = request
        kept_variants = request.variants if request.keeps else ()
        self.conditions: list[ReadingCondition] = [reading_condition(model, one) for one in kept_variants]
        self.running = list(range(n_variants))
        self.error: SteeringError | None = None
        self.fault: Exception | None = None
        self._end_tokens = model.end_tokens
        self._prompts = prompts
        self._post_instruction_tokens = model.post_instruction_tokens
        self._left_out = left_out
        self._sampler = Sampler(request.settings, n_variants, model.device)
        self._replies = [Reply(model.tokenizer) for _ in range(n_variants)]
        self._thoughts = [Thought(model) for _ in range(n_variants)]
        self._unread = [0] * n_variants
        self._cosines = torch.zeros(n_variants, model.n_layers)
        self._n_steps = 0
        self._strengths = [_strengths(variant) for variant in request.variants]
        self._is_moved = [False] * n_variants
        self._changed_at: dict[int, int] = {}  # how many tokens a row had read when what acts on it changed
        self._kept: list[KeptRow | None] = [None] * n_variants

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return not self.running

    def keep(self) -> list[KeptRow | None]:
        """Keys and values of each variant's row, of those that have left the batch and can be gone on from.

        Not of rows whose dial was turned while they were written, for reading them again gives something else. Of rows
        in which a variant acted on one side of the thought only, what was read before that changed.
        """
        return [*self._kept]

    def new_rows(self) -> list[NewRow]:
        """The rows of the turn, as they join a batch."""
        request = self.request
        kept = request.kept or [None] * len(request.variants)
        return [
            NewRow(
                prompt,
                thought.acting(variant),
                probe,
                None if row is None else ready_for(row, prompt, self._post_instruction_tokens),
            )
            for prompt, thought, variant, probe, row in zip(
                self._prompts, self._thoughts, request.variants, request.probes, kept, strict=True
            )
        ]

    def unread(self) -> list[int]:
        """The newest token of each running variant, which the next step reads."""
        return [self._unread[variant] for variant in self.running]

    def take(self, logits: Tensor, cosines: Tensor) -> list[tuple[int, Variant]]:
        """Choose a token for each running variant; which of them are acted on otherwise from now on, and how.

        Args:
            logits: ``[running variants, vocabulary]``.
            cosines: float32 ``[running variants, n_layers]``.

        Raises:
            SteeringError: if a logit is not a number.
        """
        rows = self.running
        with torch.inference_mode():
            tokens = self._sampler.choose(logits, rows).tolist()
            told = _likeliest(logits, self.request.likeliest)
        self._n_steps += 1
        self._cosines[rows] = cosines
        going_on = [token not in self._end_tokens for token in tokens]
        self.running = [variant for variant, goes_on in zip(rows, going_on, strict=True) if goes_on]
        likeliest: list[Likeliest | None] = [None] * len(self._replies)
        for variant, token, likely, goes_on in zip(rows, tokens, told, going_on, strict=True):
            if goes_on:
                self._replies[variant].ids.append(token)
                self._unread[variant] = token
                likeliest[variant] = likely
        changes = self._end_thoughts()
        for variant in rows:
            self._is_moved[variant] |= _strengths(self.request.variants[variant]) != self._strengths[variant]
        advanced = [variant in self.running for variant in range(len(self._replies))]
        self.newest = Step(
            cosines=self._cosines.clone(),  # an ordinary tensor, which its owner may change
            finished=[not goes_on for goes_on in advanced],
            n_tokens=[len(reply.ids) for reply in self._replies],
            n_thought=[thought.n_tokens for thought in self._thoughts],
            left_out=self._left_out,
            likeliest=likeliest,
            _replies=self._replies,
            _advanced=advanced,
            _marks=self._thoughts[0].marks,
        )
        if self._n_steps == self.request.max_new_tokens:
            self.running = []
        return changes

    def _end_thoughts(self) -> list[tuple[int, Variant]]:
        """The running variants whose thought ended with their newest token and that act otherwise from now on."""
        changes = []
        for variant in self.running:
            thought, wanted = self._thoughts[variant], self.request.variants[variant]
            was_over = thought.is_over
            thought.take(self._replies[variant].ids)
            if thought.is_over and not was_over and wanted.acts != "both":
                self._changed_at[variant] = len(self._prompts[variant]) + len(self._replies[variant].ids) - 1
                changes.append((variant, thought.acting(wanted)))
        return changes

    def let_go(self, variant: int, row: Callable[[], KeptRow]) -> None:
        """Keep what is worth keeping of a row that is about to leave; ``row`` copies its keys and values."""
        if not self.request.keeps or self.error is not None or self._is_moved[variant]:
            return
        try:
            kept = row()
            changed_at = self._changed_at.get(variant)
            self._kept[variant] = kept if changed_at is None else kept.first(changed_at)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # All that is lost is that the next turn reads its prompt from the beginning.

    def stop(self, error: Exception | None = None) -> None:
        """End the turn: nothing more is written, because of ``error`` or because nobody wants more."""
        self.running = []
        if error is None:
            return
        self._kept = [None] * len(self._kept)
        if isinstance(error, SteeringError):
            self.error = error
        elif is_out_of_memory(error):
            self.error = out_of_memory()
            self.error.__cause__ = error
        else:
            self.fault = error
            self.error = SteeringError("Something went wrong while these replies were being written. Ask again.")
            self.error.__cause__ = error


def out_of_memory() -> OutOfMemoryError:
    """What a person is told when a turn does not fit into memory."""
    return OutOfMemoryError("The model ran out of memory. Shorten your message or start a new chat, then ask again.")


def _strengths(variant: Variant) -> list[float]:
    return [one.strength for one in variant.interventions if isinstance(one, Addition)]


def _likeliest(logits: Tensor, n: int) -> Sequence[Likeliest | None]:
    """The ``n`` likeliest next tokens of each row with their probabilities; None for each if ``n`` is 0."""
    if n == 0:
        return [None] * len(logits)
    scores = logits.float()
    best, ids = scores.topk(min(n, scores.shape[-1]))
    probabilities = (best - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return list(zip(ids.tolist(), probabilities.tolist(), strict=True))
