"""What is left of a difference in means once directions have been ablated: read at one place, with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.activations import ResidualReader
from steering.contrast import ContrastSet
from steering.errors import DirectionError
from steering.figures import RESAMPLES, Figure
from steering.interventions import Steering, Variant
from steering.neutral_means import centred, projected_off
from steering.progress import Progress
from steering.scoring import pairs_first

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.preparation import Prepared

WHAT = "Reading what is left"
# What a direction was made from gives its vector again, in another number type too, but for early layers' rounding.
SAME_EXAMPLES = 0.9


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference in means as the *parts* that add up to it, float64 ``[n_parts, d_model]``.

    Of each pair that is x⁺ / n⁺ − x⁻ / n⁻, of each example without a partner one of the two.

    Attributes:
        learned: of the examples the direction was made from.
        held_out: of the validation examples.
    """

    learned: Tensor
    held_out: Tensor


class Place:
    """A direction's examples at its layer and position, in the model as it is and with a basis ablated.

    All that was done to r before it was ablated is done to what is read, centring and projecting off the negative mean,
    with the means of the unablated model throughout: so that no row made from it touches what the first leaves alone.

    Args:
        prepared: the examples the direction was made from, and the validation examples.
        passes: how many passes over the examples there will be, for progress.
        progress: told after every batch of examples, in passes.

    Attributes:
        unablated: the difference in means of the model as it is.
        neutral_means: the negative side's mean at every layer of the unablated model, at the direction's position,
            float32 ``[n_layers, d_model]``.

    Raises:
        DirectionError: if the direction does not fit the model, or was not made from these examples.
    """

    def __init__(
        self,
        model: ChatModel,
        prepared: Prepared,
        direction: Direction,
        *,
        passes: int,
        batch_size: int,
        progress: Progress,
    ) -> None:
        direction.require_fit(model)
        self._model, self._direction, self._batch_size = model, direction, batch_size
        self._progress, self._passes, self._passed = progress, passes, 0
        self._learned, self._held_out = _Sample(prepared.train), _Sample(prepared.validation)
        self._examples = [*self._learned.examples, *self._held_out.examples]
        reader = ResidualReader(model, self._examples, batch_size)
        if direction.position not in reader.positions:
            raise DirectionError(
                f"“{direction.name}” was read at position {direction.position}, which this set does not have: its "
                f"positions are {reader.positions}. Choose the set it was made from."
            )
        self._stream = torch.empty(len(self._examples), model.d_model, dtype=torch.float64)
        neutral = torch.zeros(model.n_layers, model.d_model, dtype=torch.float64)
        negative = range(self._learned.n_positive, len(self._learned.examples))
        for indices, layers in self._read(reader):
            self._stream[indices] = layers[:, direction.layer]
            neutral += layers[[index in negative for index in indices]].sum(dim=0)
        self.neutral_means = (neutral / len(negative)).float()
        self._require_same_examples()
        self.unablated = self._difference(self._stream, torch.empty(0, model.d_model, dtype=torch.float64))

    def difference_under(self, basis: Tensor) -> Difference:
        """The difference in means with ``basis``, ``[k, d_model]``, ablated everywhere; it is orthogonal to it."""
        ablated = replace(self._direction, ablation_basis=basis, neutral=None)
        stream = torch.empty_like(self._stream)
        steering = Steering(self._model, [Variant.ablated(ablated)])  # a batch of examples is one row, a tree
        layer = self._direction.layer
        reader = ResidualReader(
            self._model, self._examples, self._batch_size, within=steering.applied, last_layer=layer
        )
        for indices, layers in self._read(reader):
            stream[indices] = layers[:, layer]
        return self._difference(stream, basis.double())

    def example_differences(self) -> Tensor:
        """x⁺ − x⁻ of each training pair, x⁺ − μ⁻ and μ⁺ − x⁻ of others, unablated; float64 ``[n, d_model]``."""
        positive, negative = self._learned.sides(self._stream)
        n = self._learned.n_pairs
        alone = [positive[n:] - negative.mean(dim=0), positive.mean(dim=0) - negative[n:]]
        return self._as_made(torch.cat([positive[:n] - negative[:n], *alone]))

    def length(self, difference: Difference) -> float:
        """‖d‖ / ‖r‖ of the examples the direction was made from."""
        return float(difference.learned.sum(dim=0).norm()) / self._direction.norm

    def length_without_chance(self, difference: Difference, seed: int) -> Figure:
        """‖d‖ / ‖r‖ of the validation examples without what chance adds; see :func:`length_without_chance`.

        Those the rows were made from would tell too little: of them ablation takes out even what is theirs alone.
        """
        found = length_without_chance(difference.held_out / self._direction.norm, self._held_out.strata, seed)
        return replace(found, n=len(self._held_out.examples))

    def _read(self, reader: ResidualReader) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of example numbers and their layers at the direction's position, float64 ``[n, layers, d_model]``."""
        row = reader.positions.index(self._direction.position)

        def told(what: str, done: float, total: float) -> None:
            self._progress(WHAT, self._passed + done / total, self._passes)

        for indices, batch, _ in reader.read(told):
            yield indices, batch[:, row].double()
        self._passed += 1

    def _require_same_examples(self) -> None:
        positive, negative = self._learned.sides(self._stream)
        difference = (positive.mean(dim=0) - negative.mean(dim=0)).float()
        if self._direction.card.get("projected", False):
            difference = projected_off(difference, self.neutral_means[self._direction.layer])
        cosine = float(torch.cosine_similarity(difference, self._direction.vector, dim=0))
        if not cosine > SAME_EXAMPLES:
            raise DirectionError(
                f"“{self._direction.name}” is not the difference in means of these examples: their cosine is "
                f"{cosine:.2f}. Choose the set it was made from, split with the same seed."
            )

    def _difference(self, stream: Tensor, basis: Tensor) -> Difference:
        n = len(self._learned.examples)
        learned = self._as_made(self._learned.parts(stream[:n]))
        held_out = self._as_made(self._held_out.parts(stream[n:]))
        # Without the basis they are already, but for rounding, of which the last rows would be made.
        return Difference(learned - (learned @ basis.T) @ basis, held_out - (held_out @ basis.T) @ basis)

    def _as_made(self, rows: Tensor) -> Tensor:
        """What was done to r before it was ablated, done to each row; all of it is linear."""
        if self._direction.card.get("projected", False):
            mean = self.neutral_means[self._direction.layer]
            rows = torch.stack([projected_off(row, mean) for row in rows])
        if self._direction.is_centred:
            rows = centred(rows.T, self.neutral_means).T
        return rows.double()


class _Sample:
    """The examples of a set, positives first, on either side pairs first."""

    def __init__(self, data: ContrastSet) -> None:
        positive, negative, self.n_pairs = pairs_first(data)
        self.examples, self.n_positive = [*positive, *negative], len(positive)
        self.strata = [self.n_pairs, len(positive) - self.n_pairs, len(negative) - self.n_pairs]

    def sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows[: self.n_positive], rows[self.n_positive : len(self.examples)]

    def parts(self, rows: Tensor) -> Tensor:
        """The parts of the difference in means, those of pairs first, then positives', then negatives'."""
        positive, negative = self.sides(rows)
        positive, negative, n = positive / len(positive), negative / -len(negative), self.n_pairs
        return torch.cat([positive[:n] + negative[:n], positive[n:], negative[n:]])


def length_without_chance(parts: Tensor, strata: Sequence[int], seed: int) -> Figure:
    """‖d‖ of the sum d of ``parts`` without what chance adds to it, with its 95 % interval by bootstrap (percentiles).

    Examples of one side differ too, so the d of a sample is longer than that of all there could be: E‖d‖² is the square
    of the latter plus the variance V of d. Hence √(‖d‖² − V), or 0. A resample brings the variance of its drawing on
    top of that of the sample, so that its square is taken less 2 V; such intervals are rather too wide than too narrow.

    Args:
        parts: float64 ``[n_parts, d_model]``.
        strata: how many parts are drawn among themselves, one stratum after another.
        seed: of the resamples.
    """
    gram = (parts @ parts.T).numpy()
    squared, variance = _squared_length(gram, np.ones((1, len(parts))), strata)
    value = float(np.sqrt(max(squared[0] - variance[0], 0)))
    rng = np.random.default_rng(seed)
    drawn = np.hstack([rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in strata if size])
    squared, variance = _squared_length(gram, drawn.astype(np.float64), strata)
    low, high = np.sqrt(np.percentile(squared - 2 * variance, [2.5, 97.5]).clip(min=0))
    return Figure(value, float(low), float(high), len(parts))


def _squared_length(
    gram: NDArray[np.float64], counts: NDArray[np.float64], strata: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """‖d‖² and an unbiased estimate of the variance of d, each ``[n]``, d being the sum of parts.

    Args:
        gram: inner products of the parts, ``[n_parts, n_parts]``.
        counts: how often each part is drawn, ``[n, n_parts]``.
        strata: how many parts are drawn among themselves; a single one shows no variance.
    """
    squared = ((counts @ gram) * counts).sum(axis=-1)
    variance, start = np.zeros_like(squared), 0
    for size in strata:
        own = slice(start, start + size)
        start += size
        if size > 1:
            drawn, inner = counts[:, own], gram[own, own]
            of_sum = ((drawn @ inner) * drawn).sum(axis=-1)
            variance += (size * (drawn @ np.diag(inner)) - of_sum) / (size - 1)
    return squared, variance
