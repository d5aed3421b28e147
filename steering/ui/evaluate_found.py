"""What the “Evaluate” tab asks and finds: plain numbers and texts, which need no torch and may be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.evaluation_table import TableRow
    from steering.named_sets import Side

HELD_OUT = "held-out"  # questions and text that come with the project; the same word as on the command line


@dataclass(frozen=True, eq=False)
class ToEvaluate:
    """What is to be evaluated.

    Attributes:
        title: the idea's, for people.
        idea, own: a preset's name, or a direction of the visitor's own.
        coefficient: how far it is turned up; below 0 its opposite is.
        ask: what the model is told when it is just asked for the idea.
        model: name and revision of the model that was in use when it was asked.
        count: questions of each kind.
        length: tokens of an answer at most.
        sets: what is read on each side, by the names of `named_sets`; a side that is missing is not asked.
        judge: the model that tells safe answers from unsafe ones; "" for none.
        edited: whether the model with the direction taken out of its weights answers too.
    """

    title: str
    idea: str
    own: Direction | None
    coefficient: float
    ask: str
    model: tuple[str, str]
    count: int
    length: int
    sets: Mapping[Side, str]
    judge: str = ""
    edited: bool = False

    @property
    def needs_more(self) -> bool:
        """Whether it needs anything beside the model in use and what comes with the project."""
        return bool(self.judge or self.edited) or set(self.sets.values()) != {HELD_OUT}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was found.

    Attributes:
        model: for people.
        rows: the table.
        records: behind it, without replies, to hold a later one beside it.
        about: how it was made, as the command line's JSON says it.
    """

    asked: ToEvaluate
    model: str
    rows: list[TableRow]
    records: list[dict[str, Any]]
    about: dict[str, Any]
