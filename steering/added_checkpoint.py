"""Activation addition as a part of the weights, so that engines which know no hooks serve the model turned up.

Adding c·r to the residual stream at layer l is a bias on what block l − 1 writes last: on the output of its MLP.
Engines add such a bias only where the architecture has one, and ignore it silently elsewhere, so it is written only
there. At layer 0 it is added to every row of the embedding, which every architecture has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steering.checkpoints import Checkpoint
from steering.directions import Direction
from steering.edited_folder import require_free, write_edited_model
from steering.edited_model_card import added_model_card, public_label
from steering.edited_shards import Changes
from steering.errors import SteeringError
from steering.interventions import Variant
from steering.progress import Progress, silent
from steering.weight_edits import Add
from steering.weights import model_folder

# Of the families here: those whose config has `mlp_bias`, a bias on each projection of every MLP, none by default.
_BIAS_BY_CONFIG = {"llama": ("gate_proj", "up_proj", "down_proj"), "granite": ("gate_proj", "up_proj", "down_proj")}
_BIAS_ALWAYS = frozenset({"gpt_neox"})
_SCALED_EMBEDDINGS = frozenset({"gemma", "gemma2", "gemma3_text", "granite"})
ALTERNATIVES = (
    "Take the direction along as a llama.cpp control vector or as hooks (`python -m steering export`), or take it out "
    "instead (`python -m steering orthogonalize`), which every architecture can hold."
)


def add_to_weights(
    source: str,
    direction: Direction,
    coefficient: float,
    out: str | Path,
    *,
    revision: str | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write a copy of a model to whose residual stream c·r is added at the direction's layer, at every token.

    Exact up to the rounding of c·r to the source's number type; all other weights are copied bit by bit.

    Args:
        source: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        coefficient: c, as for :meth:`steering.interventions.Variant.added`; finite, and not 0.
        out: the folder to make. It appears when it is whole and checked, and not otherwise.
        revision: a commit of the hub's repository; only for hub ids.
        check: compare the result with the added variant on 32 questions, and write on its card how near it is.

    Returns:
        ``out``, a folder that transformers loads, with a model card.

    Raises:
        DirectionError: if the direction was made for a model of another width or depth.
        ModelError: if there is no such model, its family is unknown, or its weights are quantised or incomplete.
        SteeringError: if the architecture has no place for it, or ``out`` cannot be written.
    """
    target = Path(out).expanduser()
    require_free(target)
    if not (abs(coefficient) < float("inf") and coefficient):
        raise SteeringError(f"The coefficient is {coefficient}; it must be a finite number other than 0.")
    checkpoint = Checkpoint.read(model_folder(source, revision, progress), public_label(source))
    direction.require_fit(checkpoint)
    changes, how = _changes(checkpoint, direction, coefficient)
    write_edited_model(
        checkpoint,
        source,
        changes,
        target,
        Variant.added(direction, coefficient) if check else None,
        lambda measured: added_model_card(source, checkpoint, direction, coefficient, how, measured),
        progress,
        revision,
    )
    return target


def no_place_for_it(config: Any, layer: int) -> str:
    """Why an architecture has no place for an addition at a layer, with the alternatives; "" where it has one.

    Args:
        config: of the text model, as transformers reads it; no weight is looked at.
    """
    family = config.model_type
    if layer == 0 and family in _SCALED_EMBEDDINGS:
        return (
            f"The architecture “{family}” multiplies its embedding before the first block, so that layer 0 cannot be "
            f"written into it exactly. {ALTERNATIVES}"
        )
    if layer > 0 and family not in _BIAS_ALWAYS and family not in _BIAS_BY_CONFIG:
        return (
            f"The architecture “{family}” has no bias on the output of its blocks, and engines would ignore one in the "
            f"files without a word. {ALTERNATIVES}"
        )
    return ""


def _changes(checkpoint: Checkpoint, direction: Direction, coefficient: float) -> tuple[Changes, str]:
    """What to write, and a sentence on it."""
    if refusal := no_place_for_it(checkpoint.config, direction.layer):
        raise SteeringError(refusal)
    family, vector = checkpoint.config.model_type, coefficient * direction.vector
    if direction.layer == 0:
        return _in_the_embedding(checkpoint, vector)
    projection = f"{checkpoint.layout.blocks}.{direction.layer - 1}.{checkpoint.layout.projections[-1][0]}"
    bias, weight = f"{projection}.bias", f"{projection}.weight"
    if family == "granite":
        vector = vector / checkpoint.config.residual_multiplier  # by which the family multiplies what an MLP writes
    said = f"It is in `{bias}`, on the output of the block before."
    if family in _BIAS_ALWAYS or (family in _BIAS_BY_CONFIG and getattr(checkpoint.config, "mlp_bias", False)):
        if bias not in checkpoint.tensors:
            raise SteeringError(f"The weights lack {bias}, which their config.json promises. Fetch the model again.")
        return Changes({bias: Add(vector)}), said
    number_type = checkpoint.tensors[weight].number_type
    added = {bias: (weight, vector.to(number_type))}
    for layer in range(checkpoint.n_layers):
        for name in _BIAS_BY_CONFIG[family]:
            beside = f"{checkpoint.layout.blocks}.{layer}.mlp.{name}"
            zeros = torch.zeros(checkpoint.tensors[f"{beside}.weight"].shape[0], dtype=number_type)
            added.setdefault(f"{beside}.bias", (f"{beside}.weight", zeros))
    said += " `mlp_bias` is set in config.json for it; every other bias of an MLP is zero."
    return Changes(added=added, settings={"mlp_bias": True}), said


def _in_the_embedding(checkpoint: Checkpoint, vector: torch.Tensor) -> tuple[Changes, str]:
    changes = Changes.of_embedding(checkpoint, {checkpoint.embedding: Add(vector)})
    return changes, "It is in every row of the token embedding; the output matrix stays as it was."
