"""Conversations that fit: which turns a model can still read, and what each variant is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steering.errors import SteeringError

if TYPE_CHECKING:
    from steering.models import ChatModel, Message


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """The conversation with ``system`` as its system prompt; None leaves it as it is, "" takes it away."""
    if system is None:
        return messages
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system}, *rest] if system else rest


def fitted(model: ChatModel, messages: list[Message], max_new_tokens: int) -> tuple[list[int], int]:
    """Token ids of a conversation that leave room for the reply, and how many of its oldest messages were left out.

    Whole turns go, the oldest first; the system prompt and the newest user message stay.

    Raises:
        SteeringError: if the conversation does not end with a user's text, or that text alone is too long.
    """
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise SteeringError("Write a message first: the conversation must end with a text of the user.")
    system = [message for message in messages if message["role"] == "system"][:1]
    turns = [message for message in messages if message["role"] != "system"]
    room = model.max_length - max_new_tokens
    left_out = 0
    while True:
        ids = model.encode([*system, *turns])
        if len(ids) <= room:
            return ids, left_out
        later = next((i for i in range(1, len(turns)) if turns[i]["role"] == "user"), None)
        if later is None:
            raise SteeringError(
                f"The message has {len(ids)} tokens with its surroundings; {model.label} takes {max(room, 0)} beside a "
                f"reply of {max_new_tokens}. Shorten it, or ask for fewer new tokens."
            )
        left_out += later
        turns = turns[later:]
