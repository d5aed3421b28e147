"""Which decoder runs a model: the fused one where it can, else transformers' own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steering.fused_model import linear_layers
from steering.packed import PackedLinear

if TYPE_CHECKING:
    from steering.decoders import Decoder
    from steering.models import ChatModel

_MODEL_CLASSES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM"}
)
_CHANGING_ROPES = ("dynamic", "longrope")  # their angles depend on how long the longest row of a batch is
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def decoder_for(model: ChatModel) -> Decoder:
    """A decoder for the model: the fastest that gives the model's own answers."""
    if takes_fused(model):
        from steering.fused import FusedDecoder

        return FusedDecoder(model)
    from steering.module_decoder import ModuleDecoder

    return ModuleDecoder(model)


def takes_fused(model: ChatModel) -> bool:
    """Whether `steering.fused.FusedDecoder` runs this model as transformers' modules would.

    So it does for models of Llama's shape that lie on a CPU in float32 or bfloat16 and are just what transformers made
    them: nothing quantised but by `steering.packed`, no sliding window, no hook on a module.
    """
    if type(model.model).__name__ not in _MODEL_CLASSES or model.quantization is not None:
        return False
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        return False
    with model.lock:  # whoever runs a pass may have hooks or layers of its own on the model
        return _has_plain_settings(model.config) and _is_untouched(model)


def _has_plain_settings(config: Any) -> bool:
    window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    rope = getattr(config, "rope_parameters", None) or {}
    changing = any(name in str(rope.get("rope_type", "default")) for name in _CHANGING_ROPES)
    partial = float(rope.get("partial_rotary_factor", 1.0)) != 1.0
    return not (window or changing or partial) and config.hidden_act == "silu"


def _is_untouched(model: ChatModel) -> bool:
    """Whether every module is as transformers made it, its linear layers plain or packed."""
    for layer in linear_layers(model):
        if type(layer) not in (nn.Linear, PackedLinear) or layer.weight.dtype != model.dtype or not layer.weight.is_cpu:
            return False
    modules = model.model.modules()
    return not any("forward" in vars(module) or any(getattr(module, kind) for kind in _HOOKS) for module in modules)
