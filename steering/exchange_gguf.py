"""Control vectors as GGUF files, as llama.cpp and repeng keep them.

A tensor ``direction.N``, float32 ``[d_model]``, is added to what block N gives, at every position: to layer N + 1 of
the residual stream. llama.cpp refuses a file with ``direction.0`` or with a tensor of any other name or type, so all
else of a direction stands in one text among the file's keys and values, which other tools pass over.

Sources: ``common_control_vector_load_one`` in llama.cpp's ``common/common.cpp``, ``llama_adapter_cvec`` in
``src/llama-adapter.cpp`` (``tensors[il]`` holds ``direction.il``), and ``ControlVector`` in repeng's ``extract.py``.

``gguf`` writes the files. Its reader takes every count and length in a file at its word, so reading is done here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steering.exchange_document import file_bytes, reading

ARCHITECTURE = "controlvector"
OWN_KEY = "steering.direction"

_MAGIC = b"GGUF"
_VERSIONS = 2, 3
_TEXT, _LIST, _FLOAT32 = 8, 9, 0
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number of each type
_MOST_ENTRIES = 10_000  # keys, and tensors, of one file


@dataclass(frozen=True, eq=False)
class ControlVector:
    """What a file holds.

    Attributes:
        model_hint: what it says of the model it was made for, mostly the kind of architecture, such as ``"llama"``.
        directions: for each block N what is added to what it gives, float32 ``[d_model]``.
        own: the text this library put beside them, or None where another tool made the file.
    """

    model_hint: str
    directions: dict[int, npt.NDArray[np.float32]]
    own: str | None = None


def write_control_vector(path: Path, vector: ControlVector) -> None:
    """Write a GGUF file."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_string(f"{ARCHITECTURE}.model_hint", vector.model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vector.directions))
        if vector.own is not None:
            writer.add_string(OWN_KEY, vector.own)
        for block, direction in vector.directions.items():
            writer.add_tensor(f"direction.{block}", np.ascontiguousarray(direction, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_control_vector(path: Path) -> ControlVector:
    """Read a GGUF file of llama.cpp's, repeng's, or our own.

    Raises:
        DirectionError: if it is no control vector, or is damaged.
    """
    with reading(path, "a control vector"):
        return _Reader(file_bytes(path)).control_vector()


class _Reader:
    """Reads from front to back, and never further than the file goes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def control_vector(self) -> ControlVector:
        if self._take(4) != _MAGIC:
            raise ValueError("it is no GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            raise ValueError(f"it is of GGUF version {version}; versions 2 and 3 are read, little-endian")
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        if max(n_tensors, n_keys) > _MOST_ENTRIES:
            raise ValueError(f"it says that it has {n_tensors:,} tensors and {n_keys:,} keys")
        values: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text()
            values[key] = self._value(self._number("I"))
        if (found := values.get("general.architecture")) != ARCHITECTURE:
            raise ValueError(f"its architecture is {str(found)[:40]!r} and not {ARCHITECTURE!r}: it may be a model")
        places = [self._tensor() for _ in range(n_tensors)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError("its alignment is no power of two")
        start = -(-self._place // alignment) * alignment
        directions: dict[int, npt.NDArray[np.float32]] = {}
        for block, width, offset in places:
            if block in directions:
                raise ValueError(f"it has direction.{block} twice")
            self._place = start + offset
            directions[block] = np.frombuffer(self._take(4 * width), dtype="<f4").astype(np.float32)
        if len({len(direction) for direction in directions.values()}) != 1:
            raise ValueError("it has no direction, or directions of different widths")
        hint, own = values.get(f"{ARCHITECTURE}.model_hint"), values.get(OWN_KEY)
        return ControlVector(hint if isinstance(hint, str) else "", directions, own if isinstance(own, str) else None)

    def _tensor(self) -> tuple[int, int, int]:
        """The block of the next tensor, its width, and where it begins behind the start of the data, in bytes."""
        name = self._text()
        lengths = [self._number("Q") for _ in range(self._few(self._number("I"), 4))]
        kind, offset = self._number("I"), self._number("Q")
        named = re.fullmatch(r"direction\.(\d{1,5})", name, flags=re.ASCII)
        if named is None:
            raise ValueError(f"its tensor {name[:40]!r} is none of a control vector")
        if kind != _FLOAT32:
            raise ValueError(f"{name} is not in float32")
        width = lengths[0] if lengths else 0
        if width < 1 or any(length != 1 for length in lengths[1:]):
            raise ValueError(f"{name} has the shape {lengths} and not [d_model]")
        return int(named[1]), width, offset

    def _value(self, kind: int) -> Any:
        """A value: a text, a whole number, or None for what no control vector needs."""
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            inner, length = self._number("I"), self._number("Q")
            if inner == _TEXT:
                for _ in range(length):  # each takes eight bytes at least, so the file's end is soon reached
                    self._take(self._number("Q"))
            elif inner in _SIZES:
                self._take(_SIZES[inner] * length)
            else:
                raise ValueError(f"a list holds values of type {inner}")
            return None
        if kind not in _SIZES:
            raise ValueError(f"a value has the unknown type {kind}")
        raw = self._take(_SIZES[kind])
        return int.from_bytes(raw, "little") if kind in (0, 2, 4, 10) else None

    def _text(self) -> str:
        return self._take(self._number("Q")).decode()

    def _number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self._take(struct.calcsize(form)))[0])

    def _few(self, count: int, most: int) -> int:
        if count > most:
            raise ValueError(f"a tensor has {count:,} dimensions")
        return count

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._place:
            raise ValueError("it ends too early")
        self._place += size
        return self._data[self._place - size : self._place]
