"""The useful range of a coefficient, against likelihoods computed one reply at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import oracle
import pytest
import torch

from steering.calibration import (
    BREAKING,
    BROKEN,
    EVERYDAY,
    START,
    VISIBLE,
    calibrated,
    coefficient_range,
    mean_negative_log_likelihoods,
    metric_plateau,
    repeated_share,
)
from steering.errors import Cancelled
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.scoring import PromptScorer

Tiny = Callable[[str], ChatModel]
MESSAGES = [{"role": "user", "content": "Tell me about rivers."}]


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gpt-neox"])
def test_likelihoods_equal_those_of_single_replies(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    replies = [[5, 9, 11], [], [7], [3, 4, 5, 6, 7, 8, 9], [9, 9], [12, 13, 14, 15]]
    prompt = chat.encode(MESSAGES)
    found = mean_negative_log_likelihoods(chat, MESSAGES, replies)
    for value, reply in zip(found, replies, strict=True):
        if not reply:
            assert math.isnan(value)
            continue
        with torch.no_grad():
            logits = oracle.float64_twin(chat.model)(torch.tensor([prompt + reply]), use_cache=False).logits[0]
        log_p = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)[range(len(reply)), reply]
        assert value == pytest.approx(-float(log_p.mean()), abs=1e-4)


def test_repeated_share() -> None:
    assert repeated_share([1, 2]) == 0
    assert repeated_share([1, 2, 3, 4, 5]) == 0
    assert repeated_share([1, 1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)


def test_the_range_is_where_the_rise_reaches_its_marks(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    direction = oracle.make_direction(chat)
    seen: list[float] = []
    found = coefficient_range(
        chat, direction, EVERYDAY[:2], progress=lambda what, done, total: seen.append(done / total)
    )
    assert found.coefficients == sorted(found.coefficients)
    assert found.rises == sorted(found.rises)
    assert len(found.coefficients) == len(found.rises) == len(found.repeated)
    assert 0 <= found.sweet[0] <= found.sweet[1] <= found.end <= found.coefficients[-1]
    assert VISIBLE < START < BREAKING < BROKEN
    for mark, value in ((VISIBLE, found.sweet[0]), (BREAKING, found.sweet[1]), (BROKEN, found.end)):
        below = [c for c, rise in zip(found.coefficients, found.rises, strict=True) if rise < mark]
        above = [c for c, rise in zip(found.coefficients, found.rises, strict=True) if rise >= mark]
        assert value >= max(below, default=0) * 0.99
        if above:
            assert value <= min(above) * 1.01
    assert seen == sorted(seen)
    assert max(seen) <= 1


def test_it_can_be_cancelled_and_goes_into_the_card(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    direction = oracle.make_direction(chat)

    def stop(what: str, done: float, total: float) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        calibrated(chat, direction, questions=EVERYDAY[:1], progress=stop)
    card = calibrated(chat, direction, questions=EVERYDAY[:1]).card["strength"]
    assert set(card) >= {"sweet", "start", "end", "coefficients", "rises", "n_questions"}
    assert card["n_questions"] == 1


def test_the_metrics_plateau(tiny: Tiny) -> None:
    from test_scoring import CHECK

    chat = tiny("qwen2")
    scorer = PromptScorer(chat, CHECK, FirstTokens((5, 9), ("a", "b"), "for this test"))
    direction = oracle.make_direction(chat)
    found = metric_plateau(scorer, direction, [0.5, 1.0, 2.0])
    base = float(scorer.unsteered.negative.mean())
    gains = [value - base for value in found["metric"]]
    if max(gains) <= 0:
        assert found["plateau"] is None
    else:
        first = next(c for c, gain in zip([0.5, 1.0, 2.0], gains, strict=True) if gain >= 0.9 * max(gains) - 1e-4)
        assert found["plateau"] == first
