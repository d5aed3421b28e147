"""Scores all candidates, or only as far as is needed to know the winner.

With limits given, a candidate is dropped at the first thing that proves it cannot win: a score beyond its limit, a part
of the KL that alone exceeds the limit (KL is never negative, so a part of the sum bounds the whole), or a bypass score
no better than that of a candidate that passed everything. Which test to try first is learned as it goes: the one that
is expected to cost least for each candidate it drops, from how candidates nearby fared and from the part of the KL that
is known. The winner is that of the plain loop over everything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.errors import DirectionError
from steering.out_of_memory import half
from steering.progress import Progress, silent
from steering.scoring import BYPASS, INDUCE, KL, Scorer, Step
from steering.selection import CandidateScore, Limits, select_order
from steering.step_costs import Outlook, StepCosts

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.progress import Tick
    from steering.score_store import Place, ScoreStore

WHAT = "Scoring candidates"
LOOK_AHEAD = 2  # candidates for one pass are sought among so many times as many
LEAST = 1e-9  # nats; a KL or a limit on it below this counts as this, where its logarithm is taken
SECONDS_SILENT = 0.25  # at most about so long passes between two reports of progress

OnScore = Callable[[CandidateScore], None]


@dataclass(eq=False)
class _Candidate:
    """One candidate and what is known of it: by step, by score, one number an example."""

    place: Place
    direction: Direction | None  # None where the two sides do not differ
    known: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def numbers(self, score: str) -> list[float]:
        """What is known of a score, one number an example, in the order in which the steps were taken."""
        return [x for result in self.known.values() for x in result.get(score, [])]


@dataclass(eq=False)
class _Run:
    """One run of a search: what it is told, and how far it is."""

    limits: Limits | None
    n_layers: int
    progress: Progress = silent
    on_score: OnScore | None = None
    total: int = 1
    decided: int = 0
    begun: float = 0.0  # candidates' worth of steps that were taken of those not decided yet
    best: CandidateScore | None = None  # of those that passed everything
    _told: float = -math.inf

    def report(self, running: float = 0.0) -> None:
        """Tell how many candidates' worth of work is done; ``running`` is that of a step being taken."""
        self._told = time.monotonic()
        self.progress(WHAT, self.decided + self.begun + running, self.total)

    def ticking(self, worth: float) -> Tick:
        """For a step of ``worth`` candidates: reports how far it is, if there was no report a moment ago."""

        def tick(part: float) -> None:
            if time.monotonic() - self._told >= SECONDS_SILENT:
                self.report(part * worth)

        return tick

    def decide(self, score: CandidateScore) -> None:
        self.decided += 1
        if self.on_score:
            self.on_score(score)

    def is_new_best(self, score: CandidateScore) -> bool:
        """Whether a candidate passed everything and is the best so far, which is then remembered."""
        if self.limits is None or not score.is_complete or self.limits.failed(score, self.n_layers):
            return False
        if self.best is not None and select_order(score) >= select_order(self.best):
            return False
        self.best = score
        return True

    def is_lost(self, score: CandidateScore) -> bool:
        """Whether what is known proves that a candidate cannot win."""
        if self.limits is None:
            return False
        if self.limits.failed(score, self.n_layers):
            return True
        return (
            self.best is not None and score.bypass_score is not None and select_order(score) > select_order(self.best)
        )


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
        self._costs = {step.name: StepCosts() for step in scorer.steps}

    def scores(self) -> list[CandidateScore]:
        """What is known of every candidate, in the order of positions and layers."""
        return [self._score(candidate) for candidate in self._all]

    def run(
        self, limits: Limits | None = None, *, progress: Progress = silent, on_score: OnScore | None = None
    ) -> list[CandidateScore]:
        """Score the candidates.

        Args:
            limits: drop what cannot win under them; without, every candidate is scored to the end.
            progress: told how many candidates' worth of work is done, several times a second, also while a pass is
                running; if it raises, the pass ends there.
            on_score: told each candidate's scores as soon as it is decided.

        Returns:
            :meth:`scores`; with :func:`steering.selection.select_candidate` and the same limits they give the winner.
        """
        waiting = list(self._all)
        if limits is not None:
            # The middle layers hold most winners, and an early good bypass score drops many others.
            waiting.sort(key=lambda one: abs(one.place[1] - 0.5 * self.n_layers))
        progress(WHAT, 0, len(waiting))
        self._search(waiting, _Run(limits, self.n_layers, progress, on_score, len(waiting)))
        return self.scores()

    def _search(self, candidates: list[_Candidate], run: _Run) -> None:
        """Take steps until each candidate is known well enough."""
        waiting = news = candidates
        while True:
            is_new_best = [run.is_new_best(self._score(one)) for one in news]
            decided = self._decided(waiting if any(is_new_best) else news, run)  # a new best may drop any other
            waiting = [one for one in waiting if one not in decided]
            run.begun = sum(len(one.known) for one in waiting) / len(self.scorer.steps)
            run.report()
            if not waiting:
                break
            step = self._next_step(waiting[0], run)
            rows = self._costs[step.name].rows
            takers = [one for one in waiting[: LOOK_AHEAD * rows] if self._next_step(one, run) is step][:rows]
            news = self._take(step, takers, run)

    def _decided(self, candidates: Sequence[_Candidate], run: _Run) -> set[_Candidate]:
        """Those of ``candidates`` that need no further step; their scores are told."""
        decided = set()
        for one in candidates:
            score = self._score(one)
            if one.direction is None or score.is_complete or run.is_lost(score):
                decided.add(one)
                run.decide(score)
        return decided

    def _next_step(self, one: _Candidate, run: _Run) -> Step:
        """The step that is expected to cost least for each candidate it drops; without limits, the next one."""
        open_steps = [step for step in self.scorer.steps if step.name not in one.known]
        if run.limits is None:
            return open_steps[0]

        def per_drop(step: Step) -> float:
            return self._costs[step.name].per_drop(self._work(step, [one]), self._outlook(step, one, run.limits))

        return min(open_steps, key=per_drop)

    def _outlook(self, step: Step, one: _Candidate, limits: Limits | None) -> Outlook:
        """KL is the score that comes in parts, of which those known tell of the others."""
        known = one.numbers(KL)
        if limits is None or KL not in step.gives or not known:
            return Outlook(one.place)
        after = math.fsum(known) * (len(known) + step.gives[KL]) / len(known) / self.scorer.totals[KL]
        return Outlook(one.place, math.log(max(LEAST, after) / max(LEAST, limits.kl)))

    def _work(self, step: Step, takers: Sequence[_Candidate]) -> float:
        """How many blocks a pass runs, as a part of all."""
        lowest = min(one.place[1] for one in takers)
        return (self.n_layers - lowest if step.from_own_layer else self.n_layers) / self.n_layers

    def _take(self, step: Step, takers: list[_Candidate], run: _Run) -> list[_Candidate]:
        """Run one step for candidates, for fewer of them if memory runs out, and keep what it gives.

        Returns:
            For which of them it was run.
        """
        while True:
            directions = [one.direction for one in takers if one.direction is not None]
            began = time.perf_counter()
            try:
                worth = len(takers) / len(self.scorer.steps)
                results = self.scorer.run(step.name, directions, run.ticking(worth))
                break
            except (RuntimeError, MemoryError) as error:
                takers = self._fewer(takers, error)
        self._costs[step.name].took(len(takers), self._work(step, takers), time.perf_counter() - began)
        outlooks = [self._outlook(step, one, run.limits) for one in takers]
        numbers = [{name: values.tolist() for name, values in result.items()} for result in results]
        for one, result in zip(takers, numbers, strict=True):
            one.known[step.name] = result
        if self._store:
            named = zip(takers, numbers, strict=True)
            self._store.append([(one.place, step.name, result) for one, result in named])
        self._costs[step.name].tried(outlooks, [run.is_lost(self._score(one)) for one in takers])
        return takers

    def _fewer(self, takers: list[_Candidate], error: BaseException) -> list[_Candidate]:
        advice = "Give shorter examples or choose a smaller model."
        fewer = takers[: half(len(takers), error, "score even one candidate", advice)]
        for costs in self._costs.values():
            costs.allow(len(fewer))
        self.notes.append(f"Memory ran out, so candidates were scored {len(fewer)} at a time.")
        return fewer

    def _score(self, one: _Candidate) -> CandidateScore:
        if one.direction is None:
            return CandidateScore(*one.place, math.nan, math.nan, math.nan)
        means: dict[str, float | None] = {}
        kl_sum = 0.0
        for name, total in self.scorer.totals.items():
            values = one.numbers(name)
            means[name] = math.fsum(values) / total if len(values) == total else None
            if name == KL:
                kl_sum = math.fsum(values) / total
        return CandidateScore(*one.place, means[BYPASS], means[INDUCE], means[KL], kl_at_least=kl_sum)

    def complete(self, place: Place) -> CandidateScore:
        """Score one candidate to the end, whatever is known of it; the limits do not matter."""
        one = next(candidate for candidate in self._all if candidate.place == place)
        self._search([one], _Run(None, self.n_layers))
        return self._score(one)

    def values(self, place: Place, score: str) -> Tensor:
        """The numbers behind a score of one candidate, one an example, in the validation set's order; float64."""
        one = next(candidate for candidate in self._all if candidate.place == place)
        names = [step.name for step in self.scorer.steps if score in step.gives and step.name in one.known]
        return torch.tensor([x for name in names for x in one.known[name][score]], dtype=torch.float64)
