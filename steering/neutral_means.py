"""The negative side's mean activations: what is kept of them, and vectors without what they share with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import DirectionError

# How many singular vectors of the neutral side's mean activations a centred direction is made orthogonal to.
CENTRING_RANK = 12


@dataclass(frozen=True, eq=False)
class NeutralMeans:
    """Where the negative side's mean activations μ^(l) lie along a few axes, at every layer.

    The whole means would make a direction's file a hundred times as large, and interventions ask only how far they
    reach along what is taken out. The axes are kept beside the numbers, so that another basis gets numbers of its own.

    Attributes:
        axes: orthonormal rows, float32 ``[n_axes, d_model]``.
        components: μ^(l) · axis, float32 ``[n_layers, n_axes]``, in the stream's own units.

    Raises:
        DirectionError: if shapes do not fit, a number is not finite, or the axes are not orthonormal.
    """

    axes: Tensor
    components: Tensor

    def __post_init__(self) -> None:
        axes, components = list(self.axes.shape), list(self.components.shape)
        if len(axes) != 2 or not 1 <= axes[0] <= axes[1] or len(components) != 2 or components[1] != axes[0]:
            raise DirectionError(
                f"The neutral means of a direction have axes of shape {axes} and components of shape {components}; "
                "they must be [n_axes, d_model] and [n_layers, n_axes]. Compute it again."
            )
        if not (torch.isfinite(self.components).all() and is_orthonormal(self.axes)):
            raise DirectionError(
                "The neutral means of a direction have numbers that are not finite, or axes that are not orthonormal. "
                "Compute it again."
            )

    @classmethod
    def along(cls, vectors: Tensor, means: Tensor) -> NeutralMeans:
        """Keep of ``means``, ``[n_layers, d_model]``, what lies in the span of ``vectors``, ``[n, d_model]``."""
        _, lengths, rows = torch.linalg.svd(vectors.double(), full_matrices=False)
        axes = rows[lengths > 1e-6 * lengths[0]]
        return cls(axes.float().contiguous(), (means.double() @ axes.T).float().contiguous())

    def mean_at(self, layer: int) -> Tensor:
        """μ^(layer) as far as it lies along the axes, float32 ``[d_model]``."""
        return (self.components[layer].double() @ self.axes.double()).float()

    def projections(self, basis: Tensor) -> Tensor | None:
        """R̂ μ^(l) for orthonormal rows R̂, ``[k, d_model]``: float32 ``[n_layers, k]``.

        None if they lead out of the axes' span, for there the means are not known.
        """
        axes = self.axes.double()
        inside = basis.double() @ axes.T
        if not float((inside @ axes - basis).norm(dim=-1).max()) < 1e-3:
            return None
        return (self.components.double() @ inside.T).float()


def projected_off(vector: Tensor, neutral_mean: Tensor) -> Tensor:
    """r − (r · μ̂) μ̂, the part of r orthogonal to the negative side's mean at the same place; float32 ``[d_model]``.

    What r shares with the mean tells how strongly the model does what it does anyway, rather than what sets the idea
    apart. Source: J. Lai, "Projected Abliteration", 2025 (huggingface.co/blog/grimjim/projected-abliteration).

    Args:
        vector: r, ``[d_model]``.
        neutral_mean: μ, ``[d_model]``.
    """
    exact, mean = vector.double(), neutral_mean.double()
    mean_unit = mean / mean.norm().clamp_min(1e-12)
    return (exact - (exact @ mean_unit) * mean_unit).float()


def centred(vector: Tensor, neutral_means: Tensor, rank: int = CENTRING_RANK) -> Tensor:
    """r without its part in the span of the neutral side's mean activations.

    The span is that of the first ``rank`` right singular vectors of the unit means of all layers. Written replies share
    a large common part with all text; ablating it as well can turn the idea up instead of taking it out.

    Args:
        vector: ``[d_model]``.
        neutral_means: ``[n_layers, d_model]``.

    Returns:
        ``[d_model]``, orthogonal to the span, not normalised.
    """
    means = neutral_means.double()
    unit_means = means / means.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    span = torch.linalg.svd(unit_means, full_matrices=False).Vh[: min(rank, len(means) - 1)]
    exact = vector.double()
    return (exact - span.T @ (span @ exact)).float()


def is_orthonormal(rows: Tensor) -> bool:
    """Whether ``rows``, ``[k, d_model]``, have unit length and are orthogonal to each other, to three digits."""
    return torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-3)
