"""Scores all candidates, or only as far as is needed to know the winner.

With limits given, a candidate is dropped at the first thing that proves it cannot win: a score beyond its limit, a part
of the KL that alone exceeds the limit (KL is never negative, so a part of the sum bounds the whole), or a bypass score
no better than that of a candidate that passed everything. Which test to try first is learned as it goes: the one that
costs least for each candidate it drops. The winner is that of the plain loop over everything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.activations import is_out_of_memory
from steering.errors import DirectionError, OutOfMemoryError
from steering.progress import Progress, silent
from steering.scoring import BYPASS, INDUCE, KL, Scorer, Step
from steering.selection import CandidateScore, Limits, select_order

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.score_store import Place, ScoreStore

WHAT = "Scoring candidates"
LARGEST_BATCH = 16
# A larger batch is kept while it makes a candidate at least so much cheaper.
WORTH_DOUBLING = 0.9
LAYERS_ALIKE = 3  # over so many layers what a step tells of another candidate falls to a third

OnScore = Callable[[CandidateScore], None]


@dataclass(eq=False)
class _Candidate:
    """One candidate and what is known of it: by step, by score, one number an example."""

    place: Place
    direction: Direction | None  # None where the two sides do not differ
    known: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(eq=False)
class _Experience:
    """What a kind of step has cost, and where it dropped a candidate and where not."""

    seconds: float = 0.0
    work: float = 0.0
    tries: list[tuple[Place, bool]] = field(default_factory=list)

    def per_drop(self, work: float, place: Place) -> float:
        """Expected seconds for each candidate dropped at ``place``, from how its neighbours fared.

        Candidates of nearby layers fare alike, those of the same position more so. Half a drop of one imagined try
        stands for no experience, so that every kind of step is tried.
        """
        price = self.seconds / self.work if self.work else 0.0
        tried, dropped = 1.0, 0.5
        for (position, layer), drop in self.tries:
            weight = math.exp(-abs(layer - place[1]) / LAYERS_ALIKE) * (1.0 if position == place[0] else 0.5)
            tried += weight
            dropped += weight * drop
        return price * work * tried / dropped


class CandidateSearch:
    """The candidates of one contrast set and the scorer of its validation examples.

    Args:
        candidates: where to look.
        scorer: of the validation examples, on the same model.
        store: where scores are kept between runs, if anywhere.
    """

    def __init__(self, candidates: Candidates, scorer: Scorer, store: ScoreStore | None = None) -> None:
        self.scorer = scorer
        self.n_layers = candidates.n_layers
        self.notes: list[str] = []
        self._store = store
        known = store.read() if store else {}
        self._all = []
        for position in candidates.positions:
            for layer in range(candidates.n_layers):
                try:
                    direction = candidates.direction(position, layer)
                except DirectionError:
                    direction = None
                steps = {
                    step.name: known[(position, layer), step.name]
                    for step in scorer.steps
                    if ((position, layer), step.name) in known
                }
                self._all.append(_Candidate((position, layer), direction, steps))
        self._experience = {step.name: _Experience() for step in scorer.steps}
        self._batch = _BatchSize()

    def scores(self) -> list[CandidateScore]:
        """What is known of every candidate, in the order of positions and layers."""
        return [self._score(candidate) for candidate in self._all]

    def run(
        self, limits: Limits | None = None, *, progress: Progress = silent, on_score: OnScore | None = None
    ) -> list[CandidateScore]:
        """Score the candidates.

        Args:
            limits: drop what cannot win under them; without, every candidate is scored to the end.
            progress: told how many candidates are decided.
            on_score: told each candidate's scores once it is decided.

        Returns:
            :meth:`scores`; with :func:`steering.selection.select_candidate` and the same limits they give the winner.
        """
        waiting = list(self._all)
        if limits is not None:
            # The middle layers hold most winners, and an early good bypass score drops many others.
            waiting.sort(key=lambda one: abs(one.place[1] - 0.5 * self.n_layers))
        decided = 0
        best: CandidateScore | None = None
        progress(WHAT, 0, len(self._all))
        while waiting:
            batch = waiting[: self._batch.size]
            waiting = waiting[len(batch) :]
            for score in self._decide(batch, limits, best):
                if limits is not None and score.is_complete and not limits.failed(score, self.n_layers):
                    best = min((score, best), key=select_order) if best else score
                decided += 1
                if on_score:
                    on_score(score)
            progress(WHAT, decided, len(self._all))
        return self.scores()

    def _decide(
        self, batch: list[_Candidate], limits: Limits | None, best: CandidateScore | None
    ) -> Iterable[CandidateScore]:
        """Take steps for the candidates of a batch until each is known well enough."""
        alive = batch
        while True:
            alive = [one for one in alive if not self._is_decided(one, limits, best)]
            if not alive:
                break
            step = self._next_step(alive, limits)
            takers = [one for one in alive if step.name not in one.known]
            self._take(step, takers, limits, best)
        return [self._score(one) for one in batch]

    def _is_decided(self, one: _Candidate, limits: Limits | None, best: CandidateScore | None) -> bool:
        return one.direction is None or self._score(one).is_complete or self._is_lost(one, limits, best)

    def _is_lost(self, one: _Candidate, limits: Limits | None, best: CandidateScore | None) -> bool:
        """Whether what is known proves that a candidate cannot win."""
        if limits is None:
            return False
        score = self._score(one)
        if limits.failed(score, self.n_layers):
            return True
        return best is not None and score.bypass_score is not None and select_order(score) >= select_order(best)

    def _next_step(self, alive: list[_Candidate], limits: Limits | None) -> Step:
        """The step that is expected to cost least for each candidate it drops."""
        open_steps = [step for step in self.scorer.steps if any(step.name not in one.known for one in alive)]
        if limits is None:
            return open_steps[0]
        place = alive[0].place
        return min(open_steps, key=lambda step: self._experience[step.name].per_drop(self._work(step, alive), place))

    def _work(self, step: Step, takers: Sequence[_Candidate]) -> float:
        """How many blocks a pass runs, as a part of all."""
        lowest = min(one.place[1] for one in takers)
        return (self.n_layers - lowest if step.from_own_layer else self.n_layers) / self.n_layers

    def _take(self, step: Step, takers: list[_Candidate], limits: Limits | None, best: CandidateScore | None) -> None:
        """Run one step for candidates, in smaller batches if memory runs out, and keep what it gives."""
        start = 0
        while start < len(takers):
            part = takers[start : start + self._batch.size]
            directions = [one.direction for one in part if one.direction is not None]
            began = time.perf_counter()
            try:
                results = self.scorer.run(step.name, directions)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            seconds = time.perf_counter() - began
            numbers = [{name: values.tolist() for name, values in result.items()} for result in results]
            for one, result in zip(part, numbers, strict=True):
                one.known[step.name] = result
            if self._store:
                named = zip(part, numbers, strict=True)
                self._store.append([(one.place, step.name, result) for one, result in named])
            experience = self._experience[step.name]
            experience.seconds += seconds
            experience.work += self._work(step, part) * len(part)
            experience.tries += [(one.place, self._is_lost(one, limits, best)) for one in part]
            self._batch.took(step.name, len(part), seconds / (self._work(step, part) * len(part)))
            start += len(part)

    def _halve(self, error: BaseException) -> None:
        if self._batch.size == 1:
            raise OutOfMemoryError(
                "There is not enough memory to score even one candidate. Give shorter examples or choose a smaller "
                "model."
            ) from error
        self._batch.halve()
        self.notes.append(f"Memory ran out, so candidates were scored {self._batch.size} at a time.")

    def _score(self, one: _Candidate) -> CandidateScore:
        if one.direction is None:
            return CandidateScore(*one.place, math.nan, math.nan, math.nan)
        means: dict[str, float | None] = {}
        kl_sum = 0.0
        for name, total in self.scorer.totals.items():
            values = [x for result in one.known.values() for x in result.get(name, [])]
            means[name] = math.fsum(values) / total if len(values) == total else None
            if name == KL:
                kl_sum = math.fsum(values) / total
        return CandidateScore(*one.place, means[BYPASS], means[INDUCE], means[KL], kl_at_least=kl_sum)

    def complete(self, place: Place) -> CandidateScore:
        """Score one candidate to the end, whatever is known of it; the limits do not matter."""
        one = next(candidate for candidate in self._all if candidate.place == place)
        for _ in self._decide([one], None, None):
            pass
        return self._score(one)

    def values(self, place: Place, score: str) -> Tensor:
        """The numbers behind a score of one candidate, one an example, in the validation set's order; float64."""
        one = next(candidate for candidate in self._all if candidate.place == place)
        names = [step.name for step in self.scorer.steps if score in step.gives and step.name in one.known]
        return torch.tensor([x for name in names for x in one.known[name][score]], dtype=torch.float64)


class _BatchSize:
    """How many candidates go through a pass as rows: doubled while that makes a candidate cheaper."""

    def __init__(self) -> None:
        self.size = 1
        self._settled = False
        self._price: dict[str, tuple[int, float]] = {}

    def took(self, step: str, rows: int, seconds_each: float) -> None:
        """Learn from a pass of ``rows`` candidates; ``seconds_each`` is for a whole model's worth of blocks."""
        if self._settled or rows != self.size:
            return
        before = self._price.get(step)
        if before is None:
            self._price[step] = rows, seconds_each
        elif before[0] == rows:  # a second look: the first of all warms up
            self._price[step] = rows, min(before[1], seconds_each)
            self._grow(rows)
        elif seconds_each > WORTH_DOUBLING * before[1]:
            self.size, self._settled = before[0], True
        else:
            self._price = {step: (rows, seconds_each)}
            self._grow(rows)

    def _grow(self, rows: int) -> None:
        if rows < LARGEST_BATCH:
            self.size = 2 * rows

    def halve(self) -> None:
        self.size //= 2
        self._settled = True
