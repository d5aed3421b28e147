"""What each kind of step costs in a search and where it drops candidates, learned as it goes: which to take next, and
of how many candidates at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steering.score_store import Place

MOST_AT_ONCE = 16
# Twice as many at once are kept if they make a candidate at least so much cheaper.
WORTH_DOUBLING = 0.9
LOOKS = 2  # at each number of rows, of which the faster counts: the first of all warms up, and machines are not quiet
LAYERS_ALIKE = 3  # over so many layers what a step tells of another candidate falls to a third
LEANS_ALIKE = 0.3  # and over such a difference of leans
# Before there is experience, a lean x counts as so many tries, a part 1 / (1 + exp(−LEAN_STEEPNESS x)) of them drops.
LEAN_TRIES, LEAN_STEEPNESS = 2.0, 3.0


@dataclass(frozen=True)
class Outlook:
    """What speaks for a candidate's being dropped by a step, before it is taken.

    Attributes:
        place: position and layer.
        lean: if part of the sum that the step goes on with is known, log(sum after it / limit), supposing that the
            examples to come are like those seen; above 0 the candidate will probably be dropped.
    """

    place: Place
    lean: float | None = None

    def likeness(self, other: Outlook) -> float:
        """How far what another candidate met tells of this one, from 0 to 1.

        Candidates of nearby layers fare alike, those of the same position more so; but where both lean to something,
        that tells more than their places.
        """
        if self.lean is not None and other.lean is not None:
            return math.exp(-abs(self.lean - other.lean) / LEANS_ALIKE)
        near = math.exp(-abs(self.place[1] - other.place[1]) / LAYERS_ALIKE)
        return near if self.place[0] == other.place[0] else 0.5 * near


class StepCosts:
    """One kind of step.

    Attributes:
        rows: how many candidates are best taken at once: doubled while that makes a candidate cheaper.
    """

    def __init__(self) -> None:
        self.rows = 1
        self._settled = False
        self._seconds = 0.0
        self._work = 0.0
        self._tries: list[tuple[Outlook, bool]] = []
        self._looks: list[float] = []
        self._before = math.inf  # seconds a candidate with half as many rows

    def took(self, n: int, work: float, seconds: float) -> None:
        """Learn from a pass of ``n`` candidates; ``work`` is the part of the model's blocks that it ran."""
        self._seconds += seconds
        self._work += n * work
        if self._settled or n != self.rows:
            return
        self._looks.append(seconds / (n * work))
        if len(self._looks) == LOOKS:
            each, self._looks = min(self._looks), []
            if each > WORTH_DOUBLING * self._before:
                self.rows //= 2
                self._settled = True
            elif self.rows < MOST_AT_ONCE:
                self._before = each
                self.rows *= 2

    def tried(self, outlooks: Sequence[Outlook], dropped: Sequence[bool]) -> None:
        """Learn which candidates the step dropped; ``outlooks`` are those from before it."""
        self._tries += zip(outlooks, dropped, strict=True)

    def allow(self, rows: int) -> None:
        """Take at most ``rows`` at once from now on, for memory is short."""
        self.rows = min(self.rows, rows)
        self._settled = True

    def per_drop(self, work: float, outlook: Outlook) -> float:
        """Expected seconds for each candidate dropped, of candidates with this outlook, from how those like it fared.

        Without a lean, half a drop of one imagined try stands for no experience, so that every kind of step is tried.
        """
        price = self._seconds / self._work if self._work else 0.0
        tried, dropped = 1.0, 0.5
        if outlook.lean is not None:
            tried, dropped = LEAN_TRIES, LEAN_TRIES / (1 + math.exp(-LEAN_STEEPNESS * outlook.lean))
        for other, drop in self._tries:
            likeness = outlook.likeness(other)
            tried += likeness
            dropped += likeness * drop
        return price * work * tried / dropped
