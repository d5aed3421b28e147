"""What a direction is held against: random directions, those that shuffled labels give, and halves of its examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.errors import DirectionError
from steering.figures import UNKNOWN, Figure

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction

HALVINGS = 20

Half = tuple[NDArray[np.intp], NDArray[np.intp]]  # row numbers of its positive and of its negative examples


@dataclass(frozen=True, eq=False)
class Learned:
    """The training examples at one place: float64 ``[n, d_model]``, positives first, on either side pairs first.

    What is drawn keeps pairs together: two texts that answer one prompt share more than texts of one side do, and that
    is not the idea. Draws are row numbers.
    """

    stream: Tensor
    n_positive: int
    n_pairs: int

    def difference(self, half: Half) -> Tensor:
        """Difference in means, float64 ``[d_model]``."""
        positive, negative = half
        return self.stream[torch.from_numpy(positive)].mean(dim=0) - self.stream[torch.from_numpy(negative)].mean(dim=0)

    def halves(self, rng: np.random.Generator) -> list[Half]:
        """Two disjoint halves, drawn at random."""
        pairs = rng.permutation(self.n_pairs)
        orders = [
            first + np.concatenate([pairs, rng.permutation(np.arange(self.n_pairs, size))])
            for first, size in ((0, self.n_positive), (self.n_positive, len(self.stream) - self.n_positive))
        ]
        return [(orders[0][start::2], orders[1][start::2]) for start in (0, 1)]

    def halvings(self, n: int, rng: np.random.Generator) -> list[list[Half]]:
        """At most ``n`` different pairs of halves; none if a side has a single example."""
        if min(self.n_positive, len(self.stream) - self.n_positive) < 2:
            return []
        drawn = (self.halves(rng) for _ in range(n))
        return list({frozenset(frozenset(np.concatenate(half)) for half in one): one for one in drawn}.values())


def random_controls(direction: Direction, n: int, rng: np.random.Generator) -> list[Direction]:
    """Isotropic directions as long as r, themselves ablated."""
    vectors = torch.from_numpy(rng.standard_normal((n, len(direction.vector)))).float()
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    return [replace(direction, vector=direction.norm * unit, ablation_basis=unit[None]) for unit in units]


def shuffled_controls(
    direction: Direction, candidates: Candidates, to_learn: Learned, n: int, rng: np.random.Generator
) -> list[Direction]:
    """What the labels give once they are swapped in a half of the examples, made as the direction was.

    Swapping a half, and not any examples, leaves as much of the idea on either side, so that it cancels. Labels
    permuted freely leave a rest of it, which scaled to ‖r‖ can be most of such a direction where the sides differ much:
    the clearer the idea, the less would it differ from its controls.
    """
    row, controls = candidates.positions.index(direction.position), []
    for one, other in to_learn.halvings(n, rng):
        vectors = candidates.vectors.clone()
        vectors[row, direction.layer] = (to_learn.difference(one) - to_learn.difference(other)).float() / 2
        try:
            found = replace(candidates, vectors=vectors).direction(
                direction.position, direction.layer, projected=direction.card.get("projected", False)
            )
        except DirectionError:  # the sides do not differ any more
            continue
        basis = found.ablation_basis if direction.is_centred else found.unit[None]
        controls.append(replace(direction, vector=direction.norm * found.unit, ablation_basis=basis))
    return controls


def split_half(to_learn: Learned, rng: np.random.Generator) -> Figure:
    """Mean cosine between the halves' differences and the middle 95 % of the halvings; unknown for a single example.

    A half without a difference agrees with nothing, which counts as 0.
    """
    halvings = to_learn.halvings(HALVINGS, rng)
    if not halvings:
        return UNKNOWN
    differences = [(to_learn.difference(one), to_learn.difference(other)) for one, other in halvings]
    cosines = [float(torch.nn.functional.cosine_similarity(one, other, dim=0)) for one, other in differences]
    low, high = np.percentile(cosines, [2.5, 97.5])
    return Figure(float(np.mean(cosines)), float(low), float(high), len(cosines))
