"""The commands ``export`` and ``import``: directions to and from other tools' files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.exchange_kinds import KINDS

if TYPE_CHECKING:
    from steering.direction import Direction
    from steering.models import ChatModel


def about_export(command: argparse.ArgumentParser) -> None:
    """What ``export`` takes."""
    command.add_argument("--direction", required=True, help="a file or a preset's name")
    command.add_argument("--to", choices=KINDS, help="default: what the ending of --out says")


def about_import(command: argparse.ArgumentParser) -> None:
    """What ``import`` takes; without a model nothing is measured, so none is loaded unless it is named."""
    command.set_defaults(model=None)
    command.add_argument("file", type=Path, help="a .gguf, .safetensors, .npz or .json file")
    command.add_argument("--from", dest="kind", choices=KINDS, help="default: what the file's ending says")
    command.add_argument("--layer", type=int, help="which vector, where it has several: its block's number plus one")


def export_to(options: argparse.Namespace, direction: Direction) -> dict[str, Any]:
    """Write the file; what was written, and what it does not hold."""
    from steering.exchange import export_direction

    exported = export_direction(direction, options.out, options.to)
    return {"file": str(exported.path), "kind": exported.kind, "notes": list(exported.notes)}


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
