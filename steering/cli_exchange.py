"""The commands ``export`` and ``import``: directions to and from other tools' files, and into models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.exchange_kinds import KINDS

if TYPE_CHECKING:
    from steering.direction import Direction
    from steering.models import ChatModel
    from steering.progress import Progress

MODEL_KINDS = ("added-model", "adapter")


def about_export(command: argparse.ArgumentParser) -> None:
    """What ``export`` takes."""
    command.add_argument("--direction", required=True, help="a file or a preset's name")
    command.add_argument(
        "--to",
        choices=(*KINDS, *MODEL_KINDS),
        help="default: what the ending of --out says; “added-model” is the whole model with the direction turned up in "
        "its weights, “adapter” a LoRA adapter that takes it out",
    )
    command.add_argument("--coefficient", type=float, help="for “added-model”; default: the direction's own start")
    about_check(command)


def about_check(command: argparse.ArgumentParser) -> None:
    """Whether what is written is compared with what was seen."""
    command.add_argument("--no-check", action="store_true", help="do not compare the result with the hooked model")


def about_import(command: argparse.ArgumentParser) -> None:
    """What ``import`` takes; without a model nothing is measured, so none is loaded unless it is named."""
    command.set_defaults(model=None)
    command.add_argument("file", type=Path, help="a .gguf, .safetensors, .npz or .json file")
    command.add_argument("--from", dest="kind", choices=KINDS, help="default: what the file's ending says")
    command.add_argument("--layer", type=int, help="which vector, where it has several: its block's number plus one")


def export_to(options: argparse.Namespace, direction: Direction, progress: Progress) -> dict[str, Any]:
    """Write the file or folder; what was written, and what it does not hold or how near it is."""
    if options.to in MODEL_KINDS:
        return _export_model(options, direction, progress)
    from steering.exchange import export_direction

    exported = export_direction(direction, options.out, options.to)
    return {"file": str(exported.path), "kind": exported.kind, "notes": list(exported.notes)}


def _export_model(options: argparse.Namespace, direction: Direction, progress: Progress) -> dict[str, Any]:
    from steering.added_checkpoint import add_to_weights
    from steering.edited_model_card import comparison_on_card
    from steering.lora_adapter import write_adapter

    check = not options.no_check
    if options.to == "adapter":
        folder = write_adapter(options.model, direction, options.out, check=check, progress=progress)
        return {"folder": str(folder), "kind": options.to, "check": comparison_on_card(folder)}
    coefficient = options.coefficient if options.coefficient is not None else direction.measured_start
    if coefficient is None:
        raise SteeringError("Say how far the direction is turned up: --coefficient NUMBER. It has no measured start.")
    folder = add_to_weights(options.model, direction, coefficient, options.out, check=check, progress=progress)
    return {
        "folder": str(folder),
        "kind": options.to,
        "coefficient": coefficient,
        "check": comparison_on_card(folder),
    }


def import_from(options: argparse.Namespace, model: ChatModel | None) -> dict[str, Any]:
    """Read the file and keep its direction; what it is, and what was made up."""
    from steering.exchange import import_direction

    out = options.out or options.file.with_suffix(".safetensors")
    if options.out is None and out.exists():
        raise SteeringError(f"{out} is there already. Say where the direction goes: --out FILE.")
    imported = import_direction(options.file, options.kind, layer=options.layer, model=model)
    direction = imported.direction
    try:
        file = direction.save(out)
    except Exception as error:  # safetensors has errors of its own for a folder that is not there
        raise SteeringError(f"{out} cannot be written: {error}. Choose another place.") from error
    return {
        "name": direction.name,
        "layer": direction.layer,
        "position": direction.position,
        "norm": direction.norm,
        "mean_residual_norm": direction.mean_residual_norm,
        "file": str(file),
        "notes": list(imported.notes),
    }
