"""Candidates from a difference in means, and the directions taken from among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.activations import EXAMPLES_A_BATCH, RESPONSE, ClassMeans, class_means
from steering.contrast import ContrastSet
from steering.direction import Direction
from steering.errors import DirectionError
from steering.neutral_means import NeutralMeans, centred, projected_off
from steering.progress import Progress, silent
from steering.version import library_version

if TYPE_CHECKING:
    from steering.models import ChatModel

__all__ = ["Candidates", "Direction", "NeutralMeans", "centred", "difference_in_means", "projected_off"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The difference in means at every (position, layer).

    Attributes:
        vectors: float32 ``[n_positions, n_layers, d_model]``.
        positions: the negative index of each row, or ``[RESPONSE]``.
        positive, negative: the two sides' means behind the difference.
        card: what every direction taken from here says of its origin.
        notes: what happened on the way that the person should know (for instance a halved batch).
    """

    vectors: Tensor
    positions: list[int]
    positive: ClassMeans
    negative: ClassMeans
    card: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        return self.vectors.shape[1]

    def direction(self, position: int, layer: int, name: str | None = None, *, projected: bool = False) -> Direction:
        """The candidate at one place as a :class:`Direction`.

        ``projected``: without what it shares with the negative side's mean there; see :func:`projected_off`.

        Raises:
            DirectionError: if there is no such place, or the two sides do not differ there.
        """
        if position not in self.positions or not 0 <= layer < self.n_layers:
            raise DirectionError(
                f"There is no candidate at position {position}, layer {layer}: positions are {self.positions}, "
                f"layers 0 to {self.n_layers - 1}."
            )
        row = self.positions.index(position)
        vector, means = self.vectors[row, layer].clone(), self.negative.means[row]
        card = dict(self.card)
        if projected:
            vector = projected_off(vector, means[layer])
            card["projected"] = True
        if not float(vector.norm()) > 1e-6 * float(self.negative.norms[row, layer]):
            raise DirectionError(
                f"The two sides do not differ at position {position}, layer {layer}"
                f"{' but in how far the negative mean reaches' if projected else ''}, so there is no direction there. "
                "Choose a later layer."
            )
        ablated = centred(vector, means) if position == RESPONSE else vector
        return Direction(
            vector=vector,
            ablation_basis=(ablated / ablated.norm())[None],
            layer=layer,
            position=position,
            mean_residual_norm=float(self.negative.norms[row, layer]),
            name=name or str(self.card.get("data", "direction")),
            card=card,
            # The mean at this layer is an axis too, so that it is known whole: `Direction.projected` needs it.
            neutral=NeutralMeans.along(
                torch.stack([one / one.norm().clamp_min(1e-12) for one in (vector, ablated, means[layer])]), means
            ),
        )


def difference_in_means(
    model: ChatModel, train: ContrastSet, *, batch_size: int = EXAMPLES_A_BATCH, progress: Progress = silent
) -> Candidates:
    """Mean activation of the positives minus that of the negatives, at every position and layer (section 2.3).

    Prompts are read at each post-instruction token; with responses, the mean over the response's tokens is one
    position, ``RESPONSE``. Sums are float64.

    Returns:
        Candidates with ``vectors`` float32 ``[n_positions, n_layers, d_model]``.

    Raises:
        Cancelled: if ``progress`` raises it; it is called at least once a batch.
        OutOfMemoryError: if even one example does not fit into memory.
    """
    positive, negative = class_means(model, [train.positive, train.negative], batch_size=batch_size, progress=progress)
    return Candidates(
        vectors=(positive.sums / positive.count - negative.sums / negative.count).float(),
        positions=positive.positions,
        positive=positive,
        negative=negative,
        card={
            "model": model.name,
            "model_label": model.label,
            "revision": model.revision,
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "data": train.name,
            "data_sha256": train.sha256,
            "n_positive": len(train.positive),
            "n_negative": len(train.negative),
            "with_responses": train.has_responses,
            "library": library_version(),
        },
        notes=positive.notes,
    )
