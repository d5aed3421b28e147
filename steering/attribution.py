"""Direct feature attribution: how much each head and each MLP wrote along a direction (section 5.1).

What stands in the residual stream at a token is the sum of the token's embedding and of what every attention and every
MLP has added to it. So its projection on r̂ is a sum too, of one number a write; and what an attention adds is a sum
over its heads, o = Σ_h W_O^h z_h. Where a norm stands between a write and the stream (Gemma 2 and 3, OLMo 2), what it
divides by at the token is taken as it is, which keeps the sums exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.activations import Enough
from steering.architectures import find_layout
from steering.errors import ModelError

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

# How far the sum may be from the projection it must give, as a part of the length of the stream at that token.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUGH_TOLERANCE = 5e-2  # in half precision every addition to the stream was rounded


@dataclass(frozen=True, eq=False)
class Attribution:
    """What was written along r̂ at each token, in the units of the residual stream.

    All are float32 on the CPU (float64 where the model is). Their sum over everything but tokens is ``total``.

    Attributes:
        ids: the tokens, ``n``.
        embedding: what the tokens' embeddings bring along, ``[n]``.
        heads: of the blocks that were looked at, ``[n_layers, n_heads, n]``.
        attention_bias: what the bias of each attention's output adds, ``[n_layers, n]``.
        mlps: ``[n_layers, n]``.
        total: ⟨x, r̂⟩ of what they make together, ``[n]``.
    """

    ids: list[int]
    embedding: Tensor
    heads: Tensor
    attention_bias: Tensor
    mlps: Tensor
    total: Tensor

    @property
    def n_heads(self) -> int:
        return self.heads.shape[1]

    def top_heads(self, n: int = 3, token: int = -1) -> list[tuple[int, int, float]]:
        """The ``n`` heads that wrote most of r̂ at a token, in size, as (layer, head, what it wrote)."""
        at_token = self.heads[:, :, token].flatten()
        places = at_token.abs().topk(min(n, len(at_token))).indices.tolist()
        return [(place // self.n_heads, place % self.n_heads, float(at_token[place])) for place in places]


def attribute(model: ChatModel, ids: Sequence[int], direction: Direction, layer: int | None = None) -> Attribution:
    """Attribute the projection on r̂ of a prompt's residual stream, at every token, of the model as it is.

    Args:
        ids: the prompt's tokens, at least one; for instance ``model.encode(messages)``.
        direction: what is projected on, its ``ablation_unit``.
        layer: attribute the stream that this block reads, from 1 on: what only the blocks before it have written. By
            default that which leaves the last.

    Raises:
        ModelError: if the model adds to its stream in a way that is not known here, so that the sum is not the whole,
            or several processes hold it.
        DirectionError: if the direction does not fit the model.
    """
    direction.require_fit(model)
    require_whole_heads(model)
    n_blocks = model.n_layers if layer is None else layer
    if not 1 <= n_blocks <= model.n_layers:
        raise ModelError(f"There is nothing written before layer {n_blocks}. Choose one from 1 to {model.n_layers}.")
    reader = _Reader(model, direction.ablation_unit, n_blocks)
    with torch.inference_mode(), model.lock, ExitStack() as stack, suppress(Enough):
        reader.enter(stack)
        model.model.base_model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    return reader.attribution(list(ids))


def require_whole_heads(model: ChatModel) -> None:
    """Raise ModelError if heads cannot be looked at, for other processes have a part of each attention."""
    if model.leader is not None:
        raise ModelError(
            "Several processes hold this model, each a part of its heads, so they cannot be looked at. Start as one "
            "process."
        )


class _Reader:
    """Hooks that project what is written in one pass over one prompt, as it is written; nothing wider is kept."""

    def __init__(self, model: ChatModel, unit: Tensor, n_blocks: int) -> None:
        self._model = model
        self._n_blocks = n_blocks
        self._dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self._unit = unit.to(self._dtype)
        layout = find_layout(model.config.model_type)
        self._norm_offset = layout.norm_offset
        path = layout.projections[0][0]  # of the first write, which is the attention's in every family
        self._projections = [attrgetter(path)(block) for block in model.architecture.blocks[:n_blocks]]
        self._scale = float(getattr(model.config, "residual_multiplier", None) or 1.0)  # Granite's
        self._entered: Tensor | None = None
        self._inputs: dict[int, Tensor] = {}
        self._written: dict[tuple[int, int], Tensor] = {}
        self._last: Tensor | None = None
        self._length = torch.zeros(0)

    def enter(self, stack: ExitStack) -> None:
        """Put the hooks on the model until ``stack`` is closed."""
        architecture = self._model.architecture
        first = architecture.blocks[0].register_forward_pre_hook(self._on_first, with_kwargs=True)
        stack.callback(first.remove)
        after = [*architecture.blocks, architecture.final_norm][self._n_blocks]
        stack.callback(after.register_forward_pre_hook(self._on_last, with_kwargs=True).remove)
        for layer, (projection, writes) in enumerate(zip(self._projections, architecture.writes, strict=False)):
            stack.callback(projection.register_forward_hook(self._on_projection(layer)).remove)
            for number, write in enumerate(writes):
                stack.callback(write.register_forward_hook(self._on_write(layer, number)).remove)

    def _along(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """⟨x, r̂⟩ at each token, ``[n]``, exact in the reader's number type."""
        unit = self._unit.to(x.device)
        return x[0].to(self._dtype) @ (unit if weights is None else unit * weights)

    def _on_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._entered = self._along(hidden).cpu()

    def _on_last(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._last = self._along(hidden).cpu()
        self._length = hidden[0].to(self._dtype).norm(dim=-1).cpu()
        raise Enough

    def _on_projection(self, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            unit, factors = self._unit.to(output.device), None
            if self._norm_offset is not None:
                norm: Any = self._model.architecture.writes[layer][0]
                unit = unit * (norm.weight.to(self._dtype) + self._norm_offset)
                factors = _divided_by(norm, output[0].to(self._dtype))
            inputs = args[0][0].to(self._dtype)  # [n, heads · head_dim]
            along = module.weight.to(self._dtype).T @ unit
            heads = (inputs * along).view(len(inputs), self._n_heads(inputs.shape[-1]), -1).sum(dim=-1).T
            bias = torch.zeros(len(inputs), dtype=self._dtype, device=output.device)
            if module.bias is not None:
                bias = bias + module.bias.to(self._dtype) @ unit
            factor = self._scale if factors is None else self._scale / factors
            self._inputs[layer] = torch.cat([heads * factor, (bias * factor)[None]]).cpu()

        return hook

    def _on_write(self, layer: int, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            written = output[0] if isinstance(output, tuple) else output
            self._written[layer, number] = self._along(written).cpu() * self._scale

        return hook

    def _n_heads(self, width: int) -> int:
        head_dim = getattr(self._model.config, "head_dim", None)
        return width // int(head_dim) if head_dim else int(self._model.config.num_attention_heads)

    def attribution(self, ids: list[int]) -> Attribution:
        """What was seen.

        Raises:
            ModelError: if it is not the whole.
        """
        layers = range(self._n_blocks)
        heads = torch.stack([self._inputs[layer][:-1] for layer in layers])
        bias = torch.stack([self._inputs[layer][-1] for layer in layers])
        mlps = torch.stack([self._written[layer, 1] for layer in layers])
        assert self._entered is not None
        assert self._last is not None
        found = Attribution(ids, self._entered, heads, bias, mlps, self._last)
        tolerance = TOLERANCE.get(self._model.dtype, ROUGH_TOLERANCE)
        off = (found.embedding + heads.sum(dim=(0, 1)) + bias.sum(dim=0) + mlps.sum(dim=0) - found.total).abs()
        if not bool((off <= tolerance * self._length).all()):
            raise ModelError(
                f"{self._model.label} adds to its residual stream in a way that is not known here, so that its heads "
                "cannot be told apart. Choose another model."
            )
        return found


def _divided_by(norm: Any, x: Tensor) -> Tensor:
    """What an RMS norm divides by at each token, ``[n]``."""
    epsilon = float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)
    return (x.pow(2).mean(dim=-1) + epsilon).sqrt()
