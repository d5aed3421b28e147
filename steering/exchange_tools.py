"""Directions to and from objects of repeng and steering-vectors, of which neither is needed but where it is asked for.

Both add to what a block gives: their block N is layer N + 1 here (``ControlModule.forward`` in repeng's
``control.py``, ``SteeringVector.patch_activations`` in steering-vectors' ``steering_vector.py``). With ``coeff`` or
``multiplier`` c they give just what an addition with the coefficient c gives here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from steering.direction import Direction
from steering.errors import DirectionError, SteeringError
from steering.exchange import block_of, model_hint
from steering.exchange_document import UNREADABLE
from steering.exchange_files import LAYER_TYPE
from steering.exchange_foreign import ForeignVectors, Imported, foreign_direction

if TYPE_CHECKING:
    from steering.models import ChatModel


def as_repeng(direction: Direction) -> tuple[str, dict[int, npt.NDArray[np.float32]]]:
    """What repeng's ControlVector is made of: its model_type, and float32 ``[d_model]`` by the block's number.

    Raises:
        DirectionError: for layer 0, which no block gives.
    """
    block = block_of(direction, "repeng")
    return model_hint(direction), {block: direction.vector.float().cpu().numpy().copy()}


def to_repeng(direction: Direction) -> Any:
    """A ``repeng.ControlVector``. It is for the one block: wrap the model as ``ControlModel(model, [block])``.

    Raises:
        SteeringError: if repeng is not installed.
        DirectionError: for layer 0.
    """
    model_type, directions = as_repeng(direction)
    return _installed("repeng").ControlVector(model_type=model_type, directions=directions)


def from_repeng(vector: Any, *, layer: int | None = None, model: ChatModel | None = None) -> Imported:
    """One layer of a ``repeng.ControlVector``, or of what :func:`as_repeng` gives; its basis and norm are made up.

    Raises:
        DirectionError: if there are several layers and none is given, or it does not fit the model.
    """
    model_type, directions = vector if isinstance(vector, tuple) else (vector.model_type, vector.directions)
    return _from_blocks(directions, "repeng", str(model_type), layer, model)


def to_steering_vector(direction: Direction) -> Any:
    """A ``steering_vectors.SteeringVector`` of one block.

    Raises:
        SteeringError: if steering-vectors is not installed.
        DirectionError: for layer 0.
    """
    block = block_of(direction, "steering-vectors")
    made = _installed("steering_vectors").SteeringVector
    return made(layer_activations={block: direction.vector.clone()}, layer_type=LAYER_TYPE)


def from_steering_vector(vector: Any, *, layer: int | None = None, model: ChatModel | None = None) -> Imported:
    """One layer of a ``steering_vectors.SteeringVector``; its basis and norm are made up.

    Raises:
        DirectionError: if it acts on anything but whole blocks, there are several layers and none is given, or it does
            not fit the model.
    """
    if vector.layer_type != LAYER_TYPE:
        raise DirectionError(
            f"This steering vector acts on “{vector.layer_type}”; only what is added to what whole blocks give "
            f"(“{LAYER_TYPE}”) is a direction here. Train it on “{LAYER_TYPE}”."
        )
    return _from_blocks(vector.layer_activations, "steering-vectors", "", layer, model)


def _from_blocks(blocks: Any, source: str, hint: str, layer: int | None, model: ChatModel | None) -> Imported:
    try:
        vectors = {int(block) + 1: _as_array(one) for block, one in blocks.items()}
    except UNREADABLE as error:
        raise DirectionError(f"This object of {source} does not hold vectors by blocks: {error}.") from error
    return foreign_direction(ForeignVectors(vectors, source, source, hint), layer=layer, model=model)


def _as_array(vector: Any) -> npt.NDArray[np.float32]:
    if isinstance(vector, torch.Tensor):  # bfloat16 among them, which NumPy does not know
        vector = vector.detach().float().cpu().numpy()
    return np.array(vector, dtype=np.float32).reshape(-1)


def _installed(package: str) -> Any:
    try:
        return import_module(package)
    except Exception as error:  # an old one may trip over a newer NumPy while it is imported
        name = package.replace("_", "-")
        raise SteeringError(f"{name} cannot be imported here ({error}). Install it: pip install {name}.") from error
