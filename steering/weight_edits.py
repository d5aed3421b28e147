"""What is done to each tensor that writes to the residual stream, so that it cannot write along a direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steering.checkpoints import Checkpoint, opened

# How much of g's mean square is added to g² below: enough that factors near zero do not blow an edit up.
RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class Edit:
    """x ← x − U V x with V U = 1, for every vector x along one axis of a tensor.

    Attributes:
        axis: -2 (the columns of matrices) or -1 (a bias, or the rows of an embedding).
        into: U, ``[d_model, k]``; R̂ᵀ where nothing stands between the tensor and the stream.
        along: V, ``[k, d_model]``; R̂ there.
    """

    axis: int
    into: Tensor
    along: Tensor

    def inside(self, weight: Tensor) -> Tensor:
        """V x, what is to be taken out: ``[…, k, in]``, or ``[…, k]`` if d_model is the last axis; float32."""
        exact = weight.to(_exact(weight))
        along = self.along.to(exact.dtype)
        return along @ exact if self.axis == -2 else exact @ along.T

    def apply(self, weight: Tensor) -> Tensor:
        """The edited tensor, a new one of the same type."""
        inside = self.inside(weight)
        into = self.into.to(inside.dtype)
        exact = weight.to(inside.dtype, copy=True)
        exact -= into @ inside if self.axis == -2 else inside @ into.T
        return exact.to(weight.dtype).contiguous()

    def tolerance(self, before: Tensor, after: Tensor) -> float:
        """How long :meth:`inside` of an edited tensor may be: what rounding to its type, and in float32, can leave."""
        limits = torch.finfo(after.dtype)
        per_entry = after.to(_exact(after)).abs().clamp_min(limits.tiny)
        reach = self.along.norm(dim=0).to(per_entry.dtype)
        per_entry *= reach[:, None] if self.axis == -2 else reach
        return float(8 * limits.eps * per_entry.norm() + 1e-5 * self.inside(before).norm())


def _exact(weight: Tensor) -> torch.dtype:
    """The type to compute in: float32, or float64 where the weights are."""
    return torch.promote_types(weight.dtype, torch.float32)


def weight_edits(checkpoint: Checkpoint, basis: Tensor) -> dict[str, Edit]:
    """What is done to each tensor that writes to the stream."""
    # A direction's basis may be orthonormal to three digits only, and what is left behind must not depend on that.
    rows = torch.linalg.qr(basis.double().T).Q.T  # R̂, [k, d_model]
    factors = _norm_factors(checkpoint)
    return {
        name: Edit(write.axis, rows.T, rows)
        if write.norm is None
        else _edit_before_norm(write.axis, rows, factors[write.norm])
        for name, write in checkpoint.writes.items()
    }


def _edit_before_norm(axis: int, rows: Tensor, factor: Tensor) -> Edit:
    """The edit of what a norm with the factors g multiplies, y, such that R̂ (g ⊙ y) = 0.

    Of all such y' it is the one with the smallest ‖g ⊙ (y' − y)‖² + λ‖y' − y‖², with A = R̂ diag(g):
    y' = y − U V y, U = (diag(g)² + λ)⁻¹ Aᵀ, V = (A U)⁻¹ A. With λ = 0 g ⊙ y' would be the ablated g ⊙ y exactly, but
    where a factor is near zero y' would become so long that the norm, which divides by its length, shrinks all else.
    """
    reads = rows * factor
    ridge = RIDGE * factor.square().mean()
    into = (reads / (factor.square() + ridge)).T
    return Edit(axis, into, torch.linalg.solve(reads @ into, reads))


def _norm_factors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """g of every norm between a projection and the stream, float64 ``[d_model]``, by the name of its weight."""
    offset = checkpoint.layout.norm_offset
    names = {write.norm for write in checkpoint.writes.values() if write.norm}
    factors: dict[str, Tensor] = {}
    for shard, held in checkpoint.shards.items():
        with opened(checkpoint.folder / shard) as file:
            factors |= {name: file.get_tensor(name).double() + (offset or 0) for name in held if name in names}
    return factors
