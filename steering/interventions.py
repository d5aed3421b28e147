"""Interventions on the residual stream, and the one place that touches a model's forward pass.

Several variants run as the rows of one batch; each row has its own interventions. Hooks are on the model only inside
:meth:`Steering.applied`, which lasts one forward pass and holds the model's lock, so whatever ends it, the model is
untouched, and two conversations can never see each other's hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.directions import Direction
from steering.errors import DirectionError

if TYPE_CHECKING:
    from steering.models import ChatModel


@dataclass(frozen=True, eq=False)
class Ablation:
    """Directional ablation, x ← x − R̂ᵀR̂ x, at every layer, position and write (section 2.4, equation 4).

    R̂ is the direction's ablation basis, ``[k, d_model]``; for one row this is x ← x − r̂ r̂ᵀ x.
    """

    direction: Direction


@dataclass
class Dial:
    """A coefficient that may be turned while replies are being written; each step reads it anew."""

    value: float


@dataclass(frozen=True, eq=False)
class Addition:
    """Activation addition, x^(l) ← x^(l) + c · r, at the direction's layer, every position (section 2.4, equation 3).

    ``coefficient`` is c, in multiples of the difference in means r; a negative one adds the opposite. A :class:`Dial`
    can be turned meanwhile; the tokens read so far keep what they were given.
    """

    direction: Direction
    coefficient: float | Dial = 1.0

    @property
    def strength(self) -> float:
        """c as it is now."""
        return self.coefficient.value if isinstance(self.coefficient, Dial) else self.coefficient

    @classmethod
    def from_dose(cls, direction: Direction, dose: float) -> Addition:
        """An addition whose length is ``dose`` times the residual stream's usual length at that layer."""
        return cls(direction, direction.coefficient(dose))


Intervention = Ablation | Addition


@dataclass(frozen=True, eq=False)
class Variant:
    """One column of a side-by-side chat: a name and what is done to the model there.

    The order of the interventions does not matter: additions act first, and what any ablation of the variant removes
    stays removed.

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
        self._additions: dict[int, Tensor] = {}
        self._strengths: list[float] | None = None
        self._basis = _joint_bases(variants)
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
            for stale in self._additions.values():
                self._placed = {key: placed for key, placed in self._placed.items() if key[0] != id(stale)}
            self._additions = _additions(self._variants)

    def _on_entry(self, layer: int) -> Any:
        delta = self._additions.get(layer)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if delta is not None:
                placed = self._place(delta, hidden)
                hidden = (hidden.to(placed.dtype) + placed).to(hidden.dtype)
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
        """x − R̂ᵀR̂ x for each row, ``[rows, tokens, d_model]``, in float32; rows without an ablation keep every bit."""
        if self._basis is None:
            return x
        basis = self._place(self._basis, x)
        exact = x if x.dtype == basis.dtype else x.to(basis.dtype)
        if basis.shape[1] == 1:  # by far the most frequent; for one token a matrix product costs four times as much
            inside = (exact * basis).sum(dim=-1, keepdim=True)
            return torch.addcmul(exact, inside, basis, value=-1).to(x.dtype)
        return torch.baddbmm(exact, exact @ basis.mT, basis, alpha=-1).to(x.dtype)

    def _place(self, tensor: Tensor, like: Tensor) -> Tensor:
        """``tensor`` on the device of ``like``, in float32 (float64 where the model is); moved once and kept."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (id(tensor), like.device, dtype)
        if key not in self._placed:
            self._placed[key] = tensor.to(like.device, dtype)
        return self._placed[key]


def _additions(variants: Sequence[Variant]) -> dict[int, Tensor]:
    """For each layer with an addition, what is added to each row: float32 ``[rows, 1, d_model]``."""
    by_layer: dict[int, Tensor] = {}
    for row, variant in enumerate(variants):
        for intervention in variant.interventions:
            if isinstance(intervention, Addition) and intervention.strength != 0:
                vector = intervention.direction.vector
                delta = by_layer.setdefault(intervention.direction.layer, torch.zeros(len(variants), 1, len(vector)))
                delta[row, 0] += intervention.strength * vector
    return by_layer


def _joint_bases(variants: Sequence[Variant]) -> Tensor | None:
    """An orthonormal basis of all that each row ablates, float32 ``[rows, k, d_model]``; unused rows are zero."""
    bases = [_joint_basis(variant) for variant in variants]
    widest = max((len(basis) for basis in bases if basis is not None), default=0)
    if widest == 0:
        return None
    d_model = next(basis.shape[1] for basis in bases if basis is not None)
    joint = torch.zeros(len(variants), widest, d_model)
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
