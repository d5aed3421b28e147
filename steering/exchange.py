"""Directions to and from other tools' files.

Layer l is the residual stream entering block l. llama.cpp, repeng and steering-vectors add a vector to what a block
gives, so that their block N is layer N + 1 here.

| kind | what it is | which layers |
| --- | --- | --- |
| ``safetensors`` | this library's own file | all |
| ``json`` | plain JSON | all |
| ``npz`` | NumPy's arrays | all |
| ``gguf`` | a control vector of llama.cpp | 2 and above |
| ``repeng`` | a ControlVector of repeng, which is GGUF too | 1 and above |
| ``steering-vectors`` | its ``layer_activations`` by the block's number, as safetensors | 1 and above |

Each holds all of a direction, so that what is exported can be imported unchanged; the last three tools read the vector
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steering.direction import Direction
from steering.errors import DirectionError, LayerWantedError
from steering.exchange_document import FORMAT, direction_of, document_of, reading, tensor_of, whole
from steering.exchange_files import (
    Document,
    json_of,
    parsed_own,
    read_json,
    read_npz,
    read_safetensors,
    write_json,
    write_npz,
    write_steering_vector,
)
from steering.exchange_foreign import ForeignVectors, Imported, foreign_direction
from steering.exchange_gguf import ControlVector, read_control_vector, write_control_vector
from steering.exchange_kinds import KIND_BY_ENDING, KINDS
from steering.whole_files import written_whole

if TYPE_CHECKING:
    from steering.models import ChatModel


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        notes: sentences about what it does not hold, and about what the other tool will not see.
    """

    path: Path
    kind: str
    notes: tuple[str, ...] = ()


def export_direction(direction: Direction, path: str | Path, kind: str | None = None) -> Exported:
    """Write a direction for another tool; reading it back with :func:`import_direction` gives the same direction.

    Args:
        kind: one of ``KINDS``; by default what the file's ending says.

    Raises:
        DirectionError: if the kind is not known, cannot hold a direction of that layer, or the file cannot be written.
    """
    from safetensors import SafetensorError

    path = Path(path)
    kind = _kind(path, kind)
    document, notes = document_of(direction)
    try:
        if kind == "safetensors":
            return Exported(direction.save(path), kind)  # its own form keeps what is not finite too
        with written_whole(path) as partial:
            if kind == "json":
                write_json(partial, document)
            elif kind == "npz":
                write_npz(partial, document)
            else:
                block = block_of(direction, kind)
                if kind == "steering-vectors":
                    write_steering_vector(partial, document, block)
                else:
                    vector = ControlVector(model_hint(direction), {block: document["vector"]}, json_of(document))
                    write_control_vector(partial, vector)
                notes = (*_unseen(direction, kind, block), *notes)
    except (OSError, SafetensorError) as error:
        raise DirectionError(f"{path} cannot be written: {error}. Choose another place.") from error
    return Exported(path, kind, notes)


def import_direction(
    path: str | Path, kind: str | None = None, *, layer: int | None = None, model: ChatModel | None = None
) -> Imported:
    """Read a direction from a file of this library's or of another tool's; nothing is unpickled.

    Where another tool made the file, what it lacks is measured or made up; the notes and the card say what.

    Args:
        kind: one of ``KINDS``; by default what the file's ending says.
        layer: which vector to take where a file has several, by this library's numbers (theirs plus one).
        model: the model it is for; the stream's usual length is measured on it where the file does not say.

    Raises:
        DirectionError: if the file is no such file, is damaged, or does not fit the model or the layer.
    """
    path = Path(path)
    imported = _READERS[_kind(path, kind)](path, layer, model)
    if layer is not None and imported.direction.layer != layer:
        raise DirectionError(
            f"{path.name} has a direction of layer {imported.direction.layer} and none of layer {layer}. "
            "Leave the layer out to take it."
        )
    if model is not None:
        imported.direction.require_fit(model)
    return imported


def block_of(direction: Direction, kind: str) -> int:
    """The block to whose output the direction is added in another tool: its layer less one.

    Raises:
        DirectionError: if the tool cannot add there.
    """
    block = direction.layer - 1
    if block < (1 if kind == "gguf" else 0):
        why = (
            "llama.cpp adds control vectors after the blocks 1 and above, which is from layer 2 on"
            if kind == "gguf"
            else f"{kind} adds to what a block gives, which is from layer 1 on"
        )
        others = "repeng or steering-vectors, which hold layer 1, or " if kind == "gguf" and block == 0 else ""
        raise DirectionError(
            f"“{direction.name}” is added at layer {direction.layer}, but {why}. Export it as {others}json, npz or "
            "safetensors, or compute it at a later layer."
        )
    return block


def model_hint(direction: Direction) -> str:
    """What a file says of the model a direction was made for."""
    return str(direction.card.get("model_hint") or direction.card.get("model_label") or "unknown")


def _kind(path: Path, kind: str | None) -> str:
    found = kind or KIND_BY_ENDING.get(path.suffix.lower())
    if found not in KINDS:
        problem = f"There is no kind “{kind}”" if kind else f"The ending of {path.name} does not say what kind it is"
        raise DirectionError(f"{problem}. Choose one of {', '.join(KINDS)}.")
    return found


def _unseen(direction: Direction, kind: str, block: int) -> tuple[str, ...]:
    """What another tool will not see of a direction, and how it uses the rest."""
    tool = "llama.cpp" if kind == "gguf" else kind
    use = {
        "gguf": f"llama.cpp adds it after block {block}, and the scale there",
        "repeng": f"repeng adds it after block {block}, in a model wrapped as ControlModel(model, [{block}]), and the "
        "coeff there",
        "steering-vectors": "SteeringVector({int(k): v for k, v in load_file(path).items()}) loads it, with load_file "
        "from safetensors.torch, and the multiplier there",
    }[kind]
    start = direction.measured_start
    useful = "" if start is None else f"; {start:.3g} is a useful one"
    basis = "the centred direction" if direction.is_centred else "its unit vector"
    return (
        f"To use it: {use} is the coefficient here{useful}.",
        f"Not seen by {tool}, which only adds: what is taken out ({basis}), the position, the unit of a dose, and the "
        "card. They stand in the file, and are read here.",
    )


def _from_safetensors(path: Path, layer: int | None, model: ChatModel | None) -> Imported:
    found, own = read_safetensors(path)
    if isinstance(found, Direction):
        return Imported(found)
    return _from_blocks(path, found, own, "steering-vectors", "", layer, model)


def _from_gguf(path: Path, layer: int | None, model: ChatModel | None) -> Imported:
    vector = read_control_vector(path)
    return _from_blocks(path, vector.directions, vector.own, "a GGUF control vector", vector.model_hint, layer, model)


def _from_blocks(
    path: Path,
    blocks: dict[int, Any],
    own: str | None,
    source: str,
    hint: str,
    layer: int | None,
    model: ChatModel | None,
) -> Imported:
    """One of the vectors that are added to what blocks give, by the blocks' numbers; ``own`` stands beside our own."""
    if own is None:
        vectors = {block + 1: one for block, one in blocks.items()}
        return foreign_direction(ForeignVectors(vectors, source, path.name, hint), layer=layer, model=model)
    document = parsed_own(own, path)
    with reading(path, "a direction"):
        document["vector"] = np.asarray(blocks[whole(document["layer"]) - 1])
    return Imported(direction_of(document, path))


def _from_json(path: Path, layer: int | None, model: ChatModel | None) -> Imported:
    return _from_document(read_json(path), path, "JSON", layer, model)


def _from_npz(path: Path, layer: int | None, model: ChatModel | None) -> Imported:
    return _from_document(read_npz(path), path, "an .npz file", layer, model)


def _from_document(document: Document, path: Path, source: str, layer: int | None, model: ChatModel | None) -> Imported:
    """A direction of our own, or a “vector” that somebody else put into a file, at the layer that is given or said."""
    if document.get("format") == FORMAT or "vector" not in document:
        return Imported(direction_of(document, path))
    with reading(path, "a vector"):
        said = whole(document["layer"]) if "layer" in document else layer
        if said is None:
            raise LayerWantedError(f"{path.name} does not say at which layer its vector is added. Give it: --layer N.")
        vector = tensor_of(document["vector"]).numpy()
    return foreign_direction(ForeignVectors({said: vector}, source, path.name), layer=said, model=model)


_READERS: dict[str, Callable[[Path, int | None, ChatModel | None], Imported]] = {
    "safetensors": _from_safetensors,
    "steering-vectors": _from_safetensors,
    "json": _from_json,
    "npz": _from_npz,
    "gguf": _from_gguf,
    "repeng": _from_gguf,
}
