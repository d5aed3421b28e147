"""A variant as hooks for TransformerLens, which this needs not: a hook is a name and a function.

They give what :class:`steering.interventions.Steering` gives, by the same arithmetic:

    model = TransformerBridge.boot_transformers("HuggingFaceTB/SmolLM2-135M-Instruct")
    hooks = transformer_lens_hooks(Variant.ablated(direction), n_layers=model.cfg.n_layers)
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)

Load the model as it is: with centred writing weights (``HookedTransformer.from_pretrained`` does that by default where
norms are LayerNorms) the stream is another one, and so are directions in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from steering.direction import Direction
from steering.errors import DirectionError
from steering.stream_edits import StreamEdits
from steering.variants import Addition, Variant

LensHook = tuple[str, Callable[..., Tensor]]
"""The name of a hook point, and what is called with its activation and, as ``hook``, the point itself."""


def transformer_lens_hooks(what: Variant | Direction, n_layers: int, *, coefficient: float = 1.0) -> list[LensHook]:
    """Hooks that do to a model of TransformerLens what a variant does here, at every position of every row.

    An addition acts at ``blocks.L.hook_resid_pre`` of its layer L. An ablation acts at every layer's
    ``blocks.l.hook_resid_pre`` (the embedding is what enters the first) and on what is added to the stream,
    ``blocks.l.hook_attn_out`` and ``blocks.l.hook_mlp_out``. Cappings and affine ablations act where a block
    begins, as they do here.

    Args:
        what: the variant; a direction stands for its addition.
        n_layers: how many blocks the model has.
        coefficient: of a direction's addition.

    Raises:
        DirectionError: if a direction is of a layer that the model does not have, or of a model of another depth.
    """
    variant = what if isinstance(what, Variant) else Variant.added(what, coefficient)
    for direction in variant.directions:
        depth = direction.card.get("n_layers", n_layers)
        if direction.layer >= n_layers or depth != n_layers:
            raise DirectionError(
                f"“{direction.name}” was made for layer {direction.layer} of a model with {depth} layers; this one has "
                f"{n_layers}. Load the model it was made for."
            )
    edits = StreamEdits(n_layers, [variant], [None])
    entries = _layers_entered(variant, n_layers)

    def entered(layer: int) -> Callable[..., Tensor]:
        def hook(activation: Tensor, hook: Any = None) -> Tensor:
            if layer == entries[0]:  # the first in every pass: a dial may have been turned
                edits.refresh()
            return edits.entered(layer, _as_one_row(activation)).view_as(activation)

        return hook

    def written(activation: Tensor, hook: Any = None) -> Tensor:
        return edits.written(_as_one_row(activation)).view_as(activation)

    hooks: list[LensHook] = [(f"blocks.{layer}.hook_resid_pre", entered(layer)) for layer in entries]
    if edits.ablates:
        for layer in range(n_layers):
            hooks += [(f"blocks.{layer}.hook_attn_out", written), (f"blocks.{layer}.hook_mlp_out", written)]
    return hooks


def _layers_entered(variant: Variant, n_layers: int) -> list[int]:
    """The layers at whose entry the variant acts, increasing."""
    layers: set[int] = set()
    for intervention in variant.interventions:
        if isinstance(intervention, Addition):
            layers.add(intervention.direction.layer)
        else:  # an ablation acts everywhere; the others say themselves where they do not
            layers.update(range(n_layers))
    return sorted(layers)


def _as_one_row(activation: Tensor) -> Tensor:
    """``[rows, tokens, d_model]`` as ``[1, rows · tokens, d_model]``: every token of every row is treated alike."""
    return activation.reshape(1, -1, activation.shape[-1])
