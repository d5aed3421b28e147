"""A direction's file: safetensors, with all that is no tensor as JSON in its metadata. Nothing is unpickled."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from steering.errors import DirectionError
from steering.neutral_means import NeutralMeans
from steering.whole_files import written_whole

FORMAT = "steering-direction"


def write_fields(fields: dict[str, Any], path: Path) -> Path:
    """Write the fields of a :class:`steering.direction.Direction`, by their names."""
    from safetensors.torch import save_file

    described = {name: fields[name] for name in ("name", "layer", "position", "mean_residual_norm", "card")}
    tensors: dict[str, Tensor] = {name: fields[name].contiguous() for name in ("vector", "ablation_basis")}
    neutral: NeutralMeans | None = fields["neutral"]
    if neutral is not None:
        tensors["neutral_axes"] = neutral.axes.contiguous()
        tensors["neutral_components"] = neutral.components.contiguous()
    with written_whole(path) as partial:
        save_file(tensors, partial, metadata={"format": FORMAT, "version": "1", "direction": json.dumps(described)})
    return path


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of the :class:`steering.direction.Direction` in a file, by their names.

    Raises:
        DirectionError: if it is no such file, is damaged, or lacks a part.
    """
    described, tensors = _read_file(path)
    try:
        return {
            "vector": tensors["vector"].float(),
            "ablation_basis": tensors["ablation_basis"].float(),
            "layer": _integer(described["layer"]),
            "position": _integer(described["position"]),
            "mean_residual_norm": _positive(described["mean_residual_norm"]),
            "name": str(described["name"])[:80],
            "card": dict(described["card"]),
            "neutral": _neutral_means(tensors),
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DirectionError(
            f"{path.name} lacks a part of a direction, or has it in the wrong form ({error}). Download it again."
        ) from error


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DirectionError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DirectionError(
                    f"{path.name} is a safetensors file, but not a direction. "
                    "Choose one downloaded from this playground."
                )
            described = json.loads(about["direction"])
            json.dumps(described, ensure_ascii=False).encode()  # refuses half a character, which no page can show
            optional = {"neutral_axes", "neutral_components"} & set(file.keys())
            tensors = {name: file.get_tensor(name) for name in ("vector", "ablation_basis", *optional)}
    except (SafetensorError, ValueError, KeyError, RecursionError, OSError) as error:
        raise DirectionError(f"{path.name} is not a direction file, or is damaged. Download it again.") from error
    if not isinstance(described, dict) or not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise DirectionError(f"{path.name} does not hold a direction in floating-point numbers. Download it again.")
    return described, tensors


def _neutral_means(tensors: dict[str, Tensor]) -> NeutralMeans | None:
    """The neutral means in a file's tensors; a KeyError if only a half of them is there."""
    if "neutral_axes" not in tensors and "neutral_components" not in tensors:
        return None
    return NeutralMeans(tensors["neutral_axes"].float(), tensors["neutral_components"].float())


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)
