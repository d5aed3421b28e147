"""What the “Evaluate” tab asks and finds: plain numbers and texts, which need no torch and may be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.evaluation_table import TableRow


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
        harmful: whether harmful requests are asked too.
    """

    title: str
    idea: str
    own: Direction | None
    coefficient: float
    ask: str
    model: tuple[str, str]
    count: int
    length: int
    harmful: bool


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
