"""Which turns of a conversation a model still reads, and what each variant is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from families import FAMILIES

from steering.conversation import fitted, with_system
from steering.errors import ModelError, SteeringError
from steering.models import ChatModel, Message

Tiny = Callable[[str], ChatModel]


def talk(*texts: str, system: str | None = None) -> list[Message]:
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + turns


def test_a_system_prompt_is_put_replaced_or_taken_away() -> None:
    plain, told = talk("Hi."), talk("Hi.", system="Be brief.")
    assert with_system(plain, None) == plain
    assert with_system(told, None) == told
    assert with_system(plain, "Rhyme.") == talk("Hi.", system="Rhyme.")
    assert with_system(told, "Rhyme.") == talk("Hi.", system="Rhyme.")
    assert with_system(told, "") == plain
    assert told == talk("Hi.", system="Be brief.")  # the list given stays as it is


@pytest.mark.parametrize("name", FAMILIES)
def test_what_fits_is_left_whole(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    conversation = talk("Why is the sky blue?", "Air scatters light.", "And the sea?", system="Be brief.")
    ids, left_out = fitted(chat, conversation, 100)
    assert ids == chat.encode(conversation)
    assert left_out == 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_oldest_whole_turns_go_first(name: str, system: str | None, tiny: Tiny) -> None:
    chat = tiny(name)
    texts = [f"{place} " + "sea and sky " * 60 for place in range(8)]
    conversation = talk(*texts, "And now?", system=system)
    whole = len(chat.encode(conversation))
    room_for_reply = chat.max_length - whole // 2
    ids, left_out = fitted(chat, conversation, room_for_reply)
    assert left_out > 0
    assert left_out % 2 == 0
    assert ids == chat.encode(talk(*texts[left_out:], "And now?", system=system))
    assert len(ids) + room_for_reply <= chat.max_length
    one_turn_more = chat.encode(talk(*texts[left_out - 2 :], "And now?", system=system))
    assert len(one_turn_more) + room_for_reply > chat.max_length  # no more was left out than had to be


def test_the_limit_is_exact(tiny: Tiny) -> None:
    chat = tiny("llama3")
    conversation = talk("Why is the sky blue?")
    length = len(chat.encode(conversation))
    assert fitted(chat, conversation, chat.max_length - length)[1] == 0
    with pytest.raises(SteeringError, match=rf"has {length} tokens.*takes {length - 1} beside"):
        fitted(chat, conversation, chat.max_length - length + 1)


def test_assistant_turns_at_the_beginning_go_with_the_first_question(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    greeting = [{"role": "assistant", "content": "Hello! " * 300}, *talk("Why is the sky blue?")]
    ids, left_out = fitted(chat, greeting, chat.max_length - 300)
    assert left_out == 1
    assert ids == chat.encode(talk("Why is the sky blue?"))


@pytest.mark.parametrize(
    "conversation",
    [
        [],
        talk("Hi.", "Hello."),
        talk(""),
        talk(" \n\t "),
        talk("Hi.", "Hello.", "\u3000"),
        [{"role": "system", "content": "Be brief."}],
    ],
)
def test_nothing_to_answer_gets_a_sentence(conversation: list[Message], tiny: Tiny) -> None:
    with pytest.raises(SteeringError, match="Write a message first"):
        fitted(tiny("llama3"), conversation, 10)


def test_a_template_that_refuses_says_why(tiny: Tiny) -> None:
    two_questions = [*talk("Hi."), *talk("Are you there?")]
    with pytest.raises(ModelError, match="Roles must alternate"):
        fitted(tiny("gemma"), two_questions, 10)
