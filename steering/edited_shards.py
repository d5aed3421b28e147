"""Write an edited model's weights, shard by shard, and read them back to check them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering.checkpoints import INDEX, WEIGHTS, Checkpoint
from steering.errors import SteeringError
from steering.progress import Progress
from steering.tensor_files import NewTensor, StoredTensor, bytes_of, metadata, name_of, stored_tensors, write_tensors
from steering.weight_edits import TensorEdit


@dataclass(frozen=True)
class Changes:
    """How an edited model differs from its source; all else is copied bit by bit.

    Attributes:
        edits: of tensors, by name.
        copies: names of new tensors, each with the tensor of the source that it is equal to.
        added: names of new tensors, each with the tensor of the source beside which it goes, and its content.
        settings: what is set in config.json.
    """

    edits: dict[str, TensorEdit] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    added: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_embedding(cls, checkpoint: Checkpoint, edits: dict[str, TensorEdit]) -> Changes:
        """Edits of the embedding among others: an output matrix tied to it stays as it was, and is written untied."""
        return cls(
            edits,
            copies={checkpoint.output: checkpoint.embedding} if checkpoint.is_tied else {},
            settings={"tie_word_embeddings": False} if checkpoint.says_tied else {},
        )

    def new_bytes(self, checkpoint: Checkpoint) -> int:
        """How much longer the weights become."""
        copied = sum(checkpoint.tensors[source].nbytes for source in self.copies.values())
        return copied + sum(tensor.nbytes for _, tensor in self.added.values())


def write_weights(checkpoint: Checkpoint, changes: Changes, folder: Path, progress: Progress) -> None:
    """Write every shard under its own name, one after the other, then config and index."""
    told = _Told("Editing the weights", checkpoint, changes, progress)
    for shard, names in checkpoint.shards.items():
        tensors = []
        for name in names:
            stored = checkpoint.tensors[name]
            edit = changes.edits.get(name)
            tensors.append(_as_new(name, stored, None if edit is None else map(bytes_of, edit.pieces(stored))))
            tensors += [_as_new(copy, stored) for copy, source in changes.copies.items() if source == name]
            tensors += [
                NewTensor(new, name_of(tensor.dtype), tuple(tensor.shape), tensor.nbytes, [bytes_of(tensor)])
                for new, (beside, tensor) in changes.added.items()
                if beside == name
            ]
        write_tensors(folder / shard, tensors, metadata(checkpoint.folder / shard), told.more)
    _write_settings(checkpoint, changes, folder)


def _as_new(name: str, stored: StoredTensor, content: Iterable[memoryview] | None = None) -> NewTensor:
    return NewTensor(name, stored.dtype, stored.shape, stored.nbytes, stored if content is None else content)


class _Told:
    """Progress in billions of bytes."""

    def __init__(self, what: str, checkpoint: Checkpoint, changes: Changes, progress: Progress) -> None:
        self._what, self._progress, self._done = what, progress, 0
        self._total = sum(tensor.nbytes for tensor in checkpoint.tensors.values()) + changes.new_bytes(checkpoint)

    def more(self, n_bytes: int) -> None:
        self._done += n_bytes
        self._progress(self._what, self._done / 1e9, self._total / 1e9)


def _write_settings(checkpoint: Checkpoint, changes: Changes, folder: Path) -> None:
    """Write config.json, and the index if there is one."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8")) | changes.settings
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if list(checkpoint.shards) == [WEIGHTS]:
        return
    index = json.loads((checkpoint.folder / INDEX).read_text(encoding="utf-8"))
    held = {name: shard for shard, names in checkpoint.shards.items() for name in names}
    new = [(name, held[source], checkpoint.tensors[source]) for name, source in changes.copies.items()]
    sizes = [(tensor.nbytes, prod(tensor.shape)) for _, _, tensor in new]
    sizes += [(tensor.nbytes, tensor.numel()) for _, tensor in changes.added.values()]
    index["weight_map"] |= {name: shard for name, shard, _ in new}
    index["weight_map"] |= {name: held[beside] for name, (beside, _) in changes.added.items()}
    for key, more in zip(("total_size", "total_parameters"), map(sum, zip(*sizes, strict=True)), strict=False):
        if key in index.get("metadata", {}):
            index["metadata"][key] = int(index["metadata"][key]) + more
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def verify_weights(checkpoint: Checkpoint, changes: Changes, folder: Path, progress: Progress) -> None:
    """Read back what was written.

    Raises:
        SteeringError: if a tensor is missing, changed its form, or is not what it should be.
    """
    told = _Told("Checking the weights", checkpoint, changes, progress)
    written: dict[str, StoredTensor] = {}
    places: dict[str, str] = {}
    for shard in checkpoint.shards:
        held = stored_tensors(folder / shard)
        written |= held
        places |= dict.fromkeys(held, shard)
    if set(written) != {*checkpoint.tensors, *changes.copies, *changes.added}:
        raise _broken(folder, "tensors are missing")
    if (folder / INDEX).is_file() and json.loads((folder / INDEX).read_text())["weight_map"] != places:
        raise _broken(folder, "the index does not name the tensors there are")
    for name, tensor in written.items():
        if complaint := _complaint(checkpoint, changes, name, tensor):
            raise _broken(folder, f"{name} {complaint}")
        told.more(tensor.nbytes)


def _complaint(checkpoint: Checkpoint, changes: Changes, name: str, written: StoredTensor) -> str:
    """What is wrong with a tensor that was written; nothing if it is right."""
    if name in changes.added:
        _, expected = changes.added[name]
        is_same = b"".join(written.content()) == bytes(bytes_of(expected))
        return "" if is_same and bool(torch.isfinite(expected).all()) else "is not what was to be added"
    source = checkpoint.tensors[changes.copies.get(name, name)]
    if (source.dtype, source.shape) != (written.dtype, written.shape):
        return "has another form than in the source"
    if name in changes.edits:
        return changes.edits[name].complaint(source, written)
    are_same = all(one == other for one, other in zip(source.content(), written.content(), strict=True))
    return "" if are_same else "is not the source's, bit by bit"


def _broken(folder: Path, what: str) -> SteeringError:
    return SteeringError(
        f"The edited model in {folder.parent} did not pass its check: {what}. Fetch the source again, or report this."
    )
