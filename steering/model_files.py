"""Read a chat model from its folder: config, tokenizer and weights, from safetensors only and without its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steering.errors import ModelError, OutOfMemoryError
from steering.placement import Quantization
from steering.weights import SOURCE_FILE, cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        ModelError: if it cannot be read, or asks for program code that comes with the model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model's config.json in {folder} cannot be read: {error}. Fetch the model again."
        ) from error
    if "auto_map" in config and config.get("model_type") not in _known_types():
        raise ModelError(
            f"The model in {folder} brings its own program code, which is not run here. "
            "Choose a model of a known family."
        )
    return config


def _known_types() -> set[str]:
    from transformers import CONFIG_MAPPING

    return set(CONFIG_MAPPING.keys())


def load_tokenizer(folder: Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left.

    Args:
        chat_template: of a chat model, for a base model that has none of its own.

    Raises:
        ModelError: if it cannot be read, or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"The tokenizer in {folder} cannot be read: {error}. Fetch the model again.") from error
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it is not a chat model. Choose one whose name ends in Instruct, it or "
            "chat, or put a chat_template.jinja into its folder."
        )
    tokenizer.padding_side = "left"
    return tokenizer


def load_weights(
    folder: Path,
    dtype: torch.dtype,
    placement: str | dict[str, Any],
    quantization: Quantization | None,
    n_processes: int = 1,
) -> Any:
    """The transformers model in evaluation mode, its weights frozen.

    Args:
        n_processes: how many load it together, each its part (transformers' tensor parallelism); ``placement`` and
            ``quantization`` are for one.

    Raises:
        ModelError: if it cannot be loaded, or lacks tensors.
        OutOfMemoryError: if there is no memory for it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.distributed import DistributedConfig

    settings = None
    if quantization == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    elif quantization == "4bit":
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        extra: dict[str, Any] = {"quantization_config": settings} if settings else {}
        if n_processes > 1:
            extra["distributed_config"] = DistributedConfig(tp_size=n_processes)
        else:
            extra["device_map"] = placement
        if placement == "auto":
            extra["offload_folder"] = str(cache_folder() / "offload")
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError("There is not enough memory for this model. Choose a smaller one.") from error
    except Exception as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
    if lost := sorted(found["missing_keys"]):  # they now hold random numbers
        raise ModelError(
            f"The model in {folder} lacks {len(lost)} of its tensors, {lost[0]} among them. Fetch the model again."
        )
    return model.eval().requires_grad_(False)


def pack_weights(model: Any, file: Path) -> None:
    """Put the packed weights in ``file`` in place of the linears they were made of."""
    from safetensors.torch import load_file

    from steering.packed import pack

    pack(model, load_file(file))


def revision_of(folder: Path) -> str:
    """A name for exactly these weights: the hub's commit, or the converted file's hash, or "" for a plain folder."""
    if folder.parent.name == "snapshots":
        return folder.name
    try:
        return str(json.loads((folder / SOURCE_FILE).read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        return ""
