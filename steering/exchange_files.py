"""Directions as JSON, as NumPy's ``.npz``, and as safetensors that steering-vectors can be made from."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from steering.direction import Direction
from steering.errors import DirectionError
from steering.exchange_document import (
    FORMAT,
    LARGEST_FILE,
    as_json,
    checked,
    file_bytes,
    parsed_json,
    reading,
    require_small_file,
)

Document = dict[str, Any]

ARRAYS = ("vector", "ablation_basis", "neutral_axes", "neutral_components")
ABOUT = "about"  # the array of an .npz file that has all the rest, as JSON
OWN_KEY = "steering.direction"
LAYER_TYPE = "decoder_block"


def write_json(path: Path, document: Document) -> None:
    """Write plain JSON."""
    path.write_text(as_json(document) + "\n", encoding="utf-8")


def read_json(path: Path) -> Document:
    """What a JSON file holds.

    Raises:
        DirectionError: if it cannot be read, or is no object.
    """
    with reading(path, "JSON"):
        document = parsed_json(file_bytes(path))
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        return document


def write_npz(path: Path, document: Document) -> None:
    """Write arrays by their names, and all the rest as JSON in one more, a text."""
    arrays = {name: document[name] for name in ARRAYS if name in document}
    rest = {name: value for name, value in document.items() if name not in ARRAYS}
    with path.open("wb") as file:  # given a name, NumPy would add an ending
        np.savez(file, allow_pickle=False, **arrays, **{ABOUT: np.array(as_json(rest))})


def read_npz(path: Path) -> Document:
    """The arrays of an .npz file by their names, and what stands beside them; nothing is unpickled.

    Raises:
        DirectionError: if it cannot be read, holds Python objects, or more than a file may have when unpacked.
    """
    with reading(path, "an .npz file"):
        data = file_bytes(path)
        if not data.startswith(b"PK"):
            raise ValueError("it is no .npz file")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            known = {name: one for name, one in members.items() if name in (*ARRAYS, ABOUT)}
            # Others may ask for gigabytes before they give a byte.
            if any(one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for one in known.values()):
                raise ValueError("it is compressed in a way that NumPy does not use")
            if sum(one.file_size for one in known.values()) > LARGEST_FILE:
                raise ValueError("unpacked it is larger than any direction")
            arrays = {name: _array(archive.read(one)) for name, one in known.items()}  # no more than it says
    with reading(path, "an .npz file of a direction"):
        about = arrays.pop(ABOUT, None)
        if about is None:
            return dict(arrays)
        if about.dtype.kind != "U" or about.size != 1:
            raise ValueError(f"its array “{ABOUT}” is no text")
        document = parsed_json(str(about.item()))
        if not isinstance(document, dict):
            raise ValueError(f"its array “{ABOUT}” is no object")
        return document | arrays


def _array(data: bytes) -> npt.NDArray[Any]:
    """One array of an .npz file; a ValueError if it holds objects or not just as many bytes as it says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError("an array is of an unknown version")
    shape, by_columns, dtype = read_header[version](file)
    if dtype.kind not in "fU":
        raise ValueError(f"an array holds values of type {dtype}")
    if any(length < 0 for length in shape) or len(shape) > 2:
        raise ValueError(f"an array has the shape {list(shape)}")
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(data) - file.tell():
        raise ValueError("an array is not as large as it says")
    flat = np.frombuffer(data, dtype=dtype, count=count, offset=file.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")


def write_steering_vector(path: Path, document: Document, block: int) -> None:
    """Write the vector as a tensor named by its block's number, and all the rest as JSON in the metadata."""
    from safetensors.numpy import save_file

    rest = {name: value for name, value in document.items() if name != "vector"}
    metadata = {"format": "steering-vectors", "layer_type": LAYER_TYPE, OWN_KEY: as_json(rest)}
    save_file({str(block): document["vector"]}, path, metadata=metadata)


def read_safetensors(path: Path) -> tuple[Direction | dict[int, npt.NDArray[Any]], str | None]:
    """A direction of this library's own files, or vectors by the number of the block whose output they are added to.

    Returns:
        Which of these it is, and for vectors the JSON that stands beside them, if there is any.

    Raises:
        DirectionError: if it is neither, is damaged, or says that it acts anywhere but on what whole blocks give.
    """
    from safetensors import SafetensorError, safe_open

    require_small_file(path)
    with reading(path, "a safetensors file of a direction"):
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") == FORMAT:
                    return checked(Direction.load(path), path), None
                named = {name: re.fullmatch(r"\d{1,5}", name, flags=re.ASCII) for name in file.keys()}  # noqa: SIM118
                if not named or not all(named.values()):
                    raise ValueError("its tensors are not named by numbers of blocks")
                if about.get("layer_type", LAYER_TYPE) != LAYER_TYPE:
                    raise DirectionError(
                        f"{path.name} acts on “{about['layer_type'][:40]}”; only vectors that are added to what whole "
                        f"blocks give (“{LAYER_TYPE}”) can be read here."
                    )
                vectors = {int(name): _as_array(file.get_tensor(name)) for name in named}
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return vectors, about.get(OWN_KEY)


def _as_array(tensor: Tensor) -> npt.NDArray[Any]:
    if not tensor.is_floating_point():
        raise ValueError(f"numbers of type {tensor.dtype} are no floating-point numbers")
    return tensor.float().numpy()


def parsed_own(text: str, path: Path) -> Document:
    """What this library wrote beside another tool's vector.

    Raises:
        DirectionError: if it cannot be read.
    """
    with reading(path, "a direction"):
        document = parsed_json(text)
        if not isinstance(document, dict):
            raise ValueError("what stands beside its vector is no object")
        return document


def json_of(document: Document) -> str:
    """All of a document but its vector, as one text."""
    return as_json({name: value for name, value in document.items() if name != "vector"})
