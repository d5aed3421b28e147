"""What a direction makes likelier, against two ordinary runs of the engine."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import torch

from steering import Direction, Variant, stream_side_by_side
from steering.errors import DirectionError
from steering.explain import words_made_likelier
from steering.models import ChatModel

QUESTIONS = ("What is rain?", "Stop.")


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_the_words_are_those_whose_share_grows_most(name: str, tiny: Callable[[str], ChatModel]) -> None:
    chat = tiny(name)
    direction = oracle.make_direction(chat, 1, length=6.0)
    gained = torch.zeros(chat.config.vocab_size)
    for question in QUESTIONS:
        conversation = [{"role": "user", "content": question}]
        variants = [Variant.baseline(), Variant.added(direction, 1.5)]
        (step,) = stream_side_by_side(
            chat, conversation, variants, max_new_tokens=1, likeliest=chat.config.vocab_size, repetition_penalty=1.0
        )
        for sign, told in zip((-1, 1), step.likeliest, strict=True):
            assert told is not None
            gained[told[0]] += sign * torch.tensor(told[1])
    expected = [
        word
        for token in gained.argsort(descending=True).tolist()
        if gained[token] > 0 and any(map(str.isalpha, word := chat.tokenizer.decode([token]).strip()))
    ]
    found = words_made_likelier(chat, direction, 1.5, QUESTIONS)
    assert found == list(dict.fromkeys(expected))[: len(found)]
    assert 0 < len(found) <= 8


def test_no_strength_makes_nothing_likelier(tiny: Callable[[str], ChatModel]) -> None:
    chat = tiny("qwen3")
    assert words_made_likelier(chat, oracle.make_direction(chat, 1), 0.0) == []


def test_a_direction_of_another_width_is_refused(tiny: Callable[[str], ChatModel]) -> None:
    vector = torch.ones(8)
    narrow = Direction(vector, (vector / vector.norm())[None], 1, -1, 1.0)
    with pytest.raises(DirectionError, match="width"):
        words_made_likelier(tiny("qwen3"), narrow, 1.0)
