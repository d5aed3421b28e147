"""The paper's selection loop, written plainly: hooks, left padding, the whole batch through the whole model.

What `steering.candidate_search` is measured against, and held equal to. For every candidate three passes of 32 prompts:
ablation on the positive side, addition on the negative side, ablation on the negative side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steering.contrast import Example
from steering.models import ChatModel
from steering.module_decoder import last_positions


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts."""

    ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Of each token in its prompt; padding counts as the first."""
        return (self.mask.cumsum(dim=1) - 1).clamp_min(0)


def padded(model: ChatModel, examples: list[Example]) -> Batch:
    texts = [model.format(list(example.messages)) for example in examples]
    tokenizer: Any = model.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    return Batch(encoded["input_ids"], encoded["attention_mask"])


class PlainLoop:
    """Scores one candidate at a time as the paper's code does."""

    def __init__(self, model: ChatModel, positive: list[Example], negative: list[Example], tokens: list[int]) -> None:
        self.model = model
        self.tokens = tokens
        self.positive, self.negative = padded(model, positive), padded(model, negative)
        self.base = self._last_logits(self.negative)

    def bypass(self, vector: Tensor) -> float:
        with self._ablated(vector):
            return float(self._metric(self._last_logits(self.positive)).mean())

    def induce(self, vector: Tensor, layer: int) -> float:
        with self._added(vector, layer):
            return float(self._metric(self._last_logits(self.negative)).mean())

    def kl(self, vector: Tensor) -> float:
        with self._ablated(vector):
            ours = self._last_logits(self.negative)
        p, q = (logits.double().log_softmax(dim=-1) for logits in (self.base, ours))
        return float((p.exp() * (p - q)).sum(dim=-1).mean())

    def _metric(self, logits: Tensor) -> Tensor:
        probabilities = logits.double().softmax(dim=-1)
        chosen = probabilities[:, self.tokens].sum(dim=-1)
        return chosen.log() - (1 - chosen).log()

    def _last_logits(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            output = self.model.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=last_positions(1, self.model.device),
            )
        return output.logits[:, -1].float()

    @contextmanager
    def _ablated(self, vector: Tensor) -> Iterator[None]:
        unit = (vector / vector.norm()).to(self.model.dtype)

        def without(x: Tensor) -> Tensor:
            return x - (x @ unit)[..., None] * unit

        def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return without(args[0]), *args[1:]

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return (without(output[0]), *output[1:]) if isinstance(output, tuple) else without(output)

        architecture = self.model.architecture
        with ExitStack() as stack:
            for block, writes in zip(architecture.blocks, architecture.writes, strict=True):
                stack.callback(block.register_forward_pre_hook(before).remove)
                for write in writes:
                    stack.callback(write.register_forward_hook(after).remove)
            yield

    @contextmanager
    def _added(self, vector: Tensor, layer: int) -> Iterator[None]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return args[0] + vector.to(args[0].dtype), *args[1:]

        hook = self.model.architecture.blocks[layer].register_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()
