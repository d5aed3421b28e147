"""Replies go into the next turn as the tokens they were written in.

Text does not lead back to its tokens: what a model wrote as two tokens may be read as one, and then it reads something
it never wrote, and keys and values kept from the writing (`steering.kept_rows`) hold only up to there. So a reply
remembers its tokens, and a conversation is encoded with them where the tokenizer would have put others for the same
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering import template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.template import Message

# Of the private use area, so that no template has them and no tokenizer's normaliser turns them into something else.
_MARK = "\ue000{}\ue001"


class Written(str):
    """A text that a model wrote, with the token ids it wrote; anywhere else it is that text and nothing more.

    Attributes:
        ids: without the token that ended the reply.
    """

    ids: tuple[int, ...]

    def __new__(cls, text: str, ids: Sequence[int] = ()) -> Written:
        written = super().__new__(cls, text)
        written.ids = tuple(ids)
        return written


def encode(tokenizer: PreTrainedTokenizerBase, messages: list[Message], thinking: bool) -> list[int]:
    """Token ids of the prompt for the next reply; the contents that are `Written` stand in it with their own ids.

    Where that would change the prompt's text, as with ids of another model or a template that rewrites its history, the
    text counts and the tokenizer decides.
    """
    prompt = template.render(tokenizer, messages, thinking)
    written = {
        place: message["content"]
        for place, message in enumerate(messages)
        if isinstance(message["content"], Written) and message["content"].ids
    }
    if not written or not tokenizer.is_fast:
        return template.encode(tokenizer, prompt)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    plain: list[int] = encoded["input_ids"]
    spans = _spans(tokenizer, messages, thinking, prompt, written)
    own: list[int] = []
    done = 0
    for (start, end), content in zip(spans, written.values(), strict=False):
        first, last = _tokens_within(encoded["offset_mapping"], start, end, done)
        if first is None or last is None:
            return plain
        own += plain[done:first]
        own += content.ids
        done = last
    own += plain[done:]
    return own if _same_text(tokenizer, own, plain) else plain


def _spans(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    thinking: bool,
    prompt: str,
    written: dict[int, Written],
) -> list[tuple[int, int]]:
    """Where each written content stands in the prompt, as the template shows with marks in their places; or nothing."""
    marked = [
        {**message, "content": _MARK.format(place)} if place in written else message
        for place, message in enumerate(messages)
    ]
    rest = template.render(tokenizer, marked, thinking)
    spans: list[tuple[int, int]] = []
    at = 0
    for place, content in written.items():
        before, mark, rest = rest.partition(_MARK.format(place))
        start = at + len(before)
        text = next((text for text in (str(content), content.strip()) if prompt.startswith(text, start)), None)
        if not mark or text is None or prompt[at:start] != before:
            return []
        at = start + len(text)
        spans.append((start, at))
    return spans if prompt[at:] == rest else []


def _tokens_within(
    offsets: Sequence[tuple[int, int]], start: int, end: int, first: int
) -> tuple[int | None, int | None]:
    """The tokens, from ``first`` on, that stand for a span's characters and nothing else; None if there are none."""
    touching = [place for place in range(first, len(offsets)) if offsets[place][0] < end and offsets[place][1] > start]
    if not touching or offsets[touching[0]][0] < start or offsets[touching[-1]][1] > end:
        return None, None
    return touching[0], touching[-1] + 1


def _same_text(tokenizer: PreTrainedTokenizerBase, own: list[int], plain: list[int]) -> bool:
    if max(own) >= len(tokenizer):
        return False
    decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in (own, plain)]
    return bool(decoded[0] == decoded[1])
