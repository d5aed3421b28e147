"""Vectors that other tools made, as directions: what a direction needs and they do not say is measured or made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from steering.activations import class_means
from steering.contrast_examples import Example
from steering.direction import Direction
from steering.errors import DirectionError, LayerWantedError
from steering.exchange_document import DEEPEST_MODEL

if TYPE_CHECKING:
    from steering.models import ChatModel

# What people ask every day, over which the stream's usual length is measured.
EVERYDAY = (
    "Why is the sky blue?",
    "How do I make pancakes?",
    "What can I do on a rainy Sunday?",
    "Tell me about rivers.",
    "How long does it take to learn to swim?",
    "Write a short note to thank a neighbour.",
    "What is the difference between a town and a city?",
    "Which tools do I need to plant a tree?",
)
POSITION = -1  # the last token of the prompt, where the reply begins


@dataclass(frozen=True, eq=False)
class Imported:
    """A direction that was read.

    Attributes:
        notes: sentences about what the file did not say, and what stands in its place.
    """

    direction: Direction
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ForeignVectors:
    """Vectors without what belongs to them.

    Attributes:
        vectors: for each of this library's layers what is added there, floats ``[d_model]``.
        source: the kind of file or object, for the card.
        name: the file's, for people.
        model_hint: what is said of the model they were made for.
    """

    vectors: Mapping[int, npt.NDArray[Any]]
    source: str
    name: str
    model_hint: str = ""


def foreign_direction(foreign: ForeignVectors, *, layer: int | None = None, model: ChatModel | None = None) -> Imported:
    """One of the vectors as a direction.

    What is ablated is the unit vector. The stream's mean norm is measured at the last token of everyday prompts if
    there is a model, else the vector's own norm stands in, so that a dose is a coefficient then.

    Args:
        layer: which of them, by this library's numbers; it may be left out where there is one only.

    Raises:
        DirectionError: if there is none, there are several and no layer is given, or it does not fit the model.
    """
    n_layers = DEEPEST_MODEL if model is None else model.n_layers
    vectors = {at: one for at, one in foreign.vectors.items() if 0 <= at < n_layers}
    layers = sorted(vectors)
    if not layers:
        raise DirectionError(f"{foreign.name} has no vector for a layer of {model.label if model else 'any model'}.")
    if layer is None and len(layers) > 1:
        raise LayerWantedError(
            f"{foreign.name} has vectors for the layers {as_ranges(layers)}. Say which: layer=N (--layer N).", layers
        )
    layer = layers[0] if layer is None else layer
    if layer not in vectors:
        raise DirectionError(
            f"{foreign.name} has no vector for layer {layer}, but for {as_ranges(layers)}. Choose one of these."
        )
    vector = torch.tensor(vectors[layer], dtype=torch.float32)  # a copy, which nobody else can change
    exact = vector.double()
    length = float(exact.norm())
    if vector.ndim != 1 or not 0 < length < float("inf"):
        raise DirectionError(
            f"{foreign.name} has at layer {layer} a vector of shape {list(vector.shape)} and length {length}; it must "
            "be [d_model], of finite numbers that are not all zero. Export it again."
        )
    file_name = foreign.name.encode(errors="replace").decode()  # a name may have bytes that are no text
    card: dict[str, Any] = {"d_model": len(vector), "source": foreign.source, "source_name": file_name}
    if foreign.model_hint:
        card["model_hint"] = foreign.model_hint[:200]
    notes = [
        "What it takes out is the vector's own unit vector: the file says of nothing else.",
        "Which token it was read at is not known; the last one of the prompt stands for it.",
    ]
    norm = length
    if model is None:
        card["mean_residual_norm"] = "not known; the vector's own norm stands in"
        notes.append(
            "How long the stream usually is there is not known, so a dose is counted in the vector's own length. "
            "Give the model to measure it."
        )
    else:
        if len(vector) != model.d_model:
            raise DirectionError(
                f"{foreign.name} has vectors of width {len(vector)}; {model.label} has width {model.d_model}. Load the "
                "model they were made for."
            )
        norm = mean_residual_norm(model, layer)
        card |= {"model": model.name, "model_label": model.label, "revision": model.revision}
        card |= {"n_layers": model.n_layers}
        card["mean_residual_norm"] = f"measured over {len(EVERYDAY)} everyday prompts"
        notes.append(
            f"The stream's usual length there, {norm:.4g}, was measured over {len(EVERYDAY)} everyday prompts."
        )
    direction = Direction(
        vector=vector,
        ablation_basis=(exact / length).float()[None],
        layer=layer,
        position=POSITION,
        mean_residual_norm=norm,
        name=file_name.rpartition(".")[0][:80] or file_name[:80],
        card=card,
    )
    return Imported(direction, tuple(notes))


def mean_residual_norm(model: ChatModel, layer: int) -> float:
    """Mean ‖x^(layer)‖ at the last token of everyday prompts, in the stream's own units."""
    examples = [Example(({"role": "user", "content": text},)) for text in EVERYDAY]
    (means,) = class_means(model, [examples])
    return float(means.norms[means.positions.index(POSITION), layer])


def as_ranges(numbers: list[int]) -> str:
    """Increasing numbers in words, such as “2 to 5, 9”; no more than ten ranges."""
    ranges: list[list[int]] = []
    for one in numbers:
        if ranges and one == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], one]
        else:
            ranges.append([one])
    words = [" to ".join(map(str, one)) for one in ranges]
    return ", ".join(words[:10]) + (" and others" if len(words) > 10 else "")
