"""The interventions of the rows of one batch as arithmetic on the residual stream, and the cosines of what is there.

Whoever runs a forward pass calls the same functions: hooks on transformers' modules (`interventions`), and the decode
step of our own. Tensors are ``[rows, tokens, d_model]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steering.directions import Direction
from steering.row_interventions import Added, ablated_basis, additions, affine, cappings, padded_bases
from steering.variants import Addition, Variant


class StreamEdits:
    """What is done to the stream in each row of a batch, at the entry of every block and on every write.

    Args:
        variants: one per row.
        probes: the direction whose cosine is measured in each row, or None for none.
    """

    def __init__(self, n_layers: int, variants: Sequence[Variant], probes: Sequence[Direction | None]) -> None:
        self._n_layers = n_layers
        self._variants = tuple(variants)
        self._additions: dict[int, Added] = {}
        self._strengths: list[float] | None = None
        self._cappings = cappings(variants, n_layers)
        self._affine = affine(variants)
        self._basis = ablated_basis(variants)
        self._probe = padded_bases([None if probe is None else probe.ablation_basis for probe in probes])
        # A probe of one row has a sign; of a basis only the length of the part inside it can be told.
        self._signed = torch.tensor([probe is None or len(probe.ablation_basis) == 1 for probe in probes])
        self._placed: dict[tuple[Any, ...], Tensor] = {}

    @property
    def ablates(self) -> bool:
        """Whether any row ablates, so that :meth:`written` is needed."""
        return self._basis is not None

    def acts_at(self, layer: int) -> bool:
        """Whether anything but :meth:`written`, which acts on all that it is made of, acts on what enters a block."""
        return layer in self._additions or bool(self._cappings) or self._affine is not None

    def refresh(self) -> None:
        """Make anew what is added, if a coefficient has changed since the last pass. Call it before each pass."""
        strengths = [i.strength for v in self._variants for i in v.interventions if isinstance(i, Addition)]
        if strengths != self._strengths:
            self._strengths = strengths
            stale = {id(tensor) for added in self._additions.values() for tensor in (added.delta, added.keeps_norm)}
            self._placed = {key: placed for key, placed in self._placed.items() if key[0] not in stale}
            self._additions = additions(self._variants)

    def entered(self, layer: int, hidden: Tensor) -> Tensor:
        """The stream entering block ``layer`` after the interventions there, ``[rows, tokens, d_model]``."""
        added = self._additions.get(layer)
        # The embedding is a write too. Ablated last it is early enough for additions, not for what looks at the stream.
        looks = (added is not None and added.keeps_norm is not None) or self._cappings or self._affine is not None
        if layer == 0 and looks:
            hidden = self.written(hidden)
        if added is not None:
            hidden = self._add(hidden, added)
        for capping in self._cappings:
            threshold = capping.thresholds[layer]
            if threshold is not None:
                hidden = self._cap(hidden, capping.unit, threshold)
        if self._affine is not None:
            hidden = self._project_out(hidden, self._affine.basis, self._affine.targets[layer])
        hidden = self.written(hidden)
        # What was added along an ablated direction may be far longer than what is left: once leaves its rounding.
        return hidden if added is None else self.written(hidden)

    def written(self, x: Tensor) -> Tensor:
        """What a module adds to the stream, without what its row ablates; ``[rows, tokens, d_model]``."""
        return x if self._basis is None else self._project_out(x, self._basis)

    def cosines(self, newest: Sequence[Tensor]) -> Tensor:
        """Cosine of each row's newest token with its probe at each layer, float32 ``[rows, n_layers]`` on the CPU.

        cos(x^(l), r̂) for one direction; for a basis of k the length of the part inside it over the whole, in [0, 1].
        Zero in rows without a probe.

        Args:
            newest: the stream entering each block after the interventions, ``[rows, d_model]`` a layer.
        """
        device = newest[0].device
        stacked = torch.stack([x.to(device) for x in newest]).float()  # [n_layers, rows, d_model]
        if self._probe is None:
            return torch.zeros(stacked.shape[1], stacked.shape[0])
        probe = self._place(self._probe, stacked)
        length = stacked.norm(dim=-1).clamp_min(1e-12)
        if probe.shape[1] == 1:
            return ((stacked * probe[:, 0]).sum(dim=-1) / length).T.cpu()
        inside = torch.einsum("lrd,rkd->lrk", stacked, probe)
        part = torch.where(self._signed.to(device), inside[..., 0], inside.norm(dim=-1))
        return (part / length).T.cpu()

    def _add(self, x: Tensor, added: Added) -> Tensor:
        """x + c r for each row, in float32; with the norm of x in rows that keep it."""
        delta = self._place(added.delta, x)
        exact = x.to(delta.dtype)
        moved = exact + delta
        if added.keeps_norm is not None:
            ratio = exact.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            moved = moved * torch.where(self._place(added.keeps_norm, x) > 0, ratio, 1.0)
        return moved.to(x.dtype)

    def _cap(self, x: Tensor, unit: Tensor, threshold: Tensor) -> Tensor:
        """x − max(⟨x, r̂⟩ − τ, 0) r̂ for each row, in float32; rows without a capping keep every bit."""
        unit, threshold = self._place(unit, x), self._place(threshold, x)
        exact = x.to(unit.dtype)
        excess = ((exact * unit).sum(dim=-1, keepdim=True) - threshold).clamp_min(0)
        return torch.addcmul(exact, excess, unit, value=-1).to(x.dtype)

    def _project_out(self, x: Tensor, stored_basis: Tensor, target: Tensor | None = None) -> Tensor:
        """x − R̂ᵀ(R̂ x − target) for each row, in float32; target is ``[rows, 1, k]``.

        Rows whose basis is zero keep every bit.
        """
        basis = self._place(stored_basis, x)
        exact = x if x.dtype == basis.dtype else x.to(basis.dtype)
        if basis.shape[1] == 1:  # by far the most frequent; for one token a matrix product costs four times as much
            inside = (exact * basis).sum(dim=-1, keepdim=True)
            if target is not None:
                inside = inside - self._place(target, x)
            return torch.addcmul(exact, inside, basis, value=-1).to(x.dtype)
        inside = exact @ basis.mT
        if target is not None:
            inside = inside - self._place(target, x)
        return torch.baddbmm(exact, inside, basis, alpha=-1).to(x.dtype)

    def _place(self, tensor: Tensor, like: Tensor) -> Tensor:
        """``tensor`` on the device of ``like``, in float32 (float64 where the model is); moved once and kept."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (id(tensor), like.device, dtype)
        if key not in self._placed:
            self._placed[key] = tensor.to(like.device, dtype)
        return self._placed[key]
