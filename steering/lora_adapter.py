"""Ablation as a LoRA adapter: a small file beside the untouched model, for engines that serve adapters per request.

Orthogonalisation changes a matrix by −R̂ᵀ R̂ W, which has the rank of the direction's basis, k: B A with A = R̂ W and
B = −R̂ᵀ. What an adapter does not carry is the embedding's part along the direction, and biases; how much that matters
is measured and written on the card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.checkpoints import Checkpoint
from steering.directions import Direction
from steering.edited_folder import disk_errors_said, measured_or_why, renamed_when_whole, require_free
from steering.edited_model_card import CARD_FILE, adapter_card, public_label
from steering.errors import ModelError, SteeringError
from steering.export_check import WHAT as COMPARING
from steering.export_check import Equality, answer_logits, equality, hooked_answers
from steering.interventions import Variant
from steering.machine import one_thread
from steering.progress import Progress, silent
from steering.weight_edits import Ablate, weight_edits
from steering.weights import model_folder

if TYPE_CHECKING:
    from steering.models import ChatModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
_PREFIX = "base_model.model."
WHAT = "Making the adapter"
LEFT_OUT = (
    "Not in it, because adapters of this kind change no embedding and no bias: what the token embedding itself writes "
    "along the direction{biases}. An orthogonalised model has that taken out too."
)


def write_adapter(
    source: str,
    direction: Direction,
    out: str | Path,
    *,
    revision: str | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write a LoRA adapter in PEFT's format that takes a direction out of what attention and MLP write.

    Its rank is the basis's, k; its numbers are float32, and its scaling is 1.

    Args:
        source: the base model: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        out: the folder to make. It appears when it is whole, and not otherwise.
        revision: a commit of the hub's repository; only for hub ids.
        check: compare the base model with the adapter applied with the ablated variant, on 32 questions.

    Returns:
        ``out``, a folder that ``peft.PeftModel.from_pretrained(model, folder)`` loads, with a card.

    Raises:
        DirectionError: if the direction was made for a model of another width or depth.
        ModelError: if there is no such model, its family is unknown, or its weights are quantised or incomplete.
        SteeringError: if the model has experts, whose projections no adapter reaches alike in every engine, or ``out``
            cannot be written.
    """
    target = Path(out).expanduser()
    require_free(target)
    checkpoint = Checkpoint.read(model_folder(source, revision, progress), public_label(source))
    direction.require_fit(checkpoint)
    pairs = adapter_pairs(checkpoint, direction, progress)
    biases = any(name.endswith(".bias") for name in checkpoint.writes)
    left_out = LEFT_OUT.format(biases=", and what biases do" if biases else "")
    measured = measured_or_why((lambda: _compare(source, revision, direction, pairs, progress)) if check else None)
    with disk_errors_said(target), renamed_when_whole(target) as partial:
        _save(partial, checkpoint, pairs)
        card = adapter_card(source, checkpoint, direction, left_out, measured)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return target


def experts_in_the_way(label: str) -> str:
    """Why a model with experts gets no adapter, in a sentence; ``label`` is its name for people."""
    return (
        f"{label} has experts, and engines do not agree on how an adapter names their projections. Write an "
        "orthogonalised model instead (python -m steering orthogonalize)."
    )


def adapter_pairs(
    checkpoint: Checkpoint, direction: Direction, progress: Progress = silent
) -> dict[str, tuple[Tensor, Tensor]]:
    """A ``[k, in]`` and B ``[d_model, k]``, float32, of every projection that writes to the stream, by its module."""
    edits = {
        name: edit
        for name, edit in weight_edits(checkpoint, direction.ablation_basis).items()
        if isinstance(edit, Ablate) and edit.axis == -2
    }
    if any("expert" in name for name in edits):
        raise SteeringError(experts_in_the_way(checkpoint.label))
    pairs = {}
    with one_thread():
        for number, (name, edit) in enumerate(edits.items()):
            progress(WHAT, number, len(edits))
            inside = edit.inside(checkpoint.tensors[name])
            if not torch.isfinite(inside).all():
                raise ModelError(f"{name} in {checkpoint.folder} holds numbers that are none. Fetch the model again.")
            pairs[name.removesuffix(".weight")] = (inside.float(), -edit.into.float())
    progress(WHAT, len(edits), len(edits))
    return pairs


def _save(folder: Path, checkpoint: Checkpoint, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    rank = len(next(iter(pairs.values()))[0])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": checkpoint.label,
        "r": rank,
        "lora_alpha": rank,  # so that the scaling, alpha / r, is 1
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": sorted({module.rsplit(".", 1)[1] for module in pairs}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _compare(
    source: str,
    revision: str | None,
    direction: Direction,
    pairs: dict[str, tuple[Tensor, Tensor]],
    progress: Progress,
) -> Equality:
    """The base model with the adapter applied beside the hooked one."""
    from steering.models import load_model

    model = load_model(
        source, device="cpu", dtype=torch.float32, revision=revision, progress=lambda *_: progress(COMPARING, 0, 3)
    )
    texts, expected = hooked_answers(model, Variant.ablated(direction), progress=progress)
    _apply(model, pairs)
    found = answer_logits(model, texts, Variant.baseline(), lambda part: progress(COMPARING, 2 + part, 3))
    return equality(expected, found, torch.float32)


@torch.no_grad()
def _apply(model: ChatModel, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """W ← W + B A in a loaded model."""
    for module, (a, b) in pairs.items():
        model.model.get_submodule(module).weight.data.add_(b @ a)
