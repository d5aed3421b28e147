"""Read the residual stream: every layer at every chosen position, from one forward pass a batch.

A batch is one tree of prompts (`prompt_trees`): what prompts begin with alike, the template first of all, runs once,
and nothing is padding. The pass ends where the last block would begin, for nothing after that is read. Each node sees
just what it would see in its prompt alone, so a batch gives what single prompts give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.contrast import Example
from steering.errors import ContrastSetError
from steering.float32_linear import FastLinears
from steering.out_of_memory import half
from steering.progress import Progress, Tick, no_tick, silent
from steering.prompt_trees import PromptTree, SparseMask, first_tree
from steering.tree_masks import attention_masks

if TYPE_CHECKING:
    from steering.models import ChatModel

# The position of sets with responses: the mean over the response's tokens.
RESPONSE = 0
WHAT = "Reading examples"
NODES_A_BATCH = 1_000  # attention grows with their square
EXAMPLES_A_BATCH = 64


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
    batch_size: int = EXAMPLES_A_BATCH,
    progress: Progress = silent,
) -> list[ClassMeans]:
    """Means of each side in ``sides``; memory does not grow with the number of examples."""
    examples = [example for side in sides for example in side]
    side_of = [i for i, side in enumerate(sides) for _ in side]
    reader = ResidualReader(model, examples, batch_size)
    progress(WHAT, 0, len(examples))

    def tick(part: float) -> None:
        progress(WHAT, part * len(examples), len(examples))

    if model.helpers is None:
        sums = total(batch_sums(reader, side_of, tick=tick))
    else:
        sums = total(model.helpers.sums(reader, examples, side_of, tick))
    tick(1.0)
    return [
        ClassMeans(of_side[..., :-1], of_side[..., -1], len(side), reader.positions, tuple(reader.notes))
        for of_side, side in zip(sums, sides, strict=True)
    ]


def total(sums: Iterable[Tensor]) -> Tensor:
    """The sum of the batches' sums, one added to the other in their order, which every number of processes keeps."""
    return functools.reduce(Tensor.add_, sums)


def batch_sums(
    reader: ResidualReader, side_of: Sequence[int], share: tuple[int, int] = (0, 1), tick: Tick = no_tick
) -> Iterator[Tensor]:
    """Batch by batch the sums over its examples of each side, float64 ``[sides, n_positions, n_layers, d_model + 1]``.

    The last number of each row is the sum of the norms.

    Args:
        side_of: each example's side.
        share: read the batches of this number among so many shares; they are dealt out in turn.
        tick: told how far it is.
    """
    n_sides = 1 + max(side_of)
    for indices, residuals, norms in reader.read(lambda _, done, of: tick(done / of), share):
        sums = torch.zeros(n_sides, *residuals.shape[1:3], residuals.shape[3] + 1, dtype=torch.float64)
        for row, index in enumerate(indices):
            sums[side_of[index], ..., :-1] += residuals[row].double()
            sums[side_of[index], ..., -1] += norms[row].double()
        yield sums


def residuals(
    model: ChatModel, examples: Sequence[Example], *, batch_size: int = EXAMPLES_A_BATCH, progress: Progress = silent
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


class Enough(Exception):
    """Ends a forward pass in which everything needed has been read."""


class ResidualReader:
    """Reads the same positions of many examples, batch by batch.

    Args:
        batch_size: how many examples a batch has at most; it has fewer where they are long.
        within: a context for each pass, such as one in which the model is steered.
        last_layer: read no layer above this one, nor run what only they need; by default all are read.
    """

    def __init__(
        self,
        model: ChatModel,
        examples: Sequence[Example],
        batch_size: int,
        *,
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
        last_layer: int | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.with_responses = bool(examples) and examples[0].response is not None
        self.positions = [RESPONSE] if self.with_responses else list(range(-len(model.post_instruction_tokens), 0))
        self.notes: list[str] = []
        self._within = within
        self._n_layers = model.n_layers if last_layer is None else last_layer + 1
        self._sequences = [self._tokenise(example) for example in examples]
        self._linears = FastLinears(model.model)

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

    def read(
        self, progress: Progress = silent, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield, batch by batch, the examples' indices, their residuals and the norms.

        Args:
            share: of the batches, which are dealt out in turn, those of this number among so many.

        Residuals are float32 ``[batch, n_positions, n_layers, d_model]`` on the CPU, norms float32
        ``[batch, n_positions, n_layers]``. Running out of memory halves the batch and goes on.
        """
        # What begins alike comes together, so that one tree holds it.
        order = sorted(range(len(self._sequences)), key=lambda i: self._sequences[i].ids)
        most, start, number = self.batch_size, 0, 0
        progress(WHAT, 0, len(order))
        while start < len(order):
            count, tree = first_tree([self._sequences[i].ids for i in order[start : start + most]], NODES_A_BATCH)
            indices = order[start : start + count]
            if number % share[1] != share[0]:
                start, number = start + count, number + 1
                continue

            def tick(part: float, start: int = start, count: int = count) -> None:
                progress(WHAT, start + part * count, len(order))

            try:
                read = self._run_batch([self._sequences[i] for i in indices], tree, tick)
            except (RuntimeError, MemoryError) as error:
                advice = "Shorten the examples or choose a smaller model."
                most = half(count, error, "read even one example", advice)
                self.notes.append(f"Memory ran out, so examples were read {most} at a time.")
                continue
            yield indices, *read
            start, number = start + count, number + 1
            progress(WHAT, start, len(order))

    def _run_batch(self, batch: list[_Sequence], tree: PromptTree, tick: Tick) -> tuple[Tensor, Tensor]:
        model = self.model
        wanted = _weights_of_means(batch, tree) if self.with_responses else _nodes_read(batch, tree)
        layers: list[Tensor] = []
        norms: list[Tensor] = []
        sparse = cache(SparseMask.over)  # one for all blocks that are given the same mask

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            tick(len(layers) / self._n_layers)
            hidden = (args[0] if args else kwargs["hidden_states"])[0].float()
            if self.with_responses:
                weights = wanted.to(hidden)
                layers.append((weights @ hidden).cpu()[:, None])
                norms.append((weights @ hidden.norm(dim=-1, keepdim=True)).cpu())
            else:
                chosen = hidden[wanted.to(hidden.device)]
                layers.append(chosen.cpu())
                norms.append(chosen.norm(dim=-1).cpu())
            if len(layers) == self._n_layers:
                raise Enough
            mask = kwargs.get("attention_mask")
            return (args, {**kwargs, "attention_mask": sparse(mask)}) if isinstance(mask, Tensor) else None

        with self._within(), model.lock, ExitStack() as stack, torch.inference_mode():
            for block in model.architecture.blocks[: self._n_layers]:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            with self._linears.in_use(), suppress(Enough):
                model.model.base_model(
                    input_ids=tree.ids[None].to(model.device),
                    attention_mask=attention_masks(model, tree),
                    position_ids=tree.depths[None].to(model.device),
                    use_cache=False,
                )
        return torch.stack(layers, dim=2), torch.stack(norms, dim=2)


def _nodes_read(batch: list[_Sequence], tree: PromptTree) -> Tensor:
    """The nodes to read of each example, int64 ``[batch, n_positions]``."""
    return torch.tensor([path[one.first : one.end] for one, path in zip(batch, tree.paths, strict=True)])


def _weights_of_means(batch: list[_Sequence], tree: PromptTree) -> Tensor:
    """Weights of the mean over each example's response, float32 ``[batch, n_nodes]``."""
    weights = torch.zeros(len(batch), len(tree))
    for row, (one, path) in enumerate(zip(batch, tree.paths, strict=True)):
        weights[row, path[one.first : one.end]] = 1 / (one.end - one.first)
    return weights
