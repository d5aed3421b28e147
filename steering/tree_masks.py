"""Attention masks of trees of prompts, as models take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.prompt_trees import PromptTree


def attention_masks(model: ChatModel, tree: PromptTree) -> Any:
    """The tree's additive attention mask as the model takes it, one a kind of layer where it has several."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    whole = tree.mask(model.dtype).to(model.device)
    if window is None or tree.longest <= window:
        return whole if len(kinds) < 2 else dict.fromkeys(kinds, whole)
    sliding = tree.mask(model.dtype, window).to(model.device)
    if len(kinds) > 1:
        return {kind: whole if kind == "full_attention" else sliding for kind in kinds}
    return whole if kinds == {"full_attention"} else sliding
