"""Where each family of models keeps its blocks, and which modules write to the residual stream.

Everything that depends on an architecture's names lives in this one table; the rest of the library speaks of
blocks and writes only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from steering.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Names of the parts of one architecture, as attribute paths.

    ``writes`` are the modules of a block whose **output is added to the residual stream as it is** (up to a scalar).
    Where a norm stands between a projection and the stream (Gemma 2 and 3, OLMo 2), the norm is the write.

    ``projections`` are, for each of ``writes``, the names **in the files** of the matrices whose product it is; ``*``
    is an expert's number. A mixture's experts are one tensor each, or one for all where transformers 5 was told to save
    them as it keeps them. Every family here has rotary positions: the embedding of the tokens is the only one.

    Attributes:
        output: the name in the files of the output matrix (the unembedding).
        norm_offset: what a norm between a projection and the stream adds to its weight to have its factor; None where
            there is no such norm.
    """

    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    writes: tuple[str, ...] = ("self_attn", "mlp")
    projections: tuple[tuple[str, ...], ...] = (("self_attn.o_proj",), ("mlp.down_proj",))
    output: str = "lm_head"
    norm_offset: float | None = None


_PRE_NORM = Layout()
_QWEN_MOE = Layout(
    projections=(
        ("self_attn.o_proj",),
        ("mlp.down_proj", "mlp.shared_expert.down_proj", "mlp.experts.*.down_proj", "mlp.experts.down_proj"),
    )
)
_MIXTRAL = Layout(
    projections=(("self_attn.o_proj",), ("block_sparse_moe.experts.*.w2", "mlp.experts.down_proj")),
)
_NORMED_WRITES = Layout(writes=("post_attention_layernorm", "post_feedforward_layernorm"), norm_offset=0.0)
_GEMMA_NORMED_WRITES = replace(_NORMED_WRITES, norm_offset=1.0)  # Gemma's norms multiply by one plus their weight
_NEOX = Layout(
    "gpt_neox.layers",
    "gpt_neox.embed_in",
    "gpt_neox.final_layer_norm",
    ("attention", "mlp"),
    projections=(("attention.dense",), ("mlp.dense_4h_to_h",)),
    output="embed_out",
)

LAYOUTS: dict[str, Layout] = {
    "llama": _PRE_NORM,  # Llama 2, Llama 3, Yi, SmolLM2
    "mistral": _PRE_NORM,
    "ministral": _PRE_NORM,
    "qwen2": _PRE_NORM,  # Qwen1.5, Qwen2, Qwen2.5
    "qwen3": _PRE_NORM,
    "qwen2_moe": _QWEN_MOE,
    "qwen3_moe": _QWEN_MOE,
    "mixtral": _MIXTRAL,
    "gemma": _PRE_NORM,
    "gemma2": _GEMMA_NORMED_WRITES,
    "gemma3_text": _GEMMA_NORMED_WRITES,
    "phi3": _PRE_NORM,  # the dropouts after each write are idle outside training
    "smollm3": _PRE_NORM,
    "olmo": _PRE_NORM,
    "olmo2": _NORMED_WRITES,
    "olmo3": _NORMED_WRITES,
    "cohere": _PRE_NORM,  # attention and MLP read the same input, both add to it
    "cohere2": _PRE_NORM,
    "granite": _PRE_NORM,  # each write is scaled by a constant before it is added
    "gpt_neox": _NEOX,
}


@dataclass(frozen=True)
class Architecture:
    """The modules of one loaded model.

    ``blocks[l]`` reads layer ``l`` of the residual stream; ``writes[l]`` are the modules in it that add to the stream.
    """

    blocks: tuple[nn.Module, ...]
    writes: tuple[tuple[nn.Module, ...], ...]
    embedding: nn.Module
    final_norm: nn.Module


@dataclass(frozen=True)
class StoredWrite:
    """What a stored tensor writes to the residual stream.

    Attributes:
        axis: which of its axes is d_model: -2 of a matrix ``[(experts,) d_model, in]``, -1 of a bias or an embedding.
        layer: the block it belongs to, None for the embedding.
        write: which of the block's writes it is a part of, an index into ``Layout.writes``.
        norm: the name in the files of the norm between it and the stream, None if there is none.
    """

    axis: int
    layer: int | None = None
    write: int | None = None
    norm: str | None = None


def stored_write(layout: Layout, name: str) -> StoredWrite | None:
    """What the tensor ``name`` of a model's files writes to the residual stream, None if it does not write there."""
    if name == f"{layout.embedding}.weight":
        return StoredWrite(axis=-1)
    found = re.fullmatch(rf"{re.escape(layout.blocks)}\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
    if found is None:
        return None
    block, path, kind = f"{layout.blocks}.{found[1]}", re.sub(r"\.\d+\.", ".*.", found[2]), found[3]
    for write, paths in enumerate(layout.projections):
        if path in paths:
            norm = None if layout.norm_offset is None else f"{block}.{layout.writes[write]}.weight"
            return StoredWrite(-1 if kind == ".bias" else -2, int(found[1]), write, norm)
    return None


def final_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Next-token logits from what leaves the final norm, ``[..., d_model]`` to ``[..., vocabulary]``.

    Some families scale (Cohere, Granite) or bound (Gemma 2) what their output matrix gives.
    """
    config: Any = model.config.get_text_config()  # type: ignore[union-attr,operator]
    logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if bound := getattr(config, "final_logit_softcapping", None):
        logits = bound * (logits / bound).tanh()
    return logits


def find_layout(model_type: str) -> Layout:
    """The layout of ``model_type`` (``config.model_type``).

    Raises:
        ModelError: if it is not in :data:`LAYOUTS`.
    """
    layout = LAYOUTS.get(model_type)
    if layout is None:
        raise ModelError(
            f"The architecture “{model_type}” is not known here, so its residual stream cannot be found. "
            f"Choose a model of one of these: {', '.join(sorted(LAYOUTS))}."
        )
    return layout


def find_architecture(model: nn.Module, model_type: str) -> Architecture:
    """Look up the parts of ``model``.

    Raises:
        ModelError: if ``model_type`` (``config.model_type``) is not in :data:`LAYOUTS`, or the parts are not where that
            layout says.
    """
    layout = find_layout(model_type)
    try:
        blocks = tuple(attrgetter(layout.blocks)(model))
        return Architecture(
            blocks=blocks,
            writes=tuple(tuple(getattr(block, name) for name in layout.writes) for block in blocks),
            embedding=attrgetter(layout.embedding)(model),
            final_norm=attrgetter(layout.final_norm)(model),
        )
    except AttributeError as error:  # as in a model that also reads pictures, around a text model of a known type
        raise ModelError(
            f"This {type(model).__name__} does not keep its blocks where a text model of type “{model_type}” does. "
            "Choose a model that reads text only."
        ) from error
