"""How far a direction can be turned up before the text breaks: the useful range of its coefficient.

The measure is the likelihood of the steered reply under the unsteered model: its mean negative log-likelihood per token
rises with the coefficient, first little, while the idea is not seen yet, then steadily, and text whose rise is large is
broken. Counting the idea's words instead would mislead, for garbage scores high.

The coefficients at which the rise reaches its marks are found by section: many coefficients are tried at once, as rows
of one batch, on a wide grid first and then between the ones around each mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steering.directions import Direction
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.module_decoder import last_positions
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.scoring import Scorer

# Rises of the mean negative log-likelihood per token, in nats, over the unsteered replies. Between the first two an
# idea is seen and the text reads well; at START the slider starts; at BROKEN, where words break, it ends.
VISIBLE, BREAKING = 0.7, 1.7
START, BROKEN = 1.0, 2.0
# Questions of every day, none of which calls for an idea: there a direction has to bring it in by itself.
EVERYDAY = (
    "Why is the sky blue?",
    "How do I make pancakes?",
    "What can I do on a rainy Sunday?",
    "Tell me about rivers.",
)
WIDEST_DOSES = tuple(0.05 * 1.8**i for i in range(6))  # of the stream's usual length: 0.05 to 0.94
ROWS_AT_ONCE = 12
REPLIES_READ_AT_ONCE = 4  # their logits over the whole vocabulary lie in memory
REPLY_TOKENS = 48
MOST_REPEATED = 0.2  # of a reply's 3-grams; above it the slider starts lower
WHAT = "Measuring the strength"
PLATEAU = 0.9  # of what the metric gains at most is a plateau


@dataclass(frozen=True)
class CoefficientRange:
    """What was measured.

    Attributes:
        coefficients: those tried, increasing.
        rises: mean rise of the negative log-likelihood per token at each, nats; made monotone.
        repeated: share of 3-grams that occurred before in the same reply, mean at each.
        sweet: where the rise lies between VISIBLE and BREAKING.
        start: where it is START, or lower, where replies do not repeat themselves.
        end: where it reaches BROKEN, or the largest coefficient tried.
        n_questions: over how many questions the means go.
    """

    coefficients: list[float]
    rises: list[float]
    repeated: list[float]
    sweet: tuple[float, float]
    start: float
    end: float
    n_questions: int

    def as_card(self, start: float | None = None) -> dict[str, Any]:
        """For a direction's card; ``start`` replaces the measured one."""
        card = {**asdict(self), "sweet": list(self.sweet)}
        return card if start is None else card | {"start": start}


def calibrated(
    model: ChatModel,
    direction: Direction,
    *,
    questions: Sequence[str] = EVERYDAY,
    repetition_penalty: float = 1.15,
    progress: Progress = silent,
) -> Direction:
    """The direction with its measured range in its card, as ``"strength"``."""
    found = coefficient_range(model, direction, questions, repetition_penalty=repetition_penalty, progress=progress)
    return replace(direction, card=direction.card | {"strength": found.as_card()})


def coefficient_range(
    model: ChatModel,
    direction: Direction,
    questions: Sequence[str] = EVERYDAY,
    *,
    repetition_penalty: float = 1.15,
    progress: Progress = silent,
) -> CoefficientRange:
    """Measure the useful range of a direction's coefficient.

    Args:
        questions: a few everyday ones; each is answered greedily at every coefficient tried.
        progress: told after every token.
    """
    meter = _Meter(model, direction, questions, repetition_penalty, progress)
    meter.measure([direction.coefficient(dose) for dose in WIDEST_DOSES])
    meter.measure(meter.between_marks())
    coefficients, rises, repeated = meter.table()
    crossing = {mark: _crossing(coefficients, rises, mark) for mark in (VISIBLE, START, BREAKING, BROKEN)}
    fluent = [c for c, again in zip(coefficients, repeated, strict=True) if again <= MOST_REPEATED]
    start = min([crossing[START], *([max(fluent)] if fluent else [])])
    return CoefficientRange(
        coefficients=[_rounded(c) for c in coefficients],
        rises=[round(rise, 3) for rise in rises],
        repeated=[round(again, 3) for again in repeated],
        sweet=(crossing[VISIBLE], crossing[BREAKING]),
        start=_rounded(start),
        end=crossing[BROKEN],
        n_questions=len(questions),
    )


class _Meter:
    """Replies at coefficients, and what was measured of them."""

    def __init__(
        self, model: ChatModel, direction: Direction, questions: Sequence[str], penalty: float, progress: Progress
    ) -> None:
        self._model, self._direction, self._questions = model, direction, questions
        self._penalty, self._progress = penalty, progress
        self._rises: dict[float, list[float]] = {}
        self._repeated: dict[float, list[float]] = {}
        self._base = [float("nan")] * len(questions)
        self._done = 0

    def measure(self, coefficients: Sequence[float]) -> None:
        """Write replies to every question at each coefficient; the first time also unsteered ones."""
        grid = [*([0.0] if not self._rises else []), *coefficients]
        batches = -(-len(grid) // ROWS_AT_ONCE)
        total = 2 * len(self._questions) * batches
        for i, question in enumerate(self._questions):
            for first in range(0, len(grid), ROWS_AT_ONCE):
                self._answer(i, question, grid[first : first + ROWS_AT_ONCE], total)
                self._done += 1

    def _answer(self, i: int, question: str, coefficients: list[float], total: int) -> None:
        messages = [{"role": "user", "content": question}]
        variants = [Variant.added(self._direction, coefficient) for coefficient in coefficients]
        steps = stream_side_by_side(
            self._model, messages, variants, max_new_tokens=REPLY_TOKENS, repetition_penalty=self._penalty
        )
        for n_tokens, step in enumerate(steps):  # noqa: B007  the last one is what counts
            self._progress(WHAT, min(self._done + n_tokens / REPLY_TOKENS, total), total)
        likelihoods = mean_negative_log_likelihoods(self._model, messages, step.token_ids)
        for coefficient, ids, likelihood in zip(coefficients, step.token_ids, likelihoods, strict=True):
            if coefficient == 0.0:
                self._base[i] = likelihood
                continue
            self._rises.setdefault(coefficient, []).append(likelihood - self._base[i])
            self._repeated.setdefault(coefficient, []).append(repeated_share(ids))

    def between_marks(self) -> list[float]:
        """New coefficients, evenly between the ones around each mark."""
        coefficients, rises, _ = self.table()
        found = set()
        for mark in (VISIBLE, START, BREAKING, BROKEN):
            above = next((i for i, rise in enumerate(rises) if rise >= mark), None)
            if above is not None:
                low = coefficients[above - 1] if above else 0.0
                found |= {low + (coefficients[above] - low) * part / 3 for part in (1, 2)}
        return sorted(found - self._rises.keys())

    def table(self) -> tuple[list[float], list[float], list[float]]:
        """Coefficients, their mean rises, made monotone, and their mean repeated shares."""
        coefficients = sorted(self._rises)
        means = [_mean_of_known(self._rises[c]) for c in coefficients]
        repeated = [float(np.mean(self._repeated[c])) for c in coefficients]
        return coefficients, [float(x) for x in np.maximum.accumulate(means)], repeated


def metric_plateau(scorer: Scorer, direction: Direction, coefficients: Sequence[float]) -> dict[str, Any]:
    """Where the set's own metric has 90 % of what addition gains it at most: a second opinion on the coefficient.

    Returns:
        ``coefficients``, ``metric`` (mean under addition on the negative side), and ``plateau``, the smallest
        coefficient tried at which the metric has PLATEAU of its largest gain; None if it gains nothing.
    """
    scaled = [replace(direction, vector=coefficient * direction.vector) for coefficient in coefficients]
    metric = [float(scorer.run("induce", [one])[0]["induce"].mean()) for one in scaled]
    base = float(scorer.unsteered.negative.mean())
    gains = [value - base for value in metric]
    enough = PLATEAU * max(gains)
    plateau = next((c for c, gain in zip(coefficients, gains, strict=True) if gain >= enough), None)
    return {
        "coefficients": [_rounded(c) for c in coefficients],
        "metric": [round(value, 4) for value in metric],
        "plateau": _rounded(plateau) if plateau is not None and max(gains) > 0 else None,
    }


def mean_negative_log_likelihoods(
    model: ChatModel, messages: list[dict[str, str]], replies: Sequence[list[int]]
) -> list[float]:
    """−mean log P(token | what is before it) of each reply under the model as it is, in nats; NaN for an empty one."""
    prompt = model.encode(messages)
    found: list[float] = []
    for first in range(0, len(replies), REPLIES_READ_AT_ONCE):
        part = replies[first : first + REPLIES_READ_AT_ONCE]
        longest = max(map(len, part))
        # Padding on the right: attention is causal, so no token sees it.
        ids = torch.tensor([prompt + reply + [model.pad_token] * (longest - len(reply)) for reply in part])
        with model.lock, torch.inference_mode():
            kept = last_positions(longest + 1, model.device)
            output = model.model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=kept)
            wanted = ids[:, len(prompt) :].to(output.logits.device)
            losses = torch.nn.functional.cross_entropy(
                output.logits[:, :-1].float().transpose(1, 2), wanted, reduction="none"
            ).cpu()
        found += [float(row[: len(reply)].mean()) for row, reply in zip(losses, part, strict=True)]
    return found


def mean_negative_log_likelihood(model: ChatModel, messages: list[dict[str, str]], reply: list[int]) -> float:
    """:func:`mean_negative_log_likelihoods` of one reply."""
    return mean_negative_log_likelihoods(model, messages, [reply])[0]


def repeated_share(ids: Sequence[int]) -> float:
    """Share of a reply's 3-grams that occurred before in it; 0 for a reply shorter than that."""
    grams = [tuple(ids[i : i + 3]) for i in range(len(ids) - 2)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _mean_of_known(rises: Sequence[float]) -> float:
    """Mean without the empty replies; a coefficient at which nothing is said any more counts as broken."""
    known = [rise for rise in rises if np.isfinite(rise)]
    return float(np.mean(known)) if known else BROKEN


def _crossing(coefficients: Sequence[float], rises: Sequence[float], rise: float) -> float:
    """The coefficient at which the rise reaches a value, between those tried by a straight line."""
    return _rounded(float(np.interp(rise, [0.0, *rises], [0.0, *coefficients])))


def _rounded(coefficient: float) -> float:
    """To three digits, so that a card can be read."""
    return float(f"{coefficient:.3g}")
