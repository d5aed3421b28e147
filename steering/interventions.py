"""Interventions on the residual stream, and the one place that touches a model's forward pass.

Several variants run as the rows of one batch; each row has its own interventions. Hooks are on the model only inside
:meth:`Steering.applied`, which lasts one forward pass and holds the model's lock, so whatever ends it, the model is
untouched, and two conversations can never see each other's hooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.directions import Direction
from steering.errors import DirectionError, SteeringError

if TYPE_CHECKING:
    from steering.models import ChatModel


@dataclass(frozen=True, eq=False)
class Ablation:
    """Directional ablation, x ← x − R̂ᵀR̂ x, at every layer, position and write (section 2.4, equation 4).

    R̂ is the direction's ablation basis, ``[k, d_model]``; for one row this is x ← x − r̂ r̂ᵀ x.
    """

    direction: Direction


@dataclass(frozen=True, eq=False)
class AffineAblation:
    """Ablation towards the negative side's mean instead of zero, x^(l) ← x^(l) − R̂ᵀR̂ (x^(l) − μ^(l)), at every l.

    R̂ is the direction's ablation basis, μ^(l) the negative side's mean activation at layer l and at the direction's
    position. Zero means nothing to a model whose every activation has a part along r̂; the mean of ordinary text does.
    Source: affine concept editing, Marshall et al. 2024, arXiv 2411.09003, with nothing added on top (α = 0).

    It acts where each block begins, at every position, and not on each write: μ^(l) is the mean of the whole stream,
    so that every write would bring it once more. What the last block writes along R̂ therefore stays.

    Raises:
        DirectionError: if the direction does not know where the negative side's mean lies.
    """

    direction: Direction

    def __post_init__(self) -> None:
        _neutral_projections(self.direction)


@dataclass(frozen=True, eq=False)
class Capping:
    """Activation capping, x^(l) ← x^(l) − max(⟨x^(l), r̂⟩ − τ, 0) r̂: no more of the idea than τ, and less is let be.

    r̂ is the direction's ablation unit. It acts where each block begins, at every position, from the direction's layer
    on: later blocks write along r̂ as well. Source: Lu et al. 2026, arXiv 2601.10387, equation 1, where it is a floor
    (r̂ turned round) and acts on a band of middle to late layers.

    Attributes:
        threshold: τ in the stream's own units, the same at all these layers; by default at each layer the negative
            side's mean, ⟨μ^(l), r̂⟩. (The paper takes a quantile over many replies, near the ordinary ones' mean.)

    Raises:
        DirectionError: without a threshold, if the direction does not know where the negative side's mean lies.
        SteeringError: if the threshold is no number to cap at.
    """

    direction: Direction
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is None:
            _neutral_projections(self.direction)
        elif not self.threshold > -math.inf:
            raise SteeringError(
                f"“{self.direction.name}” cannot be capped at {self.threshold}. Give a number, in the stream's units."
            )

    def thresholds(self, n_layers: int) -> list[float]:
        """τ at each layer; infinite where nothing is capped."""
        first = self.direction.layer
        if self.threshold is not None:
            return [math.inf] * first + [self.threshold] * (n_layers - first)
        return [math.inf] * first + _neutral_projections(self.direction)[first:, 0].tolist()


@dataclass
class Dial:
    """A coefficient that may be turned while replies are being written; each step reads it anew."""

    value: float


@dataclass(frozen=True, eq=False)
class Addition:
    """Activation addition, x^(l) ← x^(l) + c · r, at the direction's layer, every position (section 2.4, equation 3).

    ``coefficient`` is c, in multiples of the difference in means r; a negative one adds the opposite. A :class:`Dial`
    can be turned meanwhile; the tokens read so far keep what they were given.

    ``keep_norm``: then scale back to the norm there was, x' = (x + c r) · ‖x‖ / ‖x + c r‖, so that a strong addition
    turns the stream without making it longer than the later blocks expect. Where several additions of a variant meet at
    a layer, their sum is added, and the norm is kept if one of them says so.
    """

    direction: Direction
    coefficient: float | Dial = 1.0
    keep_norm: bool = False

    @property
    def strength(self) -> float:
        """c as it is now."""
        return self.coefficient.value if isinstance(self.coefficient, Dial) else self.coefficient

    @classmethod
    def from_dose(cls, direction: Direction, dose: float) -> Addition:
        """An addition whose length is ``dose`` times the residual stream's usual length at that layer."""
        return cls(direction, direction.coefficient(dose))


Intervention = Ablation | AffineAblation | Addition | Capping


@dataclass(frozen=True, eq=False)
class Variant:
    """One column of a side-by-side chat: a name and what is done to the model there.

    The order of the interventions does not matter. Where a block begins, additions act first, then cappings, then
    affine ablations, and ablations last, so that what any ablation of the variant removes stays removed. Thus an
    addition of what is capped or ablated too, affinely or not, comes to nothing beyond what those allow. Several
    affine ablations hold together. Several cappings act one after another as they are listed, which matters only where
    their directions are not orthogonal.

    Attributes:
        system: a system prompt for this variant only, in place of the conversation's.
    """

    name: str
    interventions: tuple[Intervention, ...] | list[Intervention] = ()
    system: str | None = None

    @classmethod
    def baseline(cls, name: str = "baseline") -> Variant:
        """The model as it is."""
        return cls(name)

    @classmethod
    def ablated(cls, direction: Direction, name: str = "ablated") -> Variant:
        """The direction taken out everywhere."""
        return cls(name, (Ablation(direction),))

    @classmethod
    def added(cls, direction: Direction, coefficient: float | Dial = 1.0, name: str = "added") -> Variant:
        """The direction added at its layer, ``coefficient`` times."""
        return cls(name, (Addition(direction, coefficient),))

    @property
    def directions(self) -> list[Direction]:
        return [intervention.direction for intervention in self.interventions]


class Steering:
    """The interventions of the rows of one batch, ready for a model, and what was seen of the stream in the last pass.

    Args:
        variants: one per row.
        probe: the direction whose cosine is measured in every row; by default the first that any variant uses.

    Raises:
        DirectionError: if a direction does not fit the model.
    """

    def __init__(self, model: ChatModel, variants: Sequence[Variant], probe: Direction | None = None) -> None:
        self.model = model
        directions = [direction for variant in variants for direction in variant.directions]
        for direction in directions if probe is None else [*directions, probe]:
            direction.require_fit(model)
        probe = probe or (directions[0] if directions else None)
        self._probe = None if probe is None else probe.ablation_basis
        self._variants = tuple(variants)
        self._additions: dict[int, _Added] = {}
        self._strengths: list[float] | None = None
        self._cappings = _cappings(variants, model.n_layers)
        self._affine = _affine(variants)
        self._basis = _padded([_joint_basis(variant) for variant in variants])
        self._placed: dict[tuple[Any, ...], Tensor] = {}
        self._newest: list[Tensor] = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context one forward pass of the model carries the interventions."""
        with self.model.lock, ExitStack() as stack:
            self._newest = []
            self._read_strengths()
            for layer, block in enumerate(self.model.architecture.blocks):
                hook = block.register_forward_pre_hook(self._on_entry(layer), with_kwargs=True)
                stack.callback(hook.remove)
            if self._basis is not None:
                for writes in self.model.architecture.writes:
                    for write in writes:
                        stack.callback(write.register_forward_hook(self._on_write).remove)
            yield

    def cosines(self) -> Tensor:
        """Cosine of each layer's newest token with the probe in the last pass, float32 ``[rows, n_layers]`` on the CPU.

        cos(x^(l), r̂) for one direction; for a basis of k the length of the part inside it over the whole, in [0, 1].
        Layer l is what block l reads, after the interventions at its entry. All zero where there is no direction.
        """
        device = self._newest[0].device
        newest = torch.stack([x.to(device) for x in self._newest]).float()  # [n_layers, rows, d_model]
        if self._probe is None:
            return torch.zeros(newest.shape[1], newest.shape[0])
        inside = newest @ self._probe.to(device).T
        length = newest.norm(dim=-1).clamp_min(1e-12)
        part = inside[..., 0] if inside.shape[-1] == 1 else inside.norm(dim=-1)
        return (part / length).T.cpu()

    def _read_strengths(self) -> None:
        """Make anew what is added, if a coefficient has changed since the last pass."""
        strengths = [i.strength for v in self._variants for i in v.interventions if isinstance(i, Addition)]
        if strengths != self._strengths:
            self._strengths = strengths
            stale = {id(tensor) for added in self._additions.values() for tensor in (added.delta, added.keeps_norm)}
            self._placed = {key: placed for key, placed in self._placed.items() if key[0] not in stale}
            self._additions = _additions(self._variants)

    def _on_entry(self, layer: int) -> Any:
        added = self._additions.get(layer)
        cappings = [(capping.unit, capping.thresholds[layer]) for capping in self._cappings]
        keeps_norm = added is not None and added.keeps_norm is not None
        # The embedding is a write too. Ablated last it is early enough for additions, not for what looks at the stream.
        embedded = layer == 0 and (keeps_norm or bool(cappings) or self._affine is not None)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if embedded:
                hidden = self._ablate(hidden)
            if added is not None:
                hidden = self._add(hidden, added)
            for unit, threshold in cappings:
                if threshold is not None:
                    hidden = self._cap(hidden, unit, threshold)
            if self._affine is not None:
                hidden = self._project_out(hidden, self._affine.basis, self._affine.targets[layer])
            hidden = self._ablate(hidden)
            self._newest.append(hidden[:, -1].clone())  # a view would keep the whole prompt of every layer
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return hook

    def _on_write(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention also returns its weights, a mixture of experts its routing
            return (self._ablate(output[0]), *output[1:])
        return self._ablate(output)

    def _ablate(self, x: Tensor) -> Tensor:
        return x if self._basis is None else self._project_out(x, self._basis)

    def _add(self, x: Tensor, added: _Added) -> Tensor:
        """x + c r for each row, ``[rows, tokens, d_model]``, in float32; with the norm of x in rows that keep it."""
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
        """x − R̂ᵀ(R̂ x − target) for each row, ``[rows, tokens, d_model]``, in float32; target is ``[rows, 1, k]``.

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


@dataclass(frozen=True, eq=False)
class _Added:
    """What is added at one layer: float32 ``[rows, 1, d_model]``, and 1 for rows that keep their norm, if any does."""

    delta: Tensor
    keeps_norm: Tensor | None  # [rows, 1, 1]


@dataclass(frozen=True, eq=False)
class _Capped:
    """One capping of each row: r̂, float32 ``[rows, 1, d_model]``, and for each layer τ, ``[rows, 1, 1]``, if any."""

    unit: Tensor
    thresholds: list[Tensor | None]


@dataclass(frozen=True, eq=False)
class _Affine:
    """All that each row ablates affinely: float32 ``[rows, k, d_model]``; for each layer R̂ μ, ``[rows, 1, k]``."""

    basis: Tensor
    targets: list[Tensor]


def _neutral_projections(direction: Direction) -> Tensor:
    projections = direction.neutral_projections
    if projections is None:
        raise DirectionError(
            f"“{direction.name}” does not say where its negative side lies along what it ablates: it was made by an "
            "older version or another tool, or its basis was replaced. Compute it again from its contrast set."
        )
    return projections


def _additions(variants: Sequence[Variant]) -> dict[int, _Added]:
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
    return {layer: _Added(delta, keepers.get(layer)) for layer, delta in deltas.items()}


def _cappings(variants: Sequence[Variant], n_layers: int) -> list[_Capped]:
    """The first capping of each row, the second of each, and so on."""
    of_rows = [[i for i in variant.interventions if isinstance(i, Capping)] for variant in variants]
    capped = []
    for turn in range(max(map(len, of_rows), default=0)):
        acting = {row: cappings[turn] for row, cappings in enumerate(of_rows) if turn < len(cappings)}
        unit = torch.zeros(len(variants), 1, len(next(iter(acting.values())).direction.vector))
        thresholds = torch.full((n_layers, len(variants), 1, 1), math.inf)
        for row, capping in acting.items():
            unit[row, 0] = capping.direction.ablation_unit
            thresholds[:, row, 0, 0] = torch.tensor(capping.thresholds(n_layers))
        capped.append(_Capped(unit, [None if bool((layer == math.inf).all()) else layer for layer in thresholds]))
    return capped


def _affine(variants: Sequence[Variant]) -> _Affine | None:
    """What the rows ablate affinely, or None if none does."""
    joint = [_joint_affine(variant) for variant in variants]
    basis = _padded([None if row is None else row[0] for row in joint])
    if basis is None:
        return None
    n_layers = next(len(row[1]) for row in joint if row is not None)
    targets = torch.zeros(n_layers, len(variants), 1, basis.shape[1])
    for row, found in enumerate(joint):
        if found is not None:
            targets[:, row, 0, : len(found[0])] = found[1]
    return _Affine(basis, list(targets))


def _joint_affine(variant: Variant) -> tuple[Tensor, Tensor] | None:
    """An orthonormal basis R̂ of all that the variant ablates affinely, ``[k, d_model]``, and its targets, or None.

    The targets are R̂ x at each layer, ``[n_layers, k]``, for an x that satisfies every one of the ablations.
    """
    directions = [i.direction for i in variant.interventions if isinstance(i, AffineAblation)]
    if not directions:
        return None
    wanted = [_neutral_projections(direction) for direction in directions]
    if len(directions) == 1:
        return directions[0].ablation_basis, wanted[0]
    # With the bases stacked as S = U Σ V, S x = wanted means V x = Σ⁻¹ Uᵀ wanted. Rows as good as equal count once, or
    # what little they differ would be blown up.
    stacked = torch.cat([direction.ablation_basis for direction in directions]).double()
    left, lengths, rows = torch.linalg.svd(stacked, full_matrices=False)
    kept = lengths > 1e-3 * lengths[0]
    targets = torch.cat(wanted, dim=1).double() @ left[:, kept] / lengths[kept]
    return rows[kept].float(), targets.float()


def _padded(bases: Sequence[Tensor | None]) -> Tensor | None:
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
