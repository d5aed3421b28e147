"""What “Find the best” and its neighbours do: the search with its map, the press that relaxes a limit, measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import make_markup, make_words
from steering.ui.best_search import BestRequest, Choice, Place, Search
from steering.ui.best_work import STAGES, Stage, find_best, measure_place
from steering.ui.make_handlers import NO_TEXTS, UPDATE_EVERY, MakeHandlers
from steering.ui.make_results import Updates, unchanged

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.ui.session import Session
    from steering.ui.worker import Job, Work

REDRAW_EVERY = 0.5  # seconds; a map is some kilobytes
# Of a stage: before, how long it still takes cannot be told from how it began.
TELLING_PART, TELLING_SECONDS = 0.04, 2.0
FOUND = "Its card says what it does, and how far to trust it."
MISSED = "No place keeps to all limits; the card says what each of them fails."


class BestHandlers:
    """The handlers of one page; what they find stands in the visitor's `Making`, as what `MakeHandlers` finds does."""

    def __init__(self, make: MakeHandlers) -> None:
        self.make = make

    def find(
        self, name: str, first_tokens: list[str] | None, is_refusal: bool, request: gr.Request
    ) -> Iterator[Updates]:
        """Try every place; yields the bar and the map until the card is whole."""
        session = self.make.sessions.of(request)

        def asked() -> BestRequest:
            data = session.making.data
            if data is None:
                raise SteeringError(NO_TEXTS)
            tokens = () if data.has_responses else tuple(text for text in first_tokens or () if text)
            return BestRequest(data, self.make.name_of(session, name), tokens, is_refusal or None)

        yield from self._search(session, asked)

    def relax(self, request: gr.Request) -> Iterator[Updates]:
        """Search again with the one limit relaxed that was in the way; what is scored stays scored."""
        session = self.make.sessions.of(request)

        def asked() -> BestRequest:
            search = session.making.search
            if search is None or search.choice.offer is None:
                raise SteeringError("There is no limit to relax. Press “Find the best” first.")
            return replace(search.request, limits=search.choice.offer, model=search.model)

        yield from self._search(session, asked)

    def measure(self, request: gr.Request) -> Iterator[Updates]:
        """Measure strength and controls of a place chosen by hand."""
        session = self.make.sessions.of(request)

        def work() -> tuple[str, Work]:
            search, direction = session.making.search, session.making.direction
            if search is None or direction is None:
                raise SteeringError("Choose a place on the map first.")
            engine = self.make.engine
            return direction.name, partial(measure_place, engine, search, direction)

        yield from self._run(session, work, lambda: make_markup.done_html("Measured.", FOUND))

    def _search(self, session: Session, asked: Callable[[], BestRequest]) -> Iterator[Updates]:
        def work() -> tuple[str, Work]:
            wanted = asked()
            engine = self.make.engine
            engine.ready_model()
            return wanted.name, partial(find_best, engine, wanted)

        def outcome() -> str:
            search = session.making.search
            if search is not None and search.choice.problem:
                return make_markup.done_html("None passes.", MISSED)
            return make_markup.done_html("Found.", FOUND)

        yield from self._run(session, work, outcome)

    def _run(
        self, session: Session, work: Callable[[], tuple[str, Work]], outcome: Callable[[], str]
    ) -> Iterator[Updates]:
        """Do a piece of work as `MakeHandlers.running` does, keeping what it reports as it comes."""
        yield from self.make.running(session, work, _Taking(self.make, session).follow, outcome)


class _Taking:
    """Takes what one job reports into the session, and says what to show meanwhile.

    Whatever else the visitor looks at while it works, what it finds takes the card's place in the end.
    """

    def __init__(self, make: MakeHandlers, session: Session) -> None:
        self._make = make
        self._session = session
        self._search = session.making.search
        self._is_whole = False
        self._clock: dict[int, float] = {}
        self._stage = Stage(0, 0, 1)

    def follow(self, job: Job, name: str) -> Iterator[Updates]:
        """What to show while the job works: the bar five times a second, the card when it has changed."""
        making = self._session.making
        drawn, changed, shown = 0.0, True, 0.0
        for report in job.reports():
            now = time.monotonic()
            if isinstance(report, Stage):
                self._stage = report
            elif report is not None:
                self._take(report, name)
                changed = True
            if job.stopped and not job.started.is_set():
                return
            if now - shown < UPDATE_EVERY:
                continue
            shown = now
            bar = self._make.bar(job, *self._words(now))
            if changed and now - drawn >= REDRAW_EVERY and making.search is not None:
                drawn, changed = now, False
                yield [*bar, *self._make.result(self._session)]
            else:
                yield [*bar, *unchanged()]
        if not self._is_whole:  # stopped in line, and begun only to be ended
            raise Cancelled

    def _take(self, report: Any, name: str) -> None:
        from steering.selection import CandidateScore

        if isinstance(report, Search):
            self._search = report
            self._session.making.take_search(report)
        elif self._search is None:
            return
        elif isinstance(report, Choice):
            self._search.choice = report
            self._is_whole = bool(report.problem)
            self._session.making.take_search(self._search)
            if report.winner is not None:
                self._choose(self._search, report.winner, name)
        elif isinstance(report, CandidateScore):
            known = self._search.scores.get(report.place)
            if known is None or not known.is_complete:
                self._search.scores[report.place] = report
        else:
            self._take_measured(self._search, report)

    def _take_measured(self, search: Search, direction: Direction) -> None:
        """Strength or controls of a place, which come one after the other, in the direction's card."""
        making, place = self._session.making, (direction.position, direction.layer)
        search.measured[place] = {key: direction.card[key] for key in ("strength", "trust") if key in direction.card}
        self._is_whole = "trust" in direction.card
        has_left = making.search is not search  # to look at another direction
        shown = making.direction
        if has_left and self._is_whole:
            making.take_search(search)
        if making.search is search and (has_left or shown is None or (shown.position, shown.layer) == place):
            self._choose(search, place, direction.name)

    def _choose(self, search: Search, place: Place, name: str) -> None:
        self._session.making.direction = search.direction_at(*place, name)

    def _words(self, now: float) -> tuple[str, float, str]:
        """What the bar says: the stage, how much of all is done, and about how long this stage still takes."""
        stage = self._stage
        began = self._clock.setdefault(stage.number, now)
        spent = now - began
        known = stage.done > TELLING_PART * stage.total and spent > TELLING_SECONDS
        left = make_words.time_left(spent * (stage.total - stage.done) / stage.done) if known else ""
        what = STAGES[stage.number]
        if stage.number == 1:
            what = f"Trying candidate {min(int(stage.done) + 1, int(stage.total))} of {int(stage.total)}"
        more = f"step {stage.number + 1} of {len(STAGES)}, {make_words.seconds(spent)}" + (f", {left}" if left else "")
        return what, stage.part, more


__all__ = ["BestHandlers"]
