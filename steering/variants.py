"""What can be done to the residual stream, and variants: named lists of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from steering.directions import Direction
from steering.errors import DirectionError, SteeringError


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
        require_neutral_projections(self.direction)


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
            require_neutral_projections(self.direction)
        elif not self.threshold > -math.inf:
            raise SteeringError(
                f"“{self.direction.name}” cannot be capped at {self.threshold}. Give a number, in the stream's units."
            )

    def thresholds(self, n_layers: int) -> list[float]:
        """τ at each layer; infinite where nothing is capped."""
        first = self.direction.layer
        if self.threshold is not None:
            return [math.inf] * first + [self.threshold] * (n_layers - first)
        return [math.inf] * first + require_neutral_projections(self.direction)[first:, 0].tolist()


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
        acts: where a model thinks before it answers, which of the two the interventions act on; see
            :class:`steering.thoughts.Thought`. They act everywhere where no model thinks.

    Raises:
        SteeringError: if ``acts`` is something else.
    """

    name: str
    interventions: tuple[Intervention, ...] | list[Intervention] = ()
    system: str | None = None
    acts: Literal["both", "thought", "answer"] = "both"

    def __post_init__(self) -> None:
        if self.acts not in ("both", "thought", "answer"):
            raise SteeringError(f"A variant acts in “both”, the “thought” or the “answer”, not in “{self.acts}”.")

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


def require_neutral_projections(direction: Direction) -> Tensor:
    """R̂ μ^(l), float32 ``[n_layers, k]``, of a direction that must know it; :attr:`Direction.neutral_projections`.

    Raises:
        DirectionError: if it does not.
    """
    projections = direction.neutral_projections
    if projections is None:
        raise DirectionError(
            f"“{direction.name}” does not say where its negative side lies along what it ablates: it was made by an "
            "older version or another tool, or its basis was replaced. Compute it again from its contrast set."
        )
    return projections
