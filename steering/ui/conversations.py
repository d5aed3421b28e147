"""What was asked and answered: turns, and conversations that branch when an earlier question is asked differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BRANCHES_KEPT = 12  # of one conversation; the oldest that is not gone on from is forgotten first

Message = dict[str, str]
Likeliest = list[tuple[str, float]]  # next tokens with their probabilities, the likeliest first


@dataclass(eq=False)
class Turn:
    """One question and the replies to it, one a column.

    Attributes:
        columns: the columns' keys (`columns`).
        replies: their answers, without what was thought before.
        thoughts: what was thought aloud before; "" for models that do not.
        log: how they were written, as the page is drawn from it (`scope`).
        note: what to say of it at the end.
        likeliest: by column and token number, from 1: what could have been said there.
        settings: what it was written with, for whoever takes the run home.
        notes: what went wrong with each answer; empty where nothing can.
    """

    question: str
    columns: tuple[str, ...]
    replies: list[str]
    log: str
    thoughts: list[str] = field(default_factory=list)
    note: str = ""
    likeliest: dict[tuple[int, int], Likeliest] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def reply_of(self, column: str) -> str:
        """The answer of a column; of one that was not there then, that of the first, which is the model as it is."""
        return self.replies[self.columns.index(column) if column in self.columns else 0]

    def likeliest_at(self, column: str, number: int) -> Likeliest | None:
        """What a column could have said at its token ``number``, from 1; None if it wrote no such token."""
        return self.likeliest.get((self.columns.index(column), number)) if column in self.columns else None

    def log_of(self, columns: Sequence[str]) -> str:
        """The log as it is drawn where these columns stand side by side, without the lines that name them."""
        places = {str(old): str(columns.index(key)) for old, key in enumerate(self.columns) if key in columns}
        kept = []
        for line in self.log.splitlines(keepends=True):
            kind, _, rest = line.partition("|")
            if kind == "T":
                number, column, content = rest.split("|", 2)
                if column in places:
                    kept.append(f"T|{number}|{places[column]}|{content}")
            elif kind not in ("I", "B"):
                kept.append(line)
        return "".join(kept)


@dataclass
class Conversation:
    """The turns of one idea, in branches that share their beginnings.

    Attributes:
        branches: lists of turns; never empty.
        current: the branch in view.
        was_used: whether anything was ever asked here, so that no example need be shown in its place.
    """

    branches: list[list[Turn]] = field(default_factory=lambda: [[]])
    current: int = 0
    was_used: bool = False

    @property
    def turns(self) -> list[Turn]:
        """The turns of the branch in view; what is changed here is changed there."""
        return self.branches[self.current]

    def append(self, turn: Turn, most: int = 24) -> None:
        """Add a turn to the branch in view; of more than ``most`` turns the oldest is forgotten."""
        self.turns.append(turn)
        del self.turns[:-most]
        self.was_used = True

    def branch(self, index: int) -> None:
        """Go on from before the turn at ``index``, and keep what there was as a branch."""
        self.branches.append(self.turns[:index])
        if len(self.branches) > BRANCHES_KEPT:
            oldest = 0 if self.current else 1
            del self.branches[oldest]
        self.current = len(self.branches) - 1

    def go(self, step: int) -> None:
        """Bring the branch ``step`` further into view, round and round."""
        self.current = (self.current + step) % len(self.branches)

    def tidy(self) -> None:
        """Forget branches that hold nothing another does not, such as that of an edit that was never asked."""
        in_view = self.turns
        kept = [in_view]
        for branch in sorted((b for b in self.branches if b is not in_view), key=len, reverse=True):
            if not any(_begins_with(other, branch) for other in kept):
                kept.append(branch)
        self.branches = [branch for branch in self.branches if any(branch is one for one in kept)]
        self.current = next(place for place, branch in enumerate(self.branches) if branch is in_view)

    def histories(self, columns: Sequence[str]) -> list[list[Message]]:
        """What each column has read, as messages, ready for another user's text."""
        return [
            [
                message
                for turn in self.turns
                for message in (
                    {"role": "user", "content": turn.question},
                    {"role": "assistant", "content": turn.reply_of(column)},
                )
            ]
            for column in columns
        ]


def _begins_with(turns: list[Turn], beginning: list[Turn]) -> bool:
    return len(beginning) <= len(turns) and all(a is b for a, b in zip(turns, beginning, strict=False))
