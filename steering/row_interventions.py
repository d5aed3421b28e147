"""The interventions of the rows of one batch as tensors, one row a variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import DirectionError
from steering.variants import Ablation, Addition, AffineAblation, Capping, Variant, require_neutral_projections


@dataclass(frozen=True, eq=False)
class Added:
    """What is added at one layer: float32 ``[rows, 1, d_model]``, and 1 for rows that keep their norm, if any does."""

    delta: Tensor
    keeps_norm: Tensor | None  # [rows, 1, 1]


@dataclass(frozen=True, eq=False)
class Capped:
    """One capping of each row: r̂, float32 ``[rows, 1, d_model]``, and for each layer τ, ``[rows, 1, 1]``, if any."""

    unit: Tensor
    thresholds: list[Tensor | None]


@dataclass(frozen=True, eq=False)
class Affine:
    """All that each row ablates affinely: float32 ``[rows, k, d_model]``; for each layer R̂ μ, ``[rows, 1, k]``."""

    basis: Tensor
    targets: list[Tensor]


def additions(variants: Sequence[Variant]) -> dict[int, Added]:
    """For each layer with an addition, what is added to each row."""
    deltas: dict[int, Tensor] = {}
    keepers: dict[int, Tensor] = {}
    for row, variant in enumerate(variants):
        for intervention in variant.interventions:
            if isinstance(intervention, Addition) and intervention.strength != 0:
                vector, layer = intervention.direction.vector, intervention.direction.layer
                delta = deltas.setdefault(layer, torch.zeros(len(variants), 1, len(vector)))
                delta[row, 0] += intervention.strength * vector
                if intervention.keep_norm:
                    keepers.setdefault(layer, torch.zeros(len(variants), 1, 1))[row] = 1
    return {layer: Added(delta, keepers.get(layer)) for layer, delta in deltas.items()}


def cappings(variants: Sequence[Variant], n_layers: int) -> list[Capped]:
    """The first capping of each row, the second of each, and so on."""
    of_rows = [[i for i in variant.interventions if isinstance(i, Capping)] for variant in variants]
    capped = []
    for turn in range(max(map(len, of_rows), default=0)):
        acting = {row: own[turn] for row, own in enumerate(of_rows) if turn < len(own)}
        unit = torch.zeros(len(variants), 1, len(next(iter(acting.values())).direction.vector))
        thresholds = torch.full((n_layers, len(variants), 1, 1), math.inf)
        for row, capping in acting.items():
            unit[row, 0] = capping.direction.ablation_unit
            thresholds[:, row, 0, 0] = torch.tensor(capping.thresholds(n_layers))
        capped.append(Capped(unit, [None if bool((layer == math.inf).all()) else layer for layer in thresholds]))
    return capped


def affine(variants: Sequence[Variant]) -> Affine | None:
    """What the rows ablate affinely, or None if none does."""
    joint = [_joint_affine(variant) for variant in variants]
    basis = padded_bases([None if row is None else row[0] for row in joint])
    if basis is None:
        return None
    n_layers = next(len(row[1]) for row in joint if row is not None)
    targets = torch.zeros(n_layers, len(variants), 1, basis.shape[1])
    for row, found in enumerate(joint):
        if found is not None:
            targets[:, row, 0, : len(found[0])] = found[1]
    return Affine(basis, list(targets))


def _joint_affine(variant: Variant) -> tuple[Tensor, Tensor] | None:
    """An orthonormal basis R̂ of all that the variant ablates affinely, ``[k, d_model]``, and its targets, or None.

    The targets are R̂ x at each layer, ``[n_layers, k]``, for an x that satisfies every one of the ablations.
    """
    directions = [i.direction for i in variant.interventions if isinstance(i, AffineAblation)]
    if not directions:
        return None
    wanted = [require_neutral_projections(direction) for direction in directions]
    if len(directions) == 1:
        return directions[0].ablation_basis, wanted[0]
    # With the bases stacked as S = U Σ V, S x = wanted means V x = Σ⁻¹ Uᵀ wanted. Rows as good as equal count once, or
    # what little they differ would be blown up.
    stacked = torch.cat([direction.ablation_basis for direction in directions]).double()
    left, lengths, rows = torch.linalg.svd(stacked, full_matrices=False)
    kept = lengths > 1e-3 * lengths[0]
    targets = torch.cat(wanted, dim=1).double() @ left[:, kept] / lengths[kept]
    return rows[kept].float(), targets.float()


def ablated_basis(variants: Sequence[Variant]) -> Tensor | None:
    """A basis of all that each row ablates, float32 ``[rows, k, d_model]``; unused rows are zero. None if none does."""
    return padded_bases([_joint_basis(variant) for variant in variants])


def padded_bases(bases: Sequence[Tensor | None]) -> Tensor | None:
    """One basis a row as one tensor, float32 ``[rows, k, d_model]``; unused rows are zero. None if there is none."""
    widest = max((len(basis) for basis in bases if basis is not None), default=0)
    if widest == 0:
        return None
    d_model = next(basis.shape[1] for basis in bases if basis is not None)
    joint = torch.zeros(len(bases), widest, d_model)
    for row, basis in enumerate(bases):
        if basis is not None:
            joint[row, : len(basis)] = basis
    return joint


def _joint_basis(variant: Variant) -> Tensor | None:
    """An orthonormal basis of the span of the variant's ablations, ``[k, d_model]``, or None."""
    parts = [i.direction.ablation_basis for i in variant.interventions if isinstance(i, Ablation)]
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1] for part in parts}) > 1:
        raise DirectionError(f"The directions of “{variant.name}” have different widths. Use directions of one model.")
    stacked = torch.cat(parts).double()
    _, lengths, rows = torch.linalg.svd(stacked, full_matrices=False)
    return rows[lengths > 1e-6 * lengths[0]].float()
