"""What is done to each tensor that writes to the residual stream, so that it cannot write along a direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.checkpoints import Checkpoint
from steering.tensor_files import StoredTensor

# How much of g's mean square is added to g² below: enough that factors near zero do not blow an edit up.
RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class Ablate:
    """x ← x − U V x with V U = 1, for every vector x along one axis of a tensor.

    Attributes:
        axis: -2 (the columns of matrices) or -1 (a bias, or the rows of an embedding).
        into: U, ``[d_model, k]``; R̂ᵀ where nothing stands between the tensor and the stream.
        along: V, ``[k, d_model]``; R̂ there.
    """

    axis: int
    into: Tensor
    along: Tensor

    def pieces(self, source: StoredTensor) -> Iterator[Tensor]:
        """The edited tensor by rows, of the source's number type; each piece is valid until the next."""
        for begin, end in self._parts(source):
            inside = self._inside(source, begin, end) if self.axis == -2 else None
            stored = None
            for first, last, rows in source.rows(begin, end):
                if inside is None:
                    rows.addmm_(rows @ self.along.T.to(rows.dtype), self.into.T.to(rows.dtype), alpha=-1)
                else:
                    rows.addmm_(self.into[first - begin : last - begin].to(rows.dtype), inside, alpha=-1)
                if stored is None:
                    stored = torch.empty_like(rows, dtype=source.number_type)
                yield stored[: len(rows)].copy_(rows)

    def complaint(self, source: StoredTensor, written: StoredTensor) -> str:
        """What is wrong with an edited tensor; nothing if it is right."""
        left = rounded = 0.0
        reach, limits = self.along.square().sum(dim=0), torch.finfo(written.number_type)
        for begin, end in self._parts(written):
            left += float(self._inside(written, begin, end).square().sum())
            for first, last, rows in written.rows(begin, end):
                sums = rows.square_().sum(dim=1 if self.axis == -2 else 0)
                factor = reach[first - begin : last - begin] if self.axis == -2 else reach
                rounded += float(sums @ factor.to(sums.dtype))
        # What rounding to the tensor's type can leave, and, where that is not enough, rounding in float32.
        rounded += limits.tiny**2 * written.nbytes
        if left**0.5 <= 8 * limits.eps * rounded**0.5:
            return ""
        before = sum(float(self._inside(source, *part).square().sum()) for part in self._parts(source))
        if left**0.5 <= 8 * limits.eps * rounded**0.5 + 1e-5 * before**0.5:
            return ""
        return "still writes along the direction, or holds numbers that are none"

    def inside(self, tensor: StoredTensor) -> Tensor:
        """V W, ``[k, in]``, of a matrix; of several, of experts, one after the other."""
        return torch.cat([self._inside(tensor, *part) for part in self._parts(tensor)])

    def _parts(self, tensor: StoredTensor) -> Iterator[tuple[int, int]]:
        """First and last rows of each matrix: of every expert's, or the only one."""
        width = self.along.shape[1] if self.axis == -2 else tensor.n_rows
        for begin in range(0, tensor.n_rows, width):
            yield begin, begin + width

    def _inside(self, tensor: StoredTensor, begin: int, end: int) -> Tensor:
        """V x for every vector x of one matrix: ``[k, in]``, or ``[rows, k]``."""
        parts: list[Tensor] = []
        for first, last, rows in tensor.rows(begin, end):
            along = self.along.to(rows.dtype)
            if self.axis == -1:
                parts.append(rows @ along.T)
            else:
                part = along[:, first - begin : last - begin] @ rows
                parts = [parts[0].add_(part)] if parts else [part]
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Add:
    """x ← x + v for every row x of a tensor: an embedding, or a bias that is there already.

    Attributes:
        vector: v, ``[d_model]``.
    """

    vector: Tensor

    def pieces(self, source: StoredTensor) -> Iterator[Tensor]:
        """The edited tensor by rows, of the source's number type."""
        for _, _, rows in source.rows(0, source.n_rows):
            yield (rows + self.vector.to(rows.dtype)).to(source.number_type)

    def complaint(self, source: StoredTensor, written: StoredTensor) -> str:
        """What is wrong with an edited tensor; nothing if it is right."""
        found = written.rows(0, written.n_rows)
        for expected, (_, _, rows) in zip(self.pieces(source), found, strict=True):
            if not (torch.isfinite(expected).all() and torch.equal(rows, expected.to(rows.dtype))):
                return "is not the source's with the vector added, or holds numbers that are none"
        return ""


TensorEdit = Ablate | Add


def weight_edits(checkpoint: Checkpoint, basis: Tensor) -> dict[str, TensorEdit]:
    """What is done to each tensor that writes to the stream."""
    # A direction's basis may be orthonormal to three digits only, and what is left behind must not depend on that.
    rows = torch.linalg.qr(basis.double().T).Q.T  # R̂, [k, d_model]
    factors = _norm_factors(checkpoint)
    return {
        name: Ablate(write.axis, rows.T, rows)
        if write.norm is None
        else _edit_before_norm(write.axis, rows, factors[write.norm])
        for name, write in checkpoint.writes.items()
    }


def _edit_before_norm(axis: int, rows: Tensor, factor: Tensor) -> Ablate:
    """The edit of what a norm with the factors g multiplies, y, such that R̂ (g ⊙ y) = 0.

    Of all such y' it is the one with the smallest ‖g ⊙ (y' − y)‖² + λ‖y' − y‖², with A = R̂ diag(g):
    y' = y − U V y, U = (diag(g)² + λ)⁻¹ Aᵀ, V = (A U)⁻¹ A. With λ = 0 g ⊙ y' would be the ablated g ⊙ y exactly, but
    where a factor is near zero y' would become so long that the norm, which divides by its length, shrinks all else.
    """
    reads = rows * factor
    ridge = RIDGE * factor.square().mean()
    into = (reads / (factor.square() + ridge)).T
    return Ablate(axis, into, torch.linalg.solve(reads @ into, reads))


def _norm_factors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """g of every norm between a projection and the stream, float64 ``[d_model]``, by the name of its weight."""
    offset = checkpoint.layout.norm_offset
    names = {write.norm for write in checkpoint.writes.values() if write.norm}
    return {name: _vector(checkpoint.tensors[name]) + (offset or 0) for name in sorted(names)}


def _vector(stored: StoredTensor) -> Tensor:
    ((_, _, rows),) = stored.rows(0, 1)
    return rows[0].double()
