"""Read the residual stream: every layer at every chosen position, from one forward pass a batch.

Three things keep this fast: what all prompts share (the template's beginning) runs once and lies in the key/value
cache for every batch; prompts of similar length go together; and the pass ends where the last block would begin, for
nothing after that is read.

Padding is on the **right** here, unlike in generation. Attention is causal, so a token never sees what follows it:
padding then needs no mask, keeps every position as it is (also across a sliding window), and a batch gives what
single prompts give.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.contrast import Example
from steering.errors import ContrastSetError, OutOfMemoryError
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.models import ChatModel

# The position of sets with responses: the mean over the response's tokens.
RESPONSE = 0


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Sums over one side of a contrast set, at every position and layer.

    Attributes:
        sums: float64 ``[n_positions, n_layers, d_model]``.
        norm_sums: float64 ``[n_positions, n_layers]``, sums of ‖x‖ (with responses: of the mean ‖x‖ over its tokens).
        count: how many examples are in the sums.
        positions: the negative index of each row, or ``[RESPONSE]``.
        notes: what the person should know of how it went.
    """

    sums: Tensor
    norm_sums: Tensor
    count: int
    positions: list[int]
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> Tensor:
        """float32 ``[n_positions, n_layers, d_model]``."""
        return (self.sums / self.count).float()

    @property
    def norms(self) -> Tensor:
        """Mean ‖x‖, float32 ``[n_positions, n_layers]``."""
        return (self.norm_sums / self.count).float()


def class_means(
    model: ChatModel,
    sides: Sequence[Sequence[Example]],
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[ClassMeans]:
    """Means of each side in ``sides``; memory does not grow with the number of examples."""
    examples = [example for side in sides for example in side]
    side_of = [i for i, side in enumerate(sides) for _ in side]
    reader = ResidualReader(model, examples, batch_size)
    shape = (len(sides), len(reader.positions), model.n_layers)
    sums = torch.zeros(*shape, model.d_model, dtype=torch.float64)
    norm_sums = torch.zeros(*shape, dtype=torch.float64)
    for indices, residuals, norms in reader.read(progress):
        for row, index in enumerate(indices):
            sums[side_of[index]] += residuals[row].double()
            norm_sums[side_of[index]] += norms[row].double()
    return [
        ClassMeans(sums[i], norm_sums[i], len(side), reader.positions, tuple(reader.notes))
        for i, side in enumerate(sides)
    ]


def residuals(
    model: ChatModel, examples: Sequence[Example], *, batch_size: int = 32, progress: Progress = silent
) -> Tensor:
    """The residual stream of each example, float32 ``[n_examples, n_positions, n_layers, d_model]``.

    With responses, the mean over the response's tokens is the one position.
    """
    reader = ResidualReader(model, examples, batch_size)
    read = torch.empty(len(examples), len(reader.positions), model.n_layers, model.d_model)
    for indices, batch, _ in reader.read(progress):
        read[indices] = batch
    return read


@dataclass(frozen=True)
class _Sequence:
    """One example as token ids, and where in them it is read: ``[first, end)``."""

    ids: list[int]
    first: int
    end: int


class _Enough(Exception):
    """Ends a forward pass in which everything needed has been read."""


class ResidualReader:
    """Reads the same positions of many examples, batch by batch."""

    def __init__(self, model: ChatModel, examples: Sequence[Example], batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size
        self.with_responses = bool(examples) and examples[0].response is not None
        self.positions = [RESPONSE] if self.with_responses else list(range(-len(model.post_instruction_tokens), 0))
        self.notes: list[str] = []
        self._sequences = [self._tokenise(example) for example in examples]
        self._shared = _common_prefix(self._sequences)

    def _tokenise(self, example: Example) -> _Sequence:
        prompt = self.model.encode(list(example.messages))
        where = f"Row {example.row}" if example.row else "An example"
        if self.with_responses:
            response = self.model.tokenizer(example.response or "", add_special_tokens=False)["input_ids"]
            if not response:
                raise ContrastSetError(f"{where} has an empty response. Write one, or delete the row.")
            sequence = _Sequence(prompt + response, len(prompt), len(prompt) + len(response))
        else:
            sequence = _Sequence(prompt, len(prompt) - len(self.positions), len(prompt))
        if len(sequence.ids) > self.model.max_length:
            raise ContrastSetError(
                f"{where} has {len(sequence.ids)} tokens; {self.model.label} reads at most {self.model.max_length}. "
                "Shorten it."
            )
        return sequence

    def read(self, progress: Progress = silent) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield, batch by batch, the examples' indices, their residuals and the norms.

        Residuals are float32 ``[batch, n_positions, n_layers, d_model]`` on the CPU, norms float32
        ``[batch, n_positions, n_layers]``. Running out of memory halves the batch and goes on.
        """
        order = sorted(range(len(self._sequences)), key=lambda i: len(self._sequences[i].ids))
        size, start = self.batch_size, 0
        prefix = None
        progress("Reading examples", 0, len(order))
        while start < len(order):
            indices = order[start : start + size]
            try:
                if prefix is None:
                    prefix = self._run_prefix()
                read = self._run_batch([self._sequences[i] for i in indices], prefix)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise OutOfMemoryError(
                        "There is not enough memory to read even one example. Shorten the examples or choose a smaller "
                        "model."
                    ) from error
                size = max(1, size // 2)
                self.notes.append(f"Memory ran out, so examples were read {size} at a time.")
                continue
            yield indices, *read
            start += len(indices)
            progress("Reading examples", start, len(order))

    def _run_prefix(self) -> Any:
        """The key/value cache of what all examples begin with, or None if they share nothing."""
        from transformers import DynamicCache

        if self._shared == 0:
            return None
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([self._sequences[0].ids[: self._shared]], device=self.model.device)
        with self.model.lock, torch.inference_mode():
            self.model.model.base_model(input_ids=ids, cache=cache, use_cache=True)
        return cache

    def _run_batch(self, batch: list[_Sequence], prefix: Any) -> tuple[Tensor, Tensor]:
        from transformers import DynamicCache

        model, shared = self.model, self._shared
        length = max(len(sequence.ids) for sequence in batch) - shared
        ids = torch.full((len(batch), length), model.pad_token)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids) - shared] = torch.tensor(sequence.ids[shared:])
        if prefix is None:
            cache = DynamicCache(config=model.config)
        else:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(len(batch))
        positions = _positions_read(batch, shared, self.with_responses)
        layers: list[Tensor] = []
        norms: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = (args[0] if args else kwargs["hidden_states"]).float()
            if self.with_responses:
                weights = positions.to(hidden)
                layers.append((weights @ hidden).cpu())
                norms.append((weights @ hidden.norm(dim=-1, keepdim=True))[..., 0].cpu())
            else:
                index = positions.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
                chosen = hidden.gather(1, index)
                layers.append(chosen.cpu())
                norms.append(chosen.norm(dim=-1).cpu())
            if module is model.architecture.blocks[-1]:
                raise _Enough

        with model.lock, ExitStack() as stack, torch.inference_mode():
            for block in model.architecture.blocks:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            with suppress(_Enough):
                model.model.base_model(input_ids=ids.to(model.device), cache=cache, use_cache=True)
        return torch.stack(layers, dim=2), torch.stack(norms, dim=2)


def _common_prefix(sequences: list[_Sequence]) -> int:
    """How many first tokens all sequences share, none of which is read, and at least one of each left to run."""
    if len(sequences) < 2:
        return 0
    shared = min(min(sequence.first, len(sequence.ids) - 1) for sequence in sequences)
    lowest, highest = min(s.ids for s in sequences), max(s.ids for s in sequences)
    for i in range(shared):
        if lowest[i] != highest[i]:
            return i
    return shared


def _positions_read(batch: list[_Sequence], shared: int, with_responses: bool) -> Tensor:
    """Indices to gather, ``[batch, n_positions]``; with responses, weights of a mean, ``[batch, 1, length]``."""
    if not with_responses:
        return torch.tensor([list(range(s.first - shared, s.end - shared)) for s in batch])
    length = max(len(sequence.ids) for sequence in batch) - shared
    weights = torch.zeros(len(batch), 1, length)
    for row, sequence in enumerate(batch):
        weights[row, 0, sequence.first - shared : sequence.end - shared] = 1 / (sequence.end - sequence.first)
    return weights


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory; on a CPU it says so only in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
