"""Safetensors files a piece at a time: what is edited need not fit into memory, nor a shard of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from steering.errors import ModelError

PIECE_BYTES = 2 * 2**20
"""About how much of a tensor is in memory at once, its float32 copies on top: what a processor's cache holds."""

_COPIED_BYTES = 64 * 2**20  # at once, by the system, without passing through this process

# The names of the format. Whatever is not here is only ever copied, byte by byte.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file, read by rows: its shape is taken as ``[-1, last]``, a vector's as ``[1, size]``.

    Attributes:
        dtype: as the format names it.
        start, end: its bytes in the file.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def number_type(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def n_rows(self) -> int:
        return prod(self.shape[:-1])

    def rows(self, begin: int, end: int) -> Iterator[tuple[int, int, Tensor]]:
        """Pieces of some rows: first and last row, and they, ``[last - first, size of a row]``, in float32 or float64.

        A piece may be written to, and is what it is until the next one is asked for: they share their memory.
        """
        if end <= begin or not self.nbytes:
            return
        row_bytes = self.nbytes // self.n_rows
        step = min(end - begin, max(1, PIECE_BYTES // row_bytes))
        raw = torch.empty(step * row_bytes, dtype=torch.uint8)
        stored = raw.view(self.number_type).view(step, -1)
        exact = stored.to(torch.promote_types(self.number_type, torch.float32))  # not copied if it is that already
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + begin * row_bytes)
            for first in range(begin, end, step):
                n = min(step, end - first)
                if file.readinto(memoryview(cast(Any, raw.numpy()))[: n * row_bytes]) != n * row_bytes:
                    raise ModelError(f"{self.path} ends before its tensor {self.name}. Fetch the model again.")
                if exact is not stored:
                    exact[:n].copy_(stored[:n])
                yield first, first + n, exact[:n]

    def content(self) -> Iterator[bytes]:
        """Its bytes as they are, in pieces."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.nbytes
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise ModelError(f"{self.path} ends before its tensor {self.name}. Fetch the model again.")
                left -= len(piece)
                yield piece


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading by its own library, which refuses headers that lie.

    Raises:
        ModelError: if it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Fetch the model again.") from error
    with opened as file:
        yield file


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; the usual where it says nothing."""
    with opened(path) as file:
        return file.metadata() or {"format": "pt"}


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, in the order in which they lie in it.

    Raises:
        ModelError: if the file is damaged.
    """
    with opened(path):  # checks the header: its size, offsets that overlap or leave holes, shapes that do not fit them
        pass
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    begin = 8 + length
    found = [
        StoredTensor(
            path, name, about["dtype"], tuple(about["shape"]), *(begin + offset for offset in about["data_offsets"])
        )
        for name, about in header.items()
    ]
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: (tensor.start, tensor.name))}


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written: its form, and where its bytes come from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    content: Iterable[memoryview | bytes] | StoredTensor


def write_tensors(
    path: Path, tensors: Iterable[NewTensor], metadata: dict[str, str], told: Callable[[int], None]
) -> None:
    """Write a safetensors file, each tensor's bytes as they come.

    Args:
        told: called before more is written, with how many bytes were since the last call.

    Raises:
        OSError: if the disk does not take it.
        ValueError: if a tensor gives another number of bytes than it said.
    """
    # As the format's own library does: larger numbers first, so that every tensor lies at a multiple of their size.
    ordered = sorted(tensors, key=lambda tensor: -_number_bytes(tensor))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    begin = 0
    for tensor in ordered:
        offsets = [begin, begin + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        begin += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb", buffering=0) as file:
        _write(file, len(encoded).to_bytes(8, "little") + encoded)
        for tensor in ordered:
            stored = tensor.content if isinstance(tensor.content, StoredTensor) else None
            pieces = _copied(stored, file) if stored else (_write(file, piece) for piece in tensor.content)  # type: ignore[union-attr]
            written = piece = 0
            told(0)
            for piece in pieces:
                written += piece
                told(piece)
            if written != tensor.nbytes:
                raise ValueError(f"{tensor.name} has {written} bytes, not {tensor.nbytes}")
        os.fsync(file.fileno())  # a folder may get its name only when what is in it would survive


def _write(file: FileIO, content: memoryview | bytes) -> int:
    """Write all of it; how many bytes that are."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return len(content)


def _copied(stored: StoredTensor, file: FileIO) -> Iterator[int]:
    """Copy a stored tensor's bytes, by the system where it can; the number of bytes at a time."""
    with stored.path.open("rb", buffering=0) as source:
        at = stored.start
        while at < stored.end:
            count = min(stored.end - at, _COPIED_BYTES)
            try:
                copied = os.copy_file_range(source.fileno(), file.fileno(), count, offset_src=at)
            except (AttributeError, OSError):  # as on other systems, and between some file systems
                source.seek(at)
                copied = _write(file, source.read(min(count, PIECE_BYTES)))
            if not copied:
                raise ModelError(f"{stored.path} ends before its tensor {stored.name}. Fetch the model again.")
            at += copied
            yield copied


def _number_bytes(tensor: NewTensor) -> int:
    numbers = prod(tensor.shape)
    return tensor.nbytes // numbers if numbers else 0


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes in the format's order, where they lie; at least one dimension."""
    return memoryview(cast(Any, tensor.contiguous().view(torch.uint8).numpy())).cast("B")


def name_of(dtype: torch.dtype) -> str:
    """A number type as the format names it."""
    return _NAMES[dtype]
