"""The files that come along with an edited model: tokenizer, templates, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

from steering.weights import SOURCE_FILE

TEMPLATES = "additional_chat_templates"
# What does not come along: weights in other forms, which would be those of the unedited model, and their indices.
WEIGHT_ENDINGS = (
    *(".safetensors", ".index.json", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".ot"),
    *(".onnx", ".onnx_data", ".tflite"),
)
LARGEST_COMPANION = 100_000_000  # bytes; a tokenizer has a third of it at most


def companions(folder: Path) -> list[Path]:
    """The files that belong to the model beside its weights and config: tokenizer, templates, licence."""
    # A stranger's folder may hold a link to a file of whoever edits it, which must not come along. The hub's own cache
    # is made of links, from snapshots/… to blobs/….
    home = folder.resolve()
    home = home.parent.parent if home.parent.name == "snapshots" else home
    own = {SOURCE_FILE, "config.json"}  # the first names the packed weights, which are not these any more
    candidates = [*folder.iterdir(), *(folder / TEMPLATES).glob("*")]
    return [
        path
        for path in sorted(candidates)
        if path.is_file()
        and path.resolve().is_relative_to(home)
        and path.name not in own
        and not path.name.startswith(".")
        and not path.name.endswith(WEIGHT_ENDINGS)
        and path.stat().st_size <= LARGEST_COMPANION
    ]


def copy_companions(source: Path, folder: Path) -> None:
    """Copy them; the source's own card, with its terms and thanks, stays beside the new one."""
    for path in companions(source):
        place = folder / path.relative_to(source)
        if path.suffix == ".md" and path.stem.startswith("README"):
            place = place.with_name(path.name.replace("README", "README.base", 1))
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
