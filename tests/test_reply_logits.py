"""Likelihoods and divergences of given replies, against transformers in float64, one by one and without padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import oracle
import pytest
import torch
from torch import Tensor

from steering.interventions import Variant
from steering.models import ChatModel
from steering.reply_logits import GivenReply, read_beside, reply_log_probabilities, reply_logits

Tiny = Callable[[str], ChatModel]
FAMILIES = ("llama3", "qwen2", "gemma2", "cohere", "gpt-neox", "olmo2")
REPLIES = ([7, 8, 9, 10, 11], [12], [9, 9, 30, 31, 5, 6, 7, 8])


def prompt(model: ChatModel, text: str) -> list[int]:
    return model.encode([{"role": "user", "content": text}])


def slowly(model: ChatModel, name: str, row: GivenReply, added: dict[int, Tensor], removed: Tensor | None) -> Tensor:
    """log P over the vocabulary at each of the reply's places and behind it, float64."""
    twin = oracle.float64_twin(model.model)
    with torch.no_grad(), oracle.by_hand(twin, name, added, removed):
        logits = twin(input_ids=torch.tensor([row.prompt + row.reply]), use_cache=False).logits[0]
    return logits[len(row.prompt) - 1 :].log_softmax(dim=-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_replies_under_several_variants(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    direction = oracle.make_direction(model, layer=1)
    prompts = [prompt(model, text) for text in ("Hi", "Tell me about the sea, please.", "Why?")]
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.5)]
    by_hand: list[tuple[dict[int, Tensor], Tensor | None]] = [
        ({}, None),
        ({}, direction.ablation_basis),
        ({1: 1.5 * direction.vector}, None),
    ]
    rows = [GivenReply(one, reply, variant) for one, reply, variant in zip(prompts, REPLIES, variants, strict=True)]
    found = reply_log_probabilities(model, rows)
    for row, own, (added, removed) in zip(rows, found, by_hand, strict=True):
        expected = slowly(model, name, row, added, removed)[:-1].gather(1, torch.tensor(row.reply)[:, None])[:, 0]
        torch.testing.assert_close(own.double(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_one_reply_beside_the_first(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    direction = oracle.make_direction(model, layer=1)
    reply = REPLIES[2]
    rows = [
        GivenReply(prompt(model, "Hi"), reply, Variant.baseline()),
        GivenReply(prompt(model, "Hi"), reply, Variant.ablated(direction)),
        GivenReply(prompt(model, "Be a poet. Hi"), reply, Variant.baseline()),  # a longer prompt, as one just asked has
    ]
    read, first = read_beside(model, rows)
    assert (read[0].kl, read[0].kl_first) == (0.0, 0.0)
    expected = [
        slowly(model, name, rows[0], {}, None),
        slowly(model, name, rows[1], {}, direction.ablation_basis),
        slowly(model, name, rows[2], {}, None),
    ]
    torch.testing.assert_close(first.double().log_softmax(dim=-1), expected[0], atol=2e-4, rtol=1e-4)
    for own, logs in zip(read, expected, strict=True):
        divergences = (expected[0].exp() * (expected[0] - logs)).sum(dim=-1)
        assert own.kl_first == pytest.approx(float(divergences[0]), abs=1e-5)
        assert own.kl == pytest.approx(float(divergences[:-1].mean()), abs=1e-5)
        likelihood = logs[:-1].gather(1, torch.tensor(reply)[:, None]).mean()
        assert own.cross_entropy == pytest.approx(-float(likelihood), abs=1e-4)
    [again], _ = read_beside(model, rows[1:2], first)
    assert again.kl == pytest.approx(read[1].kl, abs=1e-5)


def test_many_rows_are_read_in_several_passes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen2")
    rows = [GivenReply(prompt(model, "Hi " * n), REPLIES[n % 3], Variant.baseline()) for n in range(1, 8)]
    together = reply_log_probabilities(model, rows)
    monkeypatch.setattr("steering.reply_logits.MOST_LOGITS", 1)
    alone = reply_log_probabilities(model, rows)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_empty_reply_has_no_likelihood_but_a_beginning(tiny: Tiny) -> None:
    model = tiny("qwen2")
    row = GivenReply(prompt(model, "Hi"), [], Variant.baseline())
    [logits] = reply_logits(model, [row])
    assert logits.shape == (1, model.config.vocab_size)
    [read], _ = read_beside(model, [row])
    assert math.isnan(read.cross_entropy)
    assert read.kl_first == 0.0
    with pytest.raises(ValueError, match="nothing to read"):
        read_beside(model, [])
