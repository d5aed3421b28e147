"""Choose the next token of each row, with the same dice for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import SteeringError


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        repetition_penalty: divides the positive logits of tokens the reply already has, multiplies its negative ones
            (arXiv 1909.05858, section 4.1); 1 changes nothing. Only the reply counts, not the prompt.
        seed: of the noise at temperature > 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 5:
            raise SteeringError(f"The temperature must lie between 0 and 5, not at {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise SteeringError(f"top-p must be above 0 and at most 1, not {self.top_p}.")
        if not 0.5 <= self.repetition_penalty <= 3:
            raise SteeringError(f"The repetition penalty must lie between 0.5 and 3, not at {self.repetition_penalty}.")


class Sampler:
    """Draws the rows' tokens step by step.

    At temperature > 0 the token is argmax(logits / T + g) with Gumbel noise g: a draw from softmax(logits / T). One g
    serves all rows of a step, so two rows with equal logits draw the same token, and texts differ by the steering only;
    what a row draws does not depend on which others are still there.
    """

    def __init__(self, settings: SamplingSettings, rows: int, device: torch.device) -> None:
        self.settings = settings
        self.rows = rows
        # Made on the CPU, so that a seed means the same on every device.
        self._dice = torch.Generator().manual_seed(settings.seed % 2**63)
        self._written: Tensor | None = None
        self._device = device

    def choose(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Token ids ``[rows]`` from logits ``[rows, vocabulary]``.

        Args:
            rows: which rows these are, for the others have ended; by default all.

        Raises:
            SteeringError: if a logit is not a number, as when a coefficient is far too large.
        """
        scores = logits.float()
        places = torch.tensor(range(self.rows) if rows is None else rows, device=scores.device)
        if self.settings.repetition_penalty != 1:
            scores = self._penalised(scores, places)
        if self.settings.temperature > 0:
            scores = scores / self.settings.temperature
            if self.settings.top_p < 1:
                scores = _nucleus(scores, self.settings.top_p)
            scores = scores + self._gumbel(scores.shape[-1]).to(scores.device)
        best, tokens = scores.max(dim=-1)
        if not torch.isfinite(best).all():
            raise SteeringError("The model's numbers overflowed, so no next word could be chosen. Lower the strength.")
        if self._written is not None:
            self._written[places, tokens] = True
        return tokens

    def _penalised(self, scores: Tensor, places: Tensor) -> Tensor:
        if self._written is None:
            self._written = torch.zeros(self.rows, scores.shape[-1], dtype=torch.bool, device=scores.device)
        penalty = self.settings.repetition_penalty
        weakened = torch.where(scores > 0, scores / penalty, scores * penalty)
        return torch.where(self._written[places], weakened, scores)

    def _gumbel(self, vocabulary: int) -> Tensor:
        uniform = torch.rand(vocabulary, generator=self._dice).clamp_(1e-20, 1 - 1e-7)
        return -torch.log(-torch.log(uniform))


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores with all tokens outside the nucleus at −∞; the likeliest token always stays."""
    ordered, order = scores.sort(dim=-1, descending=True)
    probability = ordered.softmax(dim=-1)
    outside = probability.cumsum(dim=-1) - probability >= top_p
    return scores.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
