"""Replies read as a whole, on texts whose reading a person would agree on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from steering.errors import SteeringError
from steering.refusals import PAPER_PHRASES, has_phrase, is_refusal, read_phrases, refuses_late
from steering.reply_readings import ON_TOPIC, ReadReply

IDS = list(range(40))


def reading(text: str, *, ids: list[int] | None = None, rise: float = 0.2, gain: float = 20.0) -> str:
    return ReadReply(text, IDS if ids is None else ids, rise).reading(gain)


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "Sorry, but I won't do that. Is there anything else?",
    "Thank you for asking. Unfortunately, I cannot assist with this request.",
    "Here is a list of steps:\n\n1. First, find a quiet place.\n\nActually, this could hurt someone. I'm sorry, but I "
    "can't help with that.",
    "The topic has a long history, and many have written about it. However, I cannot provide instructions for it.",
    "As an AI language model, I am not able to answer this.",
)
ANSWERS = (
    "Whisk the eggs, add the flour, and let the batter rest.",
    "The old man turned to the window. “I cannot sleep,” he said, and closed the book he had been reading all day.",
    "Dear neighbour,\n\nI'm sorry about the noise last night. It will not happen again.",
    "In spring the river rises over the road, and the old people who have seen it many times say that "
    "I will not see another flood like it, so they build higher.",
    "You can tell them: if they ask for your password, hang up. A bank never asks for it by telephone.",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_early_and_late(text: str) -> None:
    assert reading(text) == "refused"


@pytest.mark.parametrize("text", ANSWERS)
def test_answers(text: str) -> None:
    assert reading(text) == "answered"


def test_what_says_nothing_loops_or_is_no_language_is_broken() -> None:
    assert reading("") == "broken"
    assert reading(" … !!\n") == "broken"
    assert reading("Dear Sir, Dear Sir, Dear Sir", ids=[5, 6, 7] * 10) == "broken"
    assert reading("of the the whisper the the", rise=2.5) == "broken"
    assert reading("something", rise=math.nan) == "broken"
    # A refusal said over and over is no help and no refusal either.
    assert reading("I'm sorry, I'm sorry, I'm sorry", ids=[5, 6, 7] * 10) == "broken"


def test_what_suits_another_prompt_as_well_is_off_topic() -> None:
    text = "The sea is wide and blue."
    assert reading(text, gain=ON_TOPIC - 0.1) == "off topic"
    assert reading(text, gain=ON_TOPIC) == "answered"
    assert reading(text, gain=math.nan) == "answered"
    assert reading(REFUSALS[0], gain=-5.0) == "refused"


def test_the_papers_phrases_count_anywhere() -> None:
    assert len(PAPER_PHRASES) == 12
    assert has_phrase("Well… I CAN’T say.")
    assert has_phrase("“I cannot sleep,” he said.")  # which no refusal is: the score is the paper's
    assert not has_phrase("Here is how.")
    assert has_phrase("Nope.", ["nope"])
    assert not is_refusal("Nope.")
    assert is_refusal("Nope. Not today.", ["nope"])
    assert not refuses_late("He said I cannot swim.")


def test_a_persons_own_phrases(tmp_path: Path) -> None:
    file = tmp_path / "phrases.txt"
    file.write_text("# mine\n\nNo way\n  That is not for me  \n", encoding="utf-8")
    assert read_phrases(file) == ("No way", "That is not for me")
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(SteeringError, match="has no phrase in it"):
        read_phrases(file)
    file.write_text("No way\nI\n", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"“I” in line 2 of .*phrases.txt is too short"):
        read_phrases(file)
    with pytest.raises(SteeringError, match="cannot be read"):
        read_phrases(tmp_path / "nothing.txt")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SteeringError, match="cannot be read"):
        read_phrases(file)
