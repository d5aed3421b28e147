"""The forward pass of Llama-shaped models in few operations: the arithmetic of transformers' modules, fused.

It reads the modules' own weights, in their own number type. The residual stream is kept in float32 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from steering.joined_linear import JoinedLinear
from steering.machine import free_memory
from steering.packed import PackedLinear

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.row_cache import RowCache, Strided
    from steering.stream_edits import StreamEdits

PART_OF_FREE_MEMORY = 0.25
"""The weights in oneDNN's order are a second copy; they may take so much of the memory that is free."""

_ANGLE_STEP = 1024  # rotary angles are tabled for so many further positions at a time
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_LINEARS = (*_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class RmsNorm:
    """x / √(mean of x² + ε) · weight, in float32."""

    def __init__(self, norm: Any) -> None:
        self._eps = float(norm.variance_epsilon)
        self._weight = norm.weight.detach().float()
        width = len(self._weight)
        self._scaled = self._weight * math.sqrt(width)
        self._eps_sum = torch.full((1, 1, 1), self._eps * width)

    def __call__(self, x: Tensor) -> Tensor:
        """Float32 ``[..., width]`` to the same, in float32."""
        if x.dim() == 3 and x.shape[1] == 1:  # for one token a row a product is half as dear as torch's own norm
            scale = torch.baddbmm(self._eps_sum, x, x.mT).rsqrt_()
            return (x * scale).mul_(self._scaled)
        return torch.rms_norm(x, (len(self._weight),), self._weight, self._eps)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the tokens of a pass stand: every row's in its slot of the cache, behind what it has read.

    Attributes:
        keys, values: which part of a layer of the cache holds what the tokens may see, ``[rows, heads, longest,
            head_dim]``, as size, strides and offset; one of these a layer is much cheaper than four slices.
        write: where keys and values of the pass go: the first dimension of a layer of the cache flattened to
            ``[-1, head_dim]``, in the order row, token, head; or the part of a layer, if that is one position in every
            slot, ``[rows, heads, head_dim]``.
        cosines, sines: of the rotary angles, ``[rows, tokens, heads, head_dim]``; the sines signed as a rotation needs.
        mask: what is added to the attention's scores, ``[rows, 1, tokens, longest]``; None where nothing is hidden.
        causal: whether every row begins here, so that tokens see the ones before them in the pass and nothing else.
    """

    keys: Strided
    values: Strided
    write: Tensor | Strided
    cosines: Tensor
    sines: Tensor
    mask: Tensor | None = None
    causal: bool = False


class FusedLayer:
    """One block."""

    def __init__(self, block: Any, rope: bool, reordered: bool) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.rope = rope
        self.head_dim = int(attention.head_dim)
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.group = attention.q_proj.out_features // self.head_dim // self.kv_heads
        self.heads = self.kv_heads * self.group
        self.input_norm, self.mlp_norm = RmsNorm(block.input_layernorm), RmsNorm(block.post_attention_layernorm)
        self.query_norm = RmsNorm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self.key_norm = RmsNorm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.scale = float(attention.scaling)
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.query_key_value = JoinedLinear(qkv, reordered=reordered)
        self.attention_output = JoinedLinear([attention.o_proj], reordered=reordered)
        self.gate_up = JoinedLinear([mlp.gate_proj, mlp.up_proj], reordered=reordered)
        self.down = JoinedLinear([mlp.down_proj], reordered=reordered)
        self.width = mlp.down_proj.in_features

    def attention(self, rows: Tensor, n: int, place: Place, cache: Tensor) -> Tensor:
        """What attention writes, for ``rows`` ``[n * tokens, d_model]``; ``cache`` is this layer's."""
        tokens = len(rows) // n
        heads = self.query_key_value(rows).view(n, tokens, -1, self.head_dim)
        if self.query_norm is not None and self.key_norm is not None:
            heads = self._normed(heads)
        if self.rope:
            # A value is turned by an angle of nothing.
            halves = heads.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
            heads = torch.addcmul(heads * place.cosines, halves, place.sines)
        if isinstance(place.write, Tensor):
            new = heads[:, :, self.heads :].reshape(-1, self.head_dim)
            cache.view(-1, self.head_dim).index_copy_(0, place.write, new)
        else:
            cache.as_strided(*place.write).copy_(heads[:, 0, self.heads :])
        if tokens == 1:  # the query heads that share a key head are so many queries of it
            query = heads[:, 0, : self.heads].reshape(n, self.kv_heads, self.group, self.head_dim)
            keys, values = cache.as_strided(*place.keys), cache.as_strided(*place.values)
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=place.mask, scale=self.scale)
            return self.attention_output(mixed.reshape(n, -1))
        heads = heads.transpose(1, 2)
        query = heads[:, : self.heads]
        if place.causal:
            keys, values = heads[:, self.heads : -self.kv_heads], heads[:, -self.kv_heads :]
        else:
            keys, values = cache.as_strided(*place.keys), cache.as_strided(*place.values)
        mixed = scaled_dot_product_attention(
            query, keys, values, place.mask, is_causal=place.causal, scale=self.scale, enable_gqa=self.group > 1
        )
        return self.attention_output(mixed.transpose(1, 2).reshape(n * tokens, -1))

    def mlp(self, rows: Tensor) -> Tensor:
        """What the MLP writes, for ``rows`` ``[n * tokens, d_model]``."""
        both = self.gate_up(rows)
        return self.down(silu(both[:, : self.width]).mul_(both[:, self.width :]))

    def _normed(self, heads: Tensor) -> Tensor:
        """Query and key heads through their norms."""
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        assert self.query_norm is not None
        assert self.key_norm is not None
        query, key = self.query_norm(query.float()), self.key_norm(key.float())
        return torch.cat([query.to(heads.dtype), key.to(heads.dtype), value], dim=2)


class FusedModel:
    """A Llama-shaped model on a CPU as `FusedDecoder` runs it; made once for a model and shared by its decoders."""

    def __init__(self, model: ChatModel) -> None:
        body: Any = model.model.model
        config = model.config
        linears = linear_layers(model)
        self.dtype = model.dtype
        size = sum(layer.weight.nbytes for layer in linears)
        reordered = (
            self.dtype == torch.bfloat16
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            and size < PART_OF_FREE_MEMORY * free_memory(torch.device("cpu"))
        )
        ropes = getattr(config, "no_rope_layers", None) or [1] * len(body.layers)
        with torch.inference_mode(False), torch.no_grad():  # some tensors become buffers of the model's own layers
            self.layers = [
                FusedLayer(block, bool(rope), reordered) for block, rope in zip(body.layers, ropes, strict=True)
            ]
            self.final_norm = RmsNorm(body.norm)
            self._head = JoinedLinear([model.model.lm_head], reordered=reordered)
        self._embedding = body.embed_tokens.weight
        self._rotary = body.rotary_emb
        self._tables: tuple[Tensor, Tensor] | None = None
        self._signature = _signature(linears, model)

    def is_current(self, model: ChatModel) -> bool:
        """Whether the model's weights are still those that copies were made of."""
        return self._signature == _signature(linear_layers(model), model)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines for query, key and value heads, ``[*positions, heads, head_dim]``.

        Values come along in the same product, turned by nothing.
        """
        first = self.layers[0]
        if self._tables is None or len(self._tables[0]) <= int(positions.max()):
            room = torch.arange(-(-(int(positions.max()) + 1) // _ANGLE_STEP) * _ANGLE_STEP)
            cosines, sines = (table[0] for table in self._rotary(torch.zeros(1, dtype=self.dtype), room[None]))
            half = first.head_dim // 2
            self._tables = cosines, torch.cat([-sines[:, :half], sines[:, half:]], dim=1)
        turned = first.heads + first.kv_heads
        shape = (*positions.shape, turned + first.kv_heads, first.head_dim)
        cosines, sines = torch.ones(shape, dtype=self.dtype), torch.zeros(shape, dtype=self.dtype)
        cosines[..., :turned, :] = self._tables[0][positions].unsqueeze(-2)
        sines[..., :turned, :] = self._tables[1][positions].unsqueeze(-2)
        return cosines, sines

    def run(self, ids: Tensor, place: Place, edits: StreamEdits, cache: RowCache) -> tuple[Tensor, list[Tensor]]:
        """One pass; what leaves the last block, and what entered each, float32 ``[rows, tokens, d_model]``.

        Args:
            ids: token ids ``[rows, tokens]``.
        """
        n, tokens = ids.shape
        hidden = embedding(ids, self._embedding).float()
        ablates = edits.ablates
        if ablates:
            hidden = edits.written(hidden)
        entering = []
        for number, layer in enumerate(self.layers):
            if edits.acts_at(number):
                hidden = edits.entered(number, hidden)
            entering.append(hidden)
            rows = layer.input_norm(hidden).to(self.dtype).view(n * tokens, -1)
            hidden = hidden + layer.attention(rows, n, place, cache.layers[number]).view(n, tokens, -1)
            if ablates:
                hidden = edits.written(hidden)
            rows = layer.mlp_norm(hidden).to(self.dtype).view(n * tokens, -1)
            hidden = hidden + layer.mlp(rows).view(n, tokens, -1)
            if ablates:
                hidden = edits.written(hidden)
        return hidden, entering

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits, ``[rows, vocabulary]``, from what leaves the last block, ``[rows, 1, d_model]``."""
        return self._head(self.final_norm(hidden).to(self.dtype)[:, 0])


def linear_layers(model: ChatModel) -> list[nn.Linear]:
    """Every matrix of the blocks, and the output's."""
    blocks = model.architecture.blocks
    layers = [block.get_submodule(name) for block in blocks for name in _LINEARS]
    return [cast(nn.Linear, layer) for layer in (*layers, model.model.lm_head)]


def _signature(linears: list[nn.Linear], model: ChatModel) -> tuple[Any, ...]:
    """What tells whether weights were exchanged or edited since."""
    parts: list[Any] = []
    for layer in linears:
        packed = layer.kernel_weight.data_ptr() if isinstance(layer, PackedLinear) else 0
        parts.append((*_state(layer.weight), packed, getattr(layer, "max_rows", 0)))
        if layer.bias is not None:
            parts.append(_state(layer.bias))
    norms = [module for module in model.model.modules() if type(module).__name__.endswith("RMSNorm")]
    return (*parts, *(_state(norm.weight) for norm in norms))


def _state(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies, and how often it has been written to, where torch counts that."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
