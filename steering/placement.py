"""Where a model goes and in which number type: on one device if it fits there, else spread over what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from steering.errors import ModelError
from steering.machine import free_memory, preferred_dtype
from steering.weights import PACKED_FILE

Quantization = Literal["8bit", "4bit"]


def chosen_device(device: str | None) -> torch.device:
    """The device of that name; without a name, or for ``"auto"``, a GPU if there is one.

    Raises:
        ModelError: if there is no such device here.
    """
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"There is no device “{device}” here. Use --device cpu, or leave it out.") from error
    return target


def chosen_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The number type of that name; without a name, or for ``"auto"``, what is faster on ``device``.

    Raises:
        ModelError: if weights cannot be held in it.
    """
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype in (None, "auto"):
        return preferred_dtype(device)
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if not isinstance(dtype, str) or dtype not in named:
        raise ModelError(f"The number type is one of {', '.join(named)}, not “{dtype}”.")
    return named[dtype]


def device_map(
    asked: str | None,
    target: torch.device,
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> str | dict[str, Any]:
    """A ``device_map``: one device, or ``"auto"`` where the model does not fit on it.

    Raises:
        ModelError: if it does not fit anywhere and the caller did not ask for ``"auto"``.
    """
    if asked == "auto":
        return "auto"
    needed = weight_bytes(folder, config, dtype, quantization)
    free = free_memory(target)
    if needed * 1.1 <= free:  # some room for activations and the key/value cache
        return {"": target}
    if target.type == "cuda" and needed * 1.1 <= free + free_memory(torch.device("cpu")):
        return "auto"
    raise ModelError(
        f"This model needs {needed * 1.1 / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. Choose a smaller "
        "one, use --quantization 4bit, or --device auto to keep a part of it on disk (slow)."
    )


def weight_bytes(folder: Path, config: dict[str, Any], dtype: torch.dtype, quantization: Quantization | None) -> int:
    """Bytes the weights of the model in ``folder`` take once loaded."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.name != PACKED_FILE)
    named = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    parameters = stored / (4 if named == "float32" else 2)
    size = {"8bit": 1.1, "4bit": 0.65}.get(quantization or "", dtype.itemsize)
    return int(parameters * size)
