"""Write an edited model's weights, shard by shard, and read them back to check them."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from steering.checkpoints import INDEX, WEIGHTS, Checkpoint, opened
from steering.errors import SteeringError
from steering.progress import Progress
from steering.weight_edits import Edit


def write_weights(checkpoint: Checkpoint, edits: dict[str, Edit], folder: Path, progress: Progress) -> None:
    """Write every shard under its own name, one after the other, then config and index."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    what, done, total = "Editing the weights", 0, len(checkpoint.shapes)
    added = None
    for shard, names in checkpoint.shards.items():
        with opened(checkpoint.folder / shard) as file:
            tensors = {}
            for name in names:
                progress(what, done, total)
                done += 1
                tensor = file.get_tensor(name)
                tensors[name] = edits[name].apply(tensor) if name in edits else tensor
                if name == checkpoint.embedding and checkpoint.is_tied:
                    tensors[checkpoint.output], added = tensor, (shard, tensor)
            try:
                save_file(tensors, folder / shard, metadata=file.metadata() or {"format": "pt"})
            except SafetensorError as error:  # as on a disk that is full after all
                raise OSError(str(error)) from error
            (folder / shard).chmod(0o644)  # which safetensors leaves to its owner alone
    progress(what, done, total)
    _write_settings(checkpoint, folder, added)


def _write_settings(checkpoint: Checkpoint, folder: Path, added: tuple[str, Tensor] | None) -> None:
    """Write config.json and the index, which change only if an output matrix was added to a shard."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    if checkpoint.says_tied:
        config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if list(checkpoint.shards) == [WEIGHTS]:
        return
    index = json.loads((checkpoint.folder / INDEX).read_text(encoding="utf-8"))
    if added is not None:
        shard, tensor = added
        index["weight_map"][checkpoint.output] = shard
        for size, more in (("total_size", tensor.nbytes), ("total_parameters", tensor.numel())):
            if size in index.get("metadata", {}):
                index["metadata"][size] = int(index["metadata"][size]) + more
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def verify_weights(checkpoint: Checkpoint, edits: dict[str, Edit], folder: Path, progress: Progress) -> None:
    """Read back what was written.

    Raises:
        SteeringError: if a tensor is missing or changed its form, or anything of the direction is left in one.
    """
    what, done, total = "Checking the weights", 0, len(checkpoint.shapes)
    found: dict[str, str] = {}
    for shard, names in checkpoint.shards.items():
        with opened(folder / shard) as written, opened(checkpoint.folder / shard) as source:
            found |= dict.fromkeys(written.keys(), shard)
            for name in names:
                progress(what, done, total)
                done += 1
                before, after = source.get_tensor(name), written.get_tensor(name)
                if (before.shape, before.dtype) != (after.shape, after.dtype):
                    raise _broken(folder, f"{name} has another form than in the source")
                if name in edits and not _is_out(edits[name], before, after):
                    raise _broken(folder, f"{name} still writes along the direction, or holds numbers that are none")
    if set(found) != {*checkpoint.shapes, checkpoint.output}:
        raise _broken(folder, "tensors are missing")
    if (folder / INDEX).is_file() and json.loads((folder / INDEX).read_text())["weight_map"] != found:
        raise _broken(folder, "the index does not name the tensors there are")
    progress(what, done, total)


def _is_out(edit: Edit, before: Tensor, after: Tensor) -> bool:
    return float(edit.inside(after).norm()) <= edit.tolerance(before, after)


def _broken(folder: Path, what: str) -> SteeringError:
    return SteeringError(
        f"The edited model in {folder.parent} did not pass its check: {what}. Fetch the source again, or report this."
    )
