"""How well candidates tell apart examples they were not made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steering.activations import EXAMPLES_A_BATCH, residuals
from steering.contrast import ContrastSet
from steering.errors import SteeringError
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.directions import Candidates
    from steering.models import ChatModel

# Where a suggestion is looked for, as parts of the depth. Earlier layers carry words more than ideas; from later ones
# too little of the model is left to act on (the paper's own limit is 0.8).
EARLIEST_SUGGESTED, LATEST_SUGGESTED = 0.3, 0.6


@dataclass(frozen=True, eq=False)
class Separation:
    """How well each candidate tells the two sides apart on examples it was not made from.

    Attributes:
        auroc: float ``[n_positions, n_layers]``, the chance that a positive example lies further along the candidate
            than a negative one; 0.5 is chance.
        right: integers ``[n_positions, n_layers]``, how many held-out examples fall on their own side of the middle
            between the training means.
        total: how many there are.
        gap: float ``[n_positions, n_layers]``, distance of the held-out means along the candidate over their standard
            deviation.
        positions: the negative index of each row, or ``[RESPONSE]``.
    """

    auroc: NDArray[np.float64]
    right: NDArray[np.int64]
    total: int
    gap: NDArray[np.float64]
    positions: list[int]

    def as_card(self, position: int, layer: int) -> dict[str, Any]:
        """What was measured at one place, for a direction's card."""
        row = self.positions.index(position)
        return {
            "auroc": round(float(self.auroc[row, layer]), 4),
            "sorted_right": [int(self.right[row, layer]), self.total],
        }

    def suggested(self) -> tuple[int, int]:
        """(position, layer) with the highest AUROC between 0.3 and 0.6 of the depth; ties go to the widest gap.

        Raises:
            SteeringError: if the two sides are told apart nowhere there.
        """
        n_layers = self.auroc.shape[1]
        first = min(int(np.ceil(EARLIEST_SUGGESTED * n_layers)), n_layers - 1)
        end = max(first + 1, int(LATEST_SUGGESTED * n_layers))  # a very shallow model has one such layer at least
        part = slice(first, end)
        best = np.round(self.auroc[:, part], 3)
        if not np.isfinite(best).any():
            raise SteeringError("The two sides do not differ at any middle layer. Give sets that differ in one idea.")
        order = np.lexsort((np.nan_to_num(self.gap[:, part]).ravel(), np.nan_to_num(best).ravel()))
        row, column = np.unravel_index(order[-1], best.shape)
        return self.positions[int(row)], int(column) + first


def separation(
    model: ChatModel,
    candidates: Candidates,
    held_out: ContrastSet,
    *,
    batch_size: int = EXAMPLES_A_BATCH,
    progress: Progress = silent,
) -> Separation:
    """Project held-out examples onto every candidate.

    The AUROC is the Mann-Whitney U statistic over the number of pairs. Where a candidate is zero it is NaN.
    """
    from scipy.stats import mannwhitneyu

    examples = [*held_out.positive, *held_out.negative]
    read = residuals(
        model, examples, batch_size=batch_size, progress=progress
    )  # [examples, positions, layers, d_model]
    n_positive = len(held_out.positive)
    norms = candidates.vectors.norm(dim=-1)
    units = candidates.vectors / norms.clamp_min(1e-12)[..., None]
    along = (read * units).sum(dim=-1).double().numpy()
    middle = ((candidates.positive.means + candidates.negative.means) / 2 * units).sum(dim=-1).double().numpy()
    positive, negative = along[:n_positive], along[n_positive:]
    statistic = mannwhitneyu(positive, negative, axis=0).statistic
    right = (positive > middle).sum(axis=0) + (negative < middle).sum(axis=0)
    spread = np.sqrt((positive.var(axis=0) + negative.var(axis=0)) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (positive.mean(axis=0) - negative.mean(axis=0)) / spread
    auroc = statistic / (len(positive) * len(negative))
    empty = (norms <= 1e-6 * candidates.negative.norms).numpy()
    return Separation(
        auroc=np.where(empty, np.nan, auroc),
        right=np.where(empty, 0, right),
        total=len(examples),
        gap=np.where(empty, np.nan, gap),
        positions=candidates.positions,
    )
