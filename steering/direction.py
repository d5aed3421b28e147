"""One idea as a direction in the residual stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from steering.direction_files import read_fields, write_fields
from steering.errors import DirectionError
from steering.neutral_means import NeutralMeans, is_orthonormal, projected_off

if TYPE_CHECKING:
    from steering.models import ChatModel


class SizedModel(Protocol):
    """What a direction must fit: a loaded model, or one that lies on disk."""

    @property
    def label(self) -> str:
        """Its name for people."""

    @property
    def d_model(self) -> int: ...

    @property
    def n_layers(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Direction:
    """One idea as a direction in the residual stream.

    Attributes:
        vector: r, the difference in means as it is, float32 ``[d_model]``; what is **added**, times the coefficient.
        ablation_basis: orthonormal rows, float32 ``[k, d_model]``; what is **ablated**. One row equal to ``unit`` for
            sets of prompts; the centred direction for sets with responses.
        layer: the layer the vector was read at and is added at; ``0 ≤ layer < n_layers``.
        position: the negative index into the post-instruction tokens it was read at, or ``RESPONSE`` (0).
        mean_residual_norm: mean ‖x^(layer)‖ of the negative side at that position; the unit of a dose.
        name: for people.
        card: where it came from: ``model``, ``revision``, ``n_layers``, ``d_model``, ``data``, ``data_sha256``, scores.
        neutral: what is known of the negative side's means, or None: in older files, and where another tool made it.

    Raises:
        DirectionError: if a number is not finite, a norm is not positive, or shapes do not fit.
    """

    vector: Tensor
    ablation_basis: Tensor
    layer: int
    position: int
    mean_residual_norm: float
    name: str = "direction"
    card: dict[str, Any] = field(default_factory=dict)
    neutral: NeutralMeans | None = None

    def __post_init__(self) -> None:
        rank_fits = self.ablation_basis.ndim == 2 and 1 <= len(self.ablation_basis) <= self.ablation_basis.shape[1]
        if self.vector.ndim != 1 or not rank_fits or self.ablation_basis.shape[1] != len(self.vector):
            raise DirectionError(
                f"“{self.name}” has a vector of shape {list(self.vector.shape)} and a basis of shape "
                f"{list(self.ablation_basis.shape)}; they must be [d_model] and [k, d_model] with k from 1 to d_model. "
                "Compute it again."
            )
        # A vector of numbers near the largest has an infinite norm, by which nothing can be divided.
        if not (math.isfinite(self.norm) and torch.isfinite(self.ablation_basis).all()):
            raise DirectionError(
                f"“{self.name}” contains numbers that are not finite (NaN or infinity). Compute it again."
            )
        if self.norm == 0:
            raise DirectionError(
                f"“{self.name}” has zero norm: the two sides do not differ at layer {self.layer}, position "
                f"{self.position}. Choose another layer or position."
            )
        if not (math.isfinite(self.mean_residual_norm) and self.mean_residual_norm > 0):
            raise DirectionError(
                f"“{self.name}” has a mean residual norm of {self.mean_residual_norm}, which must be a positive "
                "number. Compute it again."
            )
        if not is_orthonormal(self.ablation_basis):
            raise DirectionError(f"The basis of “{self.name}” is not orthonormal. Compute the direction again.")
        if self.neutral is not None and self.neutral.axes.shape[1] != len(self.vector):
            raise DirectionError(
                f"“{self.name}” has a vector of width {len(self.vector)} and neutral means of width "
                f"{self.neutral.axes.shape[1]}. Compute it again."
            )

    @property
    def norm(self) -> float:
        """‖r‖."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Tensor:
        """r̂ = r / ‖r‖, float32 ``[d_model]``."""
        return self.vector / self.vector.norm()

    @property
    def ablation_unit(self) -> Tensor:
        """The first row of the ablation basis, float32 ``[d_model]``; cosines are measured against it."""
        return self.ablation_basis[0]

    @property
    def is_centred(self) -> bool:
        """Whether what is ablated differs from what is added."""
        return not torch.allclose(self.ablation_unit, self.unit, atol=1e-5)

    @property
    def measured_start(self) -> float | None:
        """The coefficient at which the slider starts, where it was measured; a stranger's card may hold anything."""
        strength = self.card.get("strength")
        start = strength.get("start") if isinstance(strength, dict) else None
        return float(start) if isinstance(start, int | float) else None

    @property
    def neutral_projections(self) -> Tensor | None:
        """R̂ μ^(l), the negative side's mean at each layer along the ablation basis, float32 ``[n_layers, k]``.

        μ is read at the direction's position. None where it is not known, as for a basis that was put in later.
        """
        return None if self.neutral is None else self.neutral.projections(self.ablation_basis)

    def plain(self) -> Direction:
        """The same direction, ablated as it is instead of centred."""
        return replace(self, ablation_basis=self.unit[None])

    def projected(self) -> Direction:
        """The same direction without what it shares with the negative side's mean; see :func:`projected_off`.

        What is ablated stays as it is.

        Raises:
            DirectionError: if the mean is not known, as in older files, or nothing of the direction is left.
        """
        n_own_axes = 2 if self.is_centred else 1
        if self.neutral is None or len(self.neutral.axes) <= n_own_axes:
            raise DirectionError(
                f"“{self.name}” does not say where its negative side's mean lies: it was made by an older version or "
                "another tool. Compute it again from its contrast set."
            )
        vector = projected_off(self.vector, self.neutral.mean_at(self.layer))
        return replace(self, vector=vector, card={**self.card, "projected": True})

    def dose(self, coefficient: float) -> float:
        """How long the added vector is, in units of the residual stream's usual length there: c·‖r‖ / mean ‖x‖."""
        return coefficient * self.norm / self.mean_residual_norm

    def coefficient(self, dose: float) -> float:
        """The coefficient c that gives ``dose``; the inverse of :meth:`dose`."""
        return dose * self.mean_residual_norm / self.norm

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file; everything but the tensors is JSON in its metadata."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return write_fields(own | {"card": {**self.card, "norm": self.norm}}, Path(path))

    @classmethod
    def load(cls, path: str | Path, model: ChatModel | None = None) -> Direction:
        """Read a file written by :meth:`save`, also an older one without ``neutral``; nothing is unpickled.

        Raises:
            DirectionError: if it is no such file, is damaged, or was made for a model of another width or depth.
        """
        direction = cls(**read_fields(Path(path)))
        if model is not None:
            direction.require_fit(model)
        return direction

    def require_fit(self, model: SizedModel) -> None:
        """Raise DirectionError unless width and depth are those of ``model``."""
        width, depth = len(self.vector), self.card.get("n_layers", model.n_layers)
        if self.neutral is not None and depth == model.n_layers:
            depth = len(self.neutral.components)
        if width != model.d_model or depth != model.n_layers or not 0 <= self.layer < model.n_layers:
            raise DirectionError(
                f"“{self.name}” was made for a model of width {width} with {depth} layers (layer {self.layer}); "
                f"{model.label} has width {model.d_model} and {model.n_layers} layers. Load the model it was made for."
            )
