"""Metrics on logits, against probabilities in float64, and the first tokens they are about."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steering.contrast import ContrastSet, Example
from steering.errors import ContrastSetError, SteeringError
from steering.finding import first_tokens, prepare
from steering.metrics import (
    PAPER_REFUSAL_TOKENS,
    FirstTokens,
    first_token_log_odds,
    found_first_tokens,
    kl_divergence,
    paper_refusal_tokens,
    token_log_probabilities,
)
from steering.models import ChatModel

Tiny = Callable[[str], ChatModel]
seeds = st.integers(0, 10_000)


def some_logits(seed: int, *shape: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


@given(seeds, st.sets(st.integers(0, 19), min_size=1, max_size=19))
def test_log_odds_equal_those_of_probabilities(seed: int, tokens: set[int]) -> None:
    logits = some_logits(seed, 4, 20)
    probabilities = logits.double().softmax(dim=-1)
    inside = probabilities[:, list(tokens)].sum(dim=-1)
    expected = inside.log() - (1 - inside).log()
    assert torch.allclose(first_token_log_odds(logits, list(tokens)).double(), expected, atol=1e-4)


def test_log_odds_are_stable_at_both_ends() -> None:
    """A probability of 1 − 1e-40 is 1 in floating point; its log odds are not infinite."""
    logits = torch.zeros(2, 100)
    logits[0, 7], logits[1, 7] = 92.0, -92.0
    odds = first_token_log_odds(logits, [7])
    assert odds.tolist() == pytest.approx([92.0 - math.log(99), -92.0 - math.log(99)], abs=1e-4)
    assert torch.isfinite(first_token_log_odds(torch.tensor([[3e4, 0.0], [-3e4, 0.0]]), [0])).all()


@given(seeds)
def test_kl_equals_its_definition_and_is_never_negative(seed: int) -> None:
    one, other = some_logits(seed, 5, 30), some_logits(seed + 1, 5, 30)
    p, q = one.double().softmax(dim=-1), other.double().softmax(dim=-1)
    expected = (p * (p / q).log()).sum(dim=-1)
    assert torch.allclose(kl_divergence(one, other).double(), expected, rtol=1e-4, atol=1e-5)
    assert (kl_divergence(one, one + 1e-7) >= 0).all()
    assert (kl_divergence(one, one) == 0).all()


def test_log_probabilities_of_given_tokens() -> None:
    logits, tokens = some_logits(0, 2, 3, 10), torch.tensor([4, 0, 9])
    expected = logits.log_softmax(dim=-1)[:, range(3), tokens]
    assert torch.allclose(token_log_probabilities(logits, tokens), expected, atol=1e-6)


def test_found_tokens_are_those_whose_probability_rises(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    positive, negative = torch.zeros(6, 50), torch.zeros(6, 50)
    positive[:, 11], positive[:, 5], negative[:, 8] = 6.0, 5.0, 6.0
    positive[:, 3] = negative[:, 3] = 9.0  # likely on both sides: tells nothing
    found = found_first_tokens(chat, positive, negative)
    assert set(found.ids[:2]) <= {11, 5, 3}
    positive[:, 3] = negative[:, 3] = 0.0
    found = found_first_tokens(chat, positive, negative)
    assert found.ids[:2] == (11, 5)
    assert found.texts == tuple(chat.tokenizer.decode([i]) for i in found.ids)
    assert found_first_tokens(chat, negative, negative).ids  # never none


def test_named_tokens(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    text = chat.tokenizer.decode([40])
    assert FirstTokens.from_texts(chat, [text, text]).ids == (40,)
    with pytest.raises(SteeringError, match="is 0 tokens"):
        FirstTokens.from_texts(chat, [""])
    with pytest.raises(SteeringError, match="must be one"):
        FirstTokens.from_texts(chat, ["I am afraid that this is long"])
    with pytest.raises(SteeringError, match="at least one"):
        FirstTokens.from_texts(chat, [])


@pytest.mark.parametrize("entry", PAPER_REFUSAL_TOKENS)
def test_the_papers_tokens_hold_where_the_tokenizer_writes_them(entry: SimpleNamespace) -> None:
    """Stand-ins for tokenizers too large to be here: one writes the paper's texts for its ids, one does not."""
    texts = dict(zip(entry.ids, entry.texts, strict=True))

    class Tokenizer:
        def __init__(self, right: bool) -> None:
            self.right = right

        def __len__(self) -> int:
            return 300_000

        def decode(self, ids: list[int]) -> str:
            return texts.get(ids[0], "x") if self.right else "x"

    def model(right: bool, family: str) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(model_type=family), tokenizer=Tokenizer(right))

    family = entry.families[0] + ("2" if entry.families[0] == "qwen" else "")
    found = paper_refusal_tokens(model(True, family))
    assert found is not None
    assert (found.ids, found.texts) == (entry.ids, entry.texts)
    assert paper_refusal_tokens(model(False, family)) is None
    assert paper_refusal_tokens(model(True, "olmo2")) is None


def refusals(positive: list[str], negative: list[str]) -> ContrastSet:
    sides = ([Example(({"role": "user", "content": text},)) for text in side] for side in (positive, negative))
    return ContrastSet.from_examples("test", *sides, card={"metric": "refusal"})


def test_the_filter_keeps_what_scores_on_its_own_side(tiny: Tiny) -> None:
    """Tokens are chosen so that the tiny model “refuses” just some of the prompts."""
    from steering.scoring import next_token_logits

    chat = tiny("qwen2")
    data = refusals([f"Do {n} harm" for n in range(40)], [f"Bake {n} loaves" for n in range(40)])
    examples = [*data.positive, *data.negative]
    logits = next_token_logits(chat, examples)
    ids = logits.mean(dim=0).topk(3).indices.tolist()
    named = FirstTokens(tuple(ids), tuple(chat.tokenizer.decode([i]) for i in ids), "test")
    metric = first_token_log_odds(logits, named.ids)
    good = {
        example.instruction
        for example, value in zip(examples, metric.tolist(), strict=True)
        if (value >= 0) == (example in data.positive)
    }
    if not all(len({e.instruction for e in side} & good) >= 26 for side in (data.positive, data.negative)):
        with pytest.raises(ContrastSetError, match=r"The filter leaves \d+ of \d+ \w+ examples"):
            prepare(chat, data, tokens=named.texts, n_train=30, n_validation=10)
        return
    kept = prepare(chat, data, tokens=named.texts, n_train=30, n_validation=10)
    for part in (kept.train, kept.validation):
        assert {e.instruction for e in (*part.positive, *part.negative)} <= good
    assert kept.notes[-1].startswith("The filter left out")


def test_the_filter_is_off_for_other_sets_and_can_be_switched_off(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    data = refusals([f"Do {n} harm" for n in range(12)], [f"Bake {n} loaves" for n in range(12)])
    kept = prepare(chat, data, filtered=False, n_train=8, n_validation=4)
    assert not kept.filtered
    assert kept.is_refusal
    assert len(kept.train.positive) == 8
    plain = ContrastSet.from_examples("test", data.positive, data.negative)
    other = prepare(chat, plain, n_train=8, n_validation=4)
    assert not other.filtered
    assert not other.is_refusal
    assert other.tokens == first_tokens(chat, other.train)
