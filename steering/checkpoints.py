"""A model folder as it lies on disk: its config and the headers of its weights, read before anything is changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steering.architectures import Layout, StoredWrite, find_layout, stored_write
from steering.errors import ModelError, SteeringError
from steering.tensor_files import DTYPES, StoredTensor, stored_tensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # in the order transformers looks for them


@dataclass(frozen=True)
class Checkpoint:
    """A model folder as it lies on disk.

    Attributes:
        label: the model's name for people.
        config: what transformers makes of config.json, with the defaults of the family.
        shards: the names of the tensors of each weight file, by its name, in the order in which they lie there.
        tensors: every tensor, by name.
    """

    folder: Path
    label: str
    config: Any
    layout: Layout
    shards: dict[str, list[str]]
    tensors: dict[str, StoredTensor]

    @classmethod
    def read(cls, folder: Path, label: str) -> Checkpoint:
        """Look at config and headers; no weight is read.

        Raises:
            ModelError: if the family is unknown, or the weights are quantised, damaged or incomplete.
        """
        config = _read_config(folder)
        layout = find_layout(config.model_type)
        shards: dict[str, list[str]] = {}
        tensors: dict[str, StoredTensor] = {}
        for shard in _shard_names(folder):
            held = stored_tensors(folder / shard)
            shards[shard] = list(held)
            tensors |= held
            for name, tensor in held.items():
                if stored_write(layout, name) and tensor.dtype not in DTYPES:
                    raise _quantised(folder, tensor.dtype)
        checkpoint = cls(folder, label, config, layout, shards, tensors)
        checkpoint._require_whole()
        return checkpoint

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @cached_property
    def writes(self) -> dict[str, StoredWrite]:
        """The tensors that write to the stream, by name."""
        found = {name: stored_write(self.layout, name) for name in self.tensors}
        return {name: write for name, write in found.items() if write is not None}

    @property
    def embedding(self) -> str:
        return f"{self.layout.embedding}.weight"

    @property
    def output(self) -> str:
        """The name of the output matrix, in the files or, if it is tied, for them."""
        # A family's own name in its files may differ from the one transformers gives it once loaded, and may save.
        return "lm_head.weight" if "lm_head.weight" in self.tensors else f"{self.layout.output}.weight"

    @property
    def says_tied(self) -> bool:
        return bool(getattr(self.config, "tie_word_embeddings", False))

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding, and not a tensor of its own."""
        return self.says_tied and self.output not in self.tensors

    def _require_whole(self) -> None:
        """Raise ModelError unless every write of every layer is here with the right width."""
        expected = {(layer, write) for layer in range(self.n_layers) for write in range(len(self.layout.projections))}
        found = {(write.layer, write.write) for write in self.writes.values() if write.axis == -2}
        lost = [f"what layer {layer} writes" for layer, _ in sorted(expected - found)]
        lost += [] if self.embedding in self.tensors else [self.embedding]
        lost += [] if self.is_tied or self.output in self.tensors else [self.output]
        norms = {write.norm for write in self.writes.values() if write.norm}
        lost += sorted(norms - set(self.tensors))
        if lost:
            raise ModelError(
                f"The weights in {self.folder} lack {lost[0]}, or have it under an unknown name. Fetch the model again."
            )
        for name, write in self.writes.items():
            shape = list(self.tensors[name].shape)
            if shape[write.axis] != self.d_model:
                raise ModelError(
                    f"{name} in {self.folder} has the shape {shape}, which does not fit the width {self.d_model} in "
                    "config.json. Fetch the model again."
                )


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "quantization_config" in raw:
            raise _quantised(folder, str(raw["quantization_config"].get("quant_method", "unknown method")))
        find_layout(str(raw.get("model_type")))  # the sentence for families that transformers does not know either
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except SteeringError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model's config.json in {folder} cannot be read: {error}. Fetch the model again."
        ) from error


def _quantised(folder: Path, how: str) -> ModelError:
    return ModelError(
        f"The weights in {folder} are quantised ({how}), and an edit of them would not hold. Choose the model they "
        "were made from."
    )


def _shard_names(folder: Path) -> list[str]:
    """The weight files that transformers reads; a folder may have others as well."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError as error:
        raise ModelError(
            f"The model in {folder} has no safetensors weights, and other formats are not edited. Choose another."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{INDEX} in {folder} cannot be read: {error}. Fetch the model again.") from error
    for name in names:
        if Path(str(name)).name != name or not (folder / name).is_file():
            raise ModelError(f"The weights {name} are not in {folder}. Fetch the model again.")
    return names
