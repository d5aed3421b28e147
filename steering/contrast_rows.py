"""One row of a contrast set's file: its fields, what they may hold, and the sentence for each mistake in them."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from steering.errors import ContrastSetError

Side = Literal["positive", "negative"]
Conversation = tuple[dict[str, str], ...]

COLUMNS = ("instruction", "text", "label", "response", "system", "pair", "messages", "positive", "negative")
LABELS: dict[str, Side] = {
    **dict.fromkeys(("positive", "pos", "1", "1.0", "+1", "+", "true", "yes", "harmful"), "positive"),
    **dict.fromkeys(("negative", "neg", "0", "0.0", "-1", "-1.0", "-", "false", "no", "harmless"), "negative"),
}


@dataclass(frozen=True)
class Limits:
    """What one file may hold: rows, characters in one text, bytes in all. The page's limits are the defaults."""

    rows: int = 2_000
    characters: int = 2_000
    bytes: int = 1_000_000


@dataclass(frozen=True)
class Row:
    """One example as it stands in a file.

    ``number`` counts from 1: the line of a TXT or JSONL file, the place in a JSON list, the row a spreadsheet shows
    for a CSV file (the header is row 1, a cell with line breaks is still one row). ``side`` is None without a label.
    """

    file: str
    number: int
    side: Side | None
    messages: Conversation
    response: str | None = None
    pair: str | None = None


class RecordReader:
    """Turns one record, an object of a JSON file or a row of a CSV file, into its rows: one, or two for a pair.

    Fields: ``instruction`` (or ``text``) and optionally ``system`` and ``response``; or ``messages``, of which a last
    one by the assistant is the response; ``label`` and ``pair``. Or ``positive`` and ``negative``, the two of a pair.
    """

    def __init__(self, file: str, number: int, record: Any, limits: Limits | None) -> None:
        self.file = file
        self.number = number
        self.record = {"text": record} if isinstance(record, str) else record
        self.limits = limits

    def rows(self) -> list[Row]:
        """The record's rows; raises ContrastSetError with the file and the row in its sentence."""
        if not isinstance(self.record, dict):
            raise self.error('is neither an object nor a text: write it as {"instruction": …, "label": …}')
        if "positive" in self.record or "negative" in self.record:
            return [self.side_of_pair("positive"), self.side_of_pair("negative")]
        messages, response = self.conversation()
        return [Row(self.file, self.number, self.side(), messages, response, self.pair())]

    def error(self, what: str) -> ContrastSetError:
        return ContrastSetError(f"Row {self.number} of {self.file} {what}.")

    def side_of_pair(self, side: Side) -> Row:
        """The text under ``side``: the user's words, or the reply to them where the record has an instruction too."""
        text = self.required(side)
        pair = self.pair() or str(self.number)
        if self.field("instruction") or self.field("text"):
            return Row(self.file, self.number, side, self.conversation()[0], text, pair)
        return Row(self.file, self.number, side, self.with_system(({"role": "user", "content": text},)), None, pair)

    def conversation(self) -> tuple[Conversation, str | None]:
        """The messages up to the user's last, and the reply to them."""
        response = self.field("response")
        if self.record.get("messages") is None:
            column = "text" if self.record.get("instruction") is None else "instruction"
            return self.with_system(({"role": "user", "content": self.required(column)},)), response
        if self.field("instruction") or self.field("text"):
            raise self.error("has messages and an instruction too: keep one of them")
        messages = self.messages()
        if messages[-1]["role"] == "assistant":
            if response is not None:
                raise self.error("has a response and a last message by the assistant too: keep one of them")
            messages, response = messages[:-1], messages[-1]["content"]
        messages = self.with_system(messages)
        roles = " ".join(message["role"] for message in messages)
        if not re.fullmatch(r"(system )?(user assistant )*user", roles):
            raise self.error("has messages out of order: user and assistant take turns, after the system's, if any")
        return messages, response

    def messages(self) -> Conversation:
        messages = self.record["messages"]
        if not isinstance(messages, list) or not messages:
            raise self.error('has no messages: write them as [{"role": "user", "content": …}]')
        cleaned = []
        for place, message in enumerate(messages, start=1):
            if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
                raise self.error(f"has no role in message {place}: write system, user or assistant")
            content = self.clean(message.get("content"), f"content of message {place}")
            if content is None:
                raise self.error(f"has no text in message {place}: fill it in or delete the row")
            cleaned.append({"role": message["role"], "content": content})
        return tuple(cleaned)

    def with_system(self, messages: Conversation) -> Conversation:
        system = self.field("system")
        return messages if system is None else ({"role": "system", "content": system}, *messages)

    def side(self) -> Side | None:
        label = self.record.get("label")
        if label is None or (isinstance(label, str) and not label.strip()):
            return None
        spelling = str(label).strip().lower()
        if spelling not in LABELS:
            raise self.error(f"has the label {spelling[:40]!r}: write positive or negative")
        return LABELS[spelling]

    def pair(self) -> str | None:
        pair = self.record.get("pair")
        return self.clean(str(pair) if isinstance(pair, int | float) else pair, "pair")

    def required(self, name: str) -> str:
        text = self.field(name)
        if text is None:
            what = "text" if name in ("text", "instruction") else f"{name} text"
            raise self.error(f"has no {what}: fill it in or delete the row")
        return text

    def field(self, name: str) -> str | None:
        return self.clean(self.record.get(name), name)

    def clean(self, text: Any, name: str) -> str | None:
        """The text without the space around it and with ``\\n`` as line end, so that every format reads alike."""
        if text is None:
            return None
        if not isinstance(text, str):
            raise self.error(f"has a {name} that is not a text: put it in double quotes")
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        if re.search("[\0\ud800-\udfff]", text):
            raise self.error(f"has a {name} with a character that is no text (NUL or half of a pair): take it out")
        if self.limits is not None and len(text) > self.limits.characters:
            raise self.error(
                f"has a {name} of {len(text):,} characters, above the {self.limits.characters:,} allowed: shorten it"
            )
        return text or None
