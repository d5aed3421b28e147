"""A direction as one plain document, of numbers, texts, lists and dicts, and back; what every other format is made of.

Files come from strangers, so whatever is wrong with one must end as a sentence: all sizes are looked at before anything
is read by them.
"""

from __future__ import annotations

import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering.direction import Direction
from steering.errors import DirectionError
from steering.neutral_means import NeutralMeans

FORMAT, VERSION = "steering-direction", 1
# The largest file that is read. The vectors of all layers of the widest models known (126 layers of 16,384) take 8 MB.
LARGEST_FILE = 32 * 2**20
# A direction has one list a row and a small card. Ten million empty lists would fit into a file, and not into memory.
MOST_BRACKETS = 100_000
DEEPEST_MODEL = 10_000  # layers; a layer's number above it is no layer's

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    tokenize.TokenError,  # from NumPy's headers
    zlib.error,
)
"""What parsers raise over a damaged file."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Within it, whatever a parser trips over becomes a DirectionError that names the file; ``what`` it should be."""
    try:
        yield
    except DirectionError:
        raise
    except UNREADABLE as error:
        words = f" ({error})" if str(error) and len(str(error)) < 200 else ""
        raise DirectionError(
            f"{path.name} cannot be read as {what}, or is damaged{words}. Export it again, or choose another file."
        ) from error


def require_small_file(path: Path) -> None:
    """Raise DirectionError if there is no such file, or it is larger than ``LARGEST_FILE``."""
    if not path.is_file():
        raise DirectionError(f"There is no file {path}.")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise DirectionError(
            f"{path.name} has {size / 2**20:,.0f} MB; a direction has {LARGEST_FILE // 2**20} at most. Choose a "
            "direction's file, not a model's."
        )


def file_bytes(path: Path) -> bytes:
    """All of a file; a DirectionError as in :func:`require_small_file`."""
    require_small_file(path)
    with path.open("rb") as file:  # no more than was looked at, also of a file that grows
        return file.read(LARGEST_FILE)


def parsed_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: if it is none, or has more lists and dicts than any direction.
        RecursionError: if it is too deep.
    """
    data = text.encode() if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
        raise ValueError("it has far more lists than a direction")
    return json.loads(text)


def document_of(direction: Direction) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Everything of a direction: texts and numbers by their names, and its tensors as float32 arrays.

    Returns:
        The document, and sentences about what it could not hold.
    """
    card, lost = _plain(direction.card)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": direction.name,
        "layer": direction.layer,
        "position": direction.position,
        "mean_residual_norm": direction.mean_residual_norm,
        "card": card,
        "vector": _array(direction.vector),
        "ablation_basis": _array(direction.ablation_basis),
    }
    if direction.neutral is not None:
        document["neutral_axes"] = _array(direction.neutral.axes)
        document["neutral_components"] = _array(direction.neutral.components)
    notes = (f"Numbers on its card that are not finite ({lost}) are null in the file.",) if lost else ()
    return document, notes


def as_json(document: dict[str, Any], **settings: Any) -> str:
    """A document as JSON; float32 keeps every bit, in the fewest digits that tell it from its neighbours."""
    return json.dumps(document, default=_shortest, allow_nan=False, **settings)


def direction_of(document: Any, path: Path) -> Direction:
    """The direction in a whole document, of this library's own form.

    Raises:
        DirectionError: if a part is missing, has the wrong form, or does not fit the others.
    """
    with reading(path, "a direction"):
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError("it does not say that it is a direction")
        if document["version"] != VERSION:
            raise ValueError(f"it is of version {document['version']!r}, and only {VERSION} is known")
        neutral = None
        if "neutral_axes" in document or "neutral_components" in document:
            neutral = NeutralMeans(tensor_of(document["neutral_axes"]), tensor_of(document["neutral_components"]))
        name, card = document["name"], document["card"]
        if not isinstance(name, str) or not isinstance(card, dict):
            raise ValueError("its name is no text, or its card has no entries")
        json.dumps([name, card], ensure_ascii=False).encode()  # refuses half a character, which no page can show
        return checked(
            Direction(
                vector=tensor_of(document["vector"]),
                ablation_basis=tensor_of(document["ablation_basis"]),
                layer=whole(document["layer"]),
                position=whole(document["position"]),
                mean_residual_norm=number(document["mean_residual_norm"]),
                name=name[:80],
                card=card,
                neutral=neutral,
            ),
            path,
        )


def checked(direction: Direction, path: Path) -> Direction:
    """The direction, if its layer and its position can be those of a model.

    Raises:
        DirectionError: if not.
    """
    deepest = direction.card.get("n_layers", DEEPEST_MODEL)
    deepest = deepest if isinstance(deepest, int) else DEEPEST_MODEL
    if direction.neutral is not None:
        deepest = min(deepest, len(direction.neutral.components))
    if not 0 <= direction.layer < deepest or direction.position > 0:
        raise DirectionError(
            f"{path.name} has a direction of layer {direction.layer}, position {direction.position}; its model has "
            f"the layers 0 to {deepest - 1}, and positions are 0 or negative. Export it again."
        )
    return direction


def tensor_of(value: Any) -> Tensor:
    """Numbers, as an array or as lists of floats, as a float32 tensor.

    Raises:
        ValueError: if they are no floating-point numbers, or a list's rows differ in length.
        TypeError, RuntimeError: if it holds something else.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            raise ValueError(f"numbers of type {value.dtype} are no floating-point numbers")
        with np.errstate(over="ignore"):  # becomes infinite, which a direction refuses
            return torch.from_numpy(value.astype(np.float32))
    if not isinstance(value, list):
        raise TypeError("numbers are no list")
    rows = value if value and isinstance(value[0], list) else [value]
    if any(type(one) not in (int, float) for row in rows for one in row):
        raise ValueError("a list of numbers holds something else")
    return torch.tensor(value, dtype=torch.float32)


def whole(value: Any) -> int:
    """A whole number; a ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{str(value)[:20]!r} is not a whole number")
    return value


def number(value: Any) -> float:
    """A number; a ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:20]!r} is not a number")
    return float(value)


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().float().cpu().contiguous().numpy()


def _shortest(value: Any) -> Any:
    """An array as lists of the floats with the fewest digits that give the same float32."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    if value.ndim == 1:
        return [float(str(one)) for one in value]
    return list(value)


def _plain(value: Any) -> tuple[Any, int]:
    """A card as JSON gives it back, with null for numbers that are not finite, and how many of these there were."""
    lost = 0

    def walk(one: Any) -> Any:
        nonlocal lost
        if isinstance(one, dict):
            return {str(key): walk(kept) for key, kept in one.items()}
        if isinstance(one, list | tuple):
            return [walk(kept) for kept in one]
        if isinstance(one, float) and not math.isfinite(one):
            lost += 1
            return None
        return one

    return walk(value), lost
