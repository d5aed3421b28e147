"""Examples, one conversation each, and what they must be to make a contrast set together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from steering.errors import ContrastSetError

ROWS_NAMED_IN_A_SENTENCE = 10


@dataclass(frozen=True)
class Example:
    """A conversation up to and including the user's last text, with or without the assistant's reply to it.

    Two examples are equal when conversation and reply are, wherever they were read.
    """

    messages: tuple[dict[str, str], ...]
    response: str | None = None
    row: int | None = field(default=None, compare=False)
    pair: str | None = field(default=None, compare=False)
    file: str | None = field(default=None, compare=False)

    @property
    def instruction(self) -> str:
        """The user's last text."""
        return self.messages[-1]["content"]

    @property
    def text(self) -> str:
        """What carries the idea: the response, or the instruction of an example without one."""
        return self.instruction if self.response is None else self.response

    @property
    def canonical(self) -> str:
        """Conversation and response as one string, the same for every file format and order of keys."""
        turns = [[message["role"], message["content"]] for message in self.messages]
        return json.dumps([turns, self.response], ensure_ascii=False)

    def __hash__(self) -> int:
        return hash(self.canonical)

    @property
    def place(self) -> str:
        """Where it was read, else how it begins, for use inside a sentence."""
        return f"row {self.row}" if self.row is not None else f"“{self.text[:40]}”"

    @property
    def full_place(self) -> str:
        """The place with the file's name."""
        return f"{self.place} of {self.file}" if self.file is not None else self.place


def require_both_sides(name: str, positive: Sequence[Example], negative: Sequence[Example]) -> None:
    """Raise ContrastSetError, naming the file, if a side is empty."""
    if not positive or not negative:
        file = next((example.file for example in (*positive, *negative) if example.file), name)
        missing = "negative" if positive else "positive"
        raise ContrastSetError(f"{file} has no {missing} examples: a contrast set needs both sides, so add some.")


def require_all_or_no_responses(examples: list[Example]) -> None:
    """Raise ContrastSetError, naming the row, if only some examples have a response."""
    without = [example for example in examples if example.response is None]
    if without and len(without) < len(examples):
        # The sides are in one file or in two; within a file the smallest row is the first.
        first = min(without, key=lambda example: (example.file != without[0].file, example.row or 0))
        raise ContrastSetError(
            f"There is no response in {first.full_place} (the first of {len(without)} without), but others have one: "
            f"give every row a response, or none."
        )


def without_repeats(examples: Sequence[Example], side: str, notes: list[str]) -> list[Example]:
    """The examples without those that an earlier one equals; a note tells how many and which."""
    first: dict[Example, Example] = {}
    repeats = []
    for example in examples:
        if first.setdefault(example, example) is not example:
            repeats.append(f"{example.place} (same as {first[example].place})")
    if repeats:
        notes.append(
            f"{len(repeats)} {side} example{'s were' if len(repeats) > 1 else ' was'} left out for repeating another: "
            f"{first_few(repeats)}."
        )
    return list(first)


def require_one_a_pair(side: str, examples: list[Example]) -> None:
    """Raise ContrastSetError, naming the rows, if two examples of a side are of one pair."""
    first: dict[str, Example] = {}
    for example in examples:
        if example.pair is not None and first.setdefault(example.pair, example) is not example:
            raise ContrastSetError(
                f"The pair {example.pair!r} has two {side} examples, {first[example.pair].full_place} and "
                f"{example.full_place}: give each pair of a positive and a negative one its own name."
            )


def first_few(places: list[str]) -> str:
    """The places as a list in a sentence, cut where it would become too long."""
    shown = places[:ROWS_NAMED_IN_A_SENTENCE]
    rest = len(places) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
