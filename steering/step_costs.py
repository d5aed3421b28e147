"""What each kind of step costs in a search and where it drops candidates, learned as it goes: which to take next, and
of how many candidates at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from steering.score_store import Place

MOST_AT_ONCE = 16
# Twice as many at once are kept if they make a candidate at least so much cheaper.
WORTH_DOUBLING = 0.9
LOOKS = 2  # at each number of rows, of which the faster counts: the first of all warms up, and machines are not quiet
LAYERS_ALIKE = 3  # over so many layers what a step tells of another candidate falls to a third


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
        self._tries: list[tuple[Place, bool]] = []
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

    def tried(self, places: Sequence[Place], dropped: Sequence[bool]) -> None:
        """Learn which candidates the step dropped."""
        self._tries += zip(places, dropped, strict=True)

    def allow(self, rows: int) -> None:
        """Take at most ``rows`` at once from now on, for memory is short."""
        self.rows = min(self.rows, rows)
        self._settled = True

    def per_drop(self, work: float, place: Place) -> float:
        """Expected seconds for each candidate dropped at ``place``, from how its neighbours fared.

        Candidates of nearby layers fare alike, those of the same position more so. Half a drop of one imagined try
        stands for no experience, so that every kind of step is tried.
        """
        price = self._seconds / self._work if self._work else 0.0
        tried, dropped = 1.0, 0.5
        for (position, layer), drop in self._tries:
            weight = math.exp(-abs(layer - place[1]) / LAYERS_ALIKE) * (1.0 if position == place[0] else 0.5)
            tried += weight
            dropped += weight * drop
        return price * work * tried / dropped
