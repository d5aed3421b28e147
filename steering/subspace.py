"""An idea as k directions at once: differences in means, each in the model with those before it ablated.

At one place of the unablated model, projecting r out leaves nothing at all of the difference in means. But a model
whose every write lacks r̂ may still tell the sides apart: later blocks read what is left and write the idea anew. So
each further row is the difference in means at the direction's place **in the model with all rows before it ablated
everywhere**; it is orthogonal to them because the whole stream is. How many rows are worth ablating is for their effect
to say (`effect_curve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.activations import EXAMPLES_A_BATCH
from steering.errors import DirectionError, SteeringError
from steering.neutral_means import NeutralMeans
from steering.progress import Progress, silent
from steering.remainders import WHAT, Difference, Place

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.figures import Figure
    from steering.models import ChatModel
    from steering.preparation import Prepared

LARGEST_K = 8
# Below this part of the stream's usual length a difference is rounding: float32 numbers are right to about 1e-7 each.
NO_DIFFERENCE = 1e-5
DIFFERENCES, COMPONENTS = "differences in means", "principal components"


@dataclass(frozen=True, eq=False)
class Subspace:
    """An orthonormal basis of an idea, the most important row first, and what each row left of the idea.

    There are fewer rows than were asked for where nothing is left for a further one.

    Attributes:
        basis: float32 ``[k_max, d_model]``. Of differences in means the first row is the direction's ``ablation_unit``.
        lengths: ``[k_max]``; the i-th is the length of the difference in means at the direction's place in the model
            with the first i rows ablated, as a part of ‖r‖. What no row may hold does not count: of a centred direction
            that is the span of the negative side's means. The 0th is of the unablated model. They are of the training
            examples, as the rows are, which take out what is peculiar to these examples as well.
        remainders: ``[k_max]``, the same lengths of the validation examples, without what chance adds to them, with
            95 % intervals: what the rows really leave. See :func:`steering.remainders.length_without_chance`.
        origin: the direction whose idea it is.
        method: ``DIFFERENCES`` or ``COMPONENTS``.
        neutral_means: the negative side's mean at every layer of the unablated model, at the direction's position,
            float32 ``[n_layers, d_model]``.
    """

    basis: Tensor
    lengths: tuple[float, ...]
    remainders: tuple[Figure, ...]
    origin: Direction
    method: str
    neutral_means: Tensor

    @property
    def k_max(self) -> int:
        """How many rows there are."""
        return len(self.basis)

    def direction(self, k: int) -> Direction:
        """The direction with the first ``k`` rows ablated in place of its own; what is added stays.

        Raises:
            DirectionError: if there are not so many rows.
        """
        if not 1 <= k <= self.k_max:
            raise DirectionError(
                f"The subspace of “{self.origin.name}” has {self.k_max} dimensions, so {k} of them cannot be ablated. "
                f"Choose from 1 to {self.k_max}."
            )
        basis = self.basis[:k].clone()
        about = {
            "k": k,
            "method": self.method,
            "lengths": list(self.lengths),
            "remainders": [figure.as_card() for figure in self.remainders],
        }
        return replace(
            self.origin,
            ablation_basis=basis,
            neutral=NeutralMeans.along(torch.cat([self.origin.unit[None], basis]), self.neutral_means),
            card={**self.origin.card, "subspace": about},
        )


def subspace(
    model: ChatModel,
    prepared: Prepared,
    direction: Direction,
    k_max: int = LARGEST_K,
    *,
    batch_size: int = EXAMPLES_A_BATCH,
    seed: int = 0,
    progress: Progress = silent,
) -> Subspace:
    """Differences in means, each in the model with those before it ablated; ``k_max`` passes over the examples.

    Args:
        prepared: the examples the direction was made from, and the validation examples for the remainders.
        direction: its ``ablation_unit`` is the first row, its ``layer`` and ``position`` the place.
        seed: of the bootstrap.
        progress: told after every batch of examples, in passes.

    Raises:
        Cancelled: if ``progress`` raises it.
        DirectionError: if the direction does not fit the model, or was not made from these examples.
        SteeringError: if ``k_max`` is not from 1 to 8.
        OutOfMemoryError: if even one example does not fit into memory.
    """
    place = _place(model, prepared, direction, k_max, batch_size, progress)
    basis, found = direction.ablation_unit[None], [place.unablated]
    while len(basis) < k_max:
        difference = place.difference_under(basis)
        row = difference.learned.sum(dim=0)
        if not float(row.norm()) > NO_DIFFERENCE * direction.mean_residual_norm:
            break
        basis = torch.cat([basis, (row / row.norm()).float()[None]])
        found.append(difference)
    progress(WHAT, k_max, k_max)
    return _measured(place, basis, found, direction, DIFFERENCES, seed)


def pca_subspace(
    model: ChatModel,
    prepared: Prepared,
    direction: Direction,
    k_max: int = LARGEST_K,
    *,
    batch_size: int = EXAMPLES_A_BATCH,
    seed: int = 0,
    progress: Progress = silent,
) -> Subspace:
    """Principal components of the examples' differences at the direction's place in the unablated model.

    They are the first right singular vectors of the matrix with a row x⁺ − x⁻ for each pair, and for each example
    without a partner its difference from the other side's mean. The rows' own mean is not taken off, for it is r; all
    else that was done to r before it was ablated is done to them. Each component points to the positive side.

    Arguments and errors are those of :func:`subspace`, and so are lengths and remainders: read in the model with the
    components before ablated, though here none is made from them.
    """
    place = _place(model, prepared, direction, k_max, batch_size, progress)
    _, lengths, rows = torch.linalg.svd(place.example_differences(), full_matrices=False)
    rows = rows[lengths > 1e-6 * lengths[0]][:k_max]
    towards_positive = torch.where(rows @ place.unablated.learned.sum(dim=0) < 0, -1.0, 1.0)
    basis = (rows * towards_positive[:, None]).float().contiguous()
    found = [place.unablated, *(place.difference_under(basis[:k]) for k in range(1, len(basis)))]
    return _measured(place, basis, found, direction, COMPONENTS, seed)


def _place(
    model: ChatModel,
    prepared: Prepared,
    direction: Direction,
    k_max: int,
    batch_size: int,
    progress: Progress,
) -> Place:
    if not 1 <= k_max <= LARGEST_K:
        raise SteeringError(f"A subspace has from 1 to {LARGEST_K} dimensions, not {k_max}. Choose a number of these.")
    return Place(model, prepared, direction, passes=k_max, batch_size=batch_size, progress=progress)


def _measured(
    place: Place, basis: Tensor, found: Sequence[Difference], direction: Direction, method: str, seed: int
) -> Subspace:
    return Subspace(
        basis=basis,
        lengths=tuple(place.length(difference) for difference in found),
        remainders=tuple(place.length_without_chance(difference, seed) for difference in found),
        origin=direction,
        method=method,
        neutral_means=place.neutral_means,
    )
