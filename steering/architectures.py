"""Where each family of models keeps its blocks, and which modules write to the residual stream.

Everything that depends on an architecture's names lives in this one table; the rest of the library speaks of
blocks and writes only.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    writes: tuple[str, ...] = ("self_attn", "mlp")


_PRE_NORM = Layout()
_NORMED_WRITES = Layout(writes=("post_attention_layernorm", "post_feedforward_layernorm"))
_NEOX = Layout("gpt_neox.layers", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", ("attention", "mlp"))

LAYOUTS: dict[str, Layout] = {
    "llama": _PRE_NORM,  # Llama 2, Llama 3, Yi, SmolLM2
    "mistral": _PRE_NORM,
    "ministral": _PRE_NORM,
    "qwen2": _PRE_NORM,  # Qwen1.5, Qwen2, Qwen2.5
    "qwen3": _PRE_NORM,
    "qwen2_moe": _PRE_NORM,
    "qwen3_moe": _PRE_NORM,
    "mixtral": _PRE_NORM,
    "gemma": _PRE_NORM,
    "gemma2": _NORMED_WRITES,
    "gemma3_text": _NORMED_WRITES,
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


def find_architecture(model: nn.Module, model_type: str) -> Architecture:
    """Look up the parts of ``model``.

    Raises:
        ModelError: if ``model_type`` (``config.model_type``) is not in :data:`LAYOUTS`, or the parts are not where that
            layout says.
    """
    layout = LAYOUTS.get(model_type)
    if layout is None:
        raise ModelError(
            f"The architecture “{model_type}” is not known here, so its residual stream cannot be found. "
            f"Choose a model of one of these: {', '.join(sorted(LAYOUTS))}."
        )
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
