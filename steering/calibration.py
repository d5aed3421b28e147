"""How far a direction can be turned up before the text breaks: the useful range of its coefficient.

The measure is the likelihood of the steered reply under the unsteered model: its mean negative log-likelihood per token
rises with the coefficient, first little, while the idea is not seen yet, then steadily, and text whose rise is large is
broken. Counting the idea's words instead would mislead, for garbage scores high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steering.directions import Direction
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.models import ChatModel

# Rises of the mean negative log-likelihood per token, in nats, over the unsteered replies: from the first on an idea
# is seen, above the second text breaks, and at the third the slider ends. Read off replies at many coefficients.
VISIBLE, BREAKING, BROKEN = 0.3, 1.5, 2.2
ROWS_AT_ONCE = 12
REPLY_TOKENS = 48


@dataclass(frozen=True)
class CoefficientRange:
    """What was measured.

    Attributes:
        coefficients: the grid.
        rises: mean rise of the negative log-likelihood per token at each, nats.
        sweet: where the rise lies between VISIBLE and BREAKING.
        end: where it reaches BROKEN, or the grid's end.
    """

    coefficients: list[float]
    rises: list[float]
    sweet: tuple[float, float]
    end: float

    def as_card(self, start: float | None = None) -> dict[str, Any]:
        """For a direction's card; without ``start`` the slider starts where the rise is 1.0."""
        begin = self._where(1.0) if start is None else start
        return {**asdict(self), "sweet": list(self.sweet), "start": begin}

    def _where(self, rise: float) -> float:
        return _crossing(self.coefficients, self.rises, rise)


def coefficient_range(
    model: ChatModel,
    direction: Direction,
    questions: Sequence[str],
    coefficients: Sequence[float],
    *,
    repetition_penalty: float = 1.1,
    progress: Progress = silent,
) -> CoefficientRange:
    """Measure the useful range of a direction's coefficient.

    Args:
        questions: a few everyday ones; each is answered at every coefficient, greedily.
        coefficients: an increasing grid of positive numbers.
    """
    grid = [0.0, *coefficients]
    likelihoods = np.zeros((len(questions), len(grid)))
    for row, question in enumerate(questions):
        messages = [{"role": "user", "content": question}]
        for first in range(0, len(grid), ROWS_AT_ONCE):
            progress("Measuring the strength", row * len(grid) + first, len(questions) * len(grid))
            part = grid[first : first + ROWS_AT_ONCE]
            variants = [Variant.added(direction, coefficient) for coefficient in part]
            for step in stream_side_by_side(  # noqa: B007  the last step is what counts
                model, messages, variants, max_new_tokens=REPLY_TOKENS, repetition_penalty=repetition_penalty
            ):
                pass
            for column, ids in enumerate(step.token_ids):
                likelihoods[row, first + column] = mean_negative_log_likelihood(model, messages, ids)
    rises = np.maximum.accumulate(np.nanmean(likelihoods[:, 1:] - likelihoods[:, :1], axis=0))
    measured = [round(float(rise), 3) for rise in rises]
    sweet = (_crossing(coefficients, measured, VISIBLE), _crossing(coefficients, measured, BREAKING))
    return CoefficientRange(list(coefficients), measured, sweet, _crossing(coefficients, measured, BROKEN))


def mean_negative_log_likelihood(model: ChatModel, messages: list[dict[str, str]], reply: list[int]) -> float:
    """−mean log P(token | what is before it) of a reply under the model as it is, in nats; NaN for an empty reply."""
    if not reply:
        return float("nan")
    prompt = model.encode(messages)
    ids = torch.tensor([prompt + reply], device=model.device)
    with model.lock, torch.inference_mode():
        logits = model.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :]))


def _crossing(coefficients: Sequence[float], rises: Sequence[float], rise: float) -> float:
    """The coefficient at which the rise reaches a value, between grid points by a straight line, to 0.05."""
    at = float(np.interp(rise, [0.0, *rises], [0.0, *coefficients]))
    return round(round(at / 0.05) * 0.05, 2)
