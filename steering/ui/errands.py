"""Long work of a tab: one errand a visitor, how far it is, and how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import make_markup, make_words
from steering.ui.activity import RunningTurn
from steering.ui.chat import Chat
from steering.ui.scope import queued_message
from steering.ui.session import Errand, Session, Sessions
from steering.ui.worker import Reports, Work

logger = logging.getLogger(__name__)

UPDATE_EVERY = 0.2  # seconds
# Before, how long the rest takes cannot be told from how it began.
TELLING_PART, TELLING_SECONDS = 0.04, 2.0

Updates = list[Any]


@dataclass
class Told:
    """How far an errand is, for the bar.

    Attributes:
        steps, ends: what is done one after the other, and what part of all is done at the end of each; none where that
            is not known.
    """

    steps: Sequence[str] = ()
    ends: Sequence[float] = ()
    what: str = ""
    done: float = 0.0
    total: float = 1.0
    _start: float = 0.0
    _began: float = 0.0

    def take(self, report: tuple[str, float, float], now: float) -> None:
        """Take up what the work reports."""
        self._start = self._start or now
        before, (self.what, self.done, self.total) = self.what, report
        if self.what != before and (before not in self.steps or self.what not in self.steps):
            self._began = now  # of the steps together, or of something before them

    def html(self, now: float, label: str) -> str:
        """The bar, what is done, how far it is, and about how long this still takes."""
        if not self.what:
            return make_markup.progress_html(None, "Starting…")
        part = min(1.0, self.done / self.total if self.total else 0.0)
        said = [make_words.seconds(now - self._start)]
        if self.what in self.steps:
            number = self.steps.index(self.what)
            begin = self.ends[number - 1] if number else 0.0
            part = begin + (self.ends[number] - begin) * part
            said.insert(0, f"step {number + 1} of {len(self.steps)}")
        spent = now - self._began
        if part > TELLING_PART and spent > TELLING_SECONDS:
            said.append(make_words.time_left(spent * (1 - part) / part))
        return make_markup.progress_html(part, self.what, ", ".join(said), label)


@dataclass(frozen=True)
class Sayings:
    """What a tab says of its errands.

    Attributes:
        tab: its name, for the log.
        bar: the name of the bar, for those who do not see it.
        busy: when a visitor asks for another one meanwhile.
        unforeseen: when it failed for a reason that only the log knows.
        cancelled: what was done, and what became of it; ``cancelled_kinds`` has other words for some kinds.
    """

    tab: str
    bar: str
    busy: str
    unforeseen: str
    cancelled: tuple[str, str]
    cancelled_kinds: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class Errands:
    """Runs what takes long for a visitor, one at a time, and stops it when they leave or the program ends.

    Args:
        errand: where a visitor's errand stands.
    """

    def __init__(self, chat: Chat, sessions: Sessions, sayings: Sayings, errand: Callable[[Session], Errand]) -> None:
        self.chat = chat
        self.engine = chat.engine
        self.sessions = sessions
        self._sayings = sayings
        self._errand = errand
        self._taking = threading.Lock()

    def run(
        self,
        request: gr.Request,
        kind: str,
        begin: Callable[[Session, Callable[[Work], Work]], Reports],
        told: Told,
        running: Callable[[str, bool], Updates],
        ended: Callable[[Session, Any], Updates],
        failed: Callable[[str], Updates],
    ) -> Iterator[Updates]:
        """Do an errand, showing how far it is.

        Args:
            kind: what the log calls it.
            begin: hands the work over; work that has something to clear up when it is stopped is wrapped first, by what
                it is given for that. What it raises becomes a sentence.
            running: the updates while it runs, of the bar and whether it can still be cancelled.
            ended: the updates at its end, of what it reported last that was no progress.
            failed: the updates when it came to nothing, of the markup that says why, which is the first of them.
        """
        session = self.sessions.of(request)
        errand = self._errand(session)
        with self._taking:
            free, errand.busy = not errand.busy, True
        if not free:
            unchanged = [gr.skip()] * (len(failed("")) - 1)
            yield [make_markup.problem_html(self._sayings.busy), *unchanged]
            return
        turn: RunningTurn | None = None
        job: Reports | None = None
        clearing = Clearing()
        shown: Updates | None = None  # until it has ended
        try:
            if refusal := self.chat.operator.admit(request):
                raise SteeringError(refusal)
            errand.job = job = begin(session, clearing.watch)
            turn = self.chat.operator.activity.turn_started(session.key, rows=0, kind=kind, stop=job.stop)
            clearing.turns.append(turn)
            result = yield from self._follow(job, told, running)
            if result is None:
                raise Cancelled
            shown = ended(session, result)
        except Cancelled:
            said = self._sayings.cancelled_kinds.get(kind, self._sayings.cancelled)
            shown = failed(make_markup.done_html(*said))
        except SteeringError as error:
            shown = failed(make_markup.problem_html(str(error)))
        except Exception:
            logger.exception("An errand of “%s” failed", self._sayings.tab)
            shown = failed(make_markup.problem_html(self._sayings.unforeseen))
        finally:
            stopped = shown is None or (job is not None and job.stopped)
            if job is not None:
                job.stop()  # also when the page was closed in the middle
            still_clearing = clearing.is_watched and job is not None and job.started.is_set() and not job.ended.is_set()
            if turn is not None and not still_clearing:
                turn.ended(stopped=stopped)
            errand.job, errand.busy = None, False
        yield shown

    def cancel(self, request: gr.Request) -> None:
        job = self._errand(self.sessions.of(request)).job
        if job is not None:
            job.stop()

    def _follow(
        self, job: Reports, told: Told, running: Callable[[str, bool], Updates]
    ) -> Generator[Updates, None, Any]:
        """What to show while it runs; gives what it reported, None if it was given up in line."""
        result: Any = None
        shown = 0.0
        for report in job.reports(UPDATE_EVERY):
            now = time.monotonic()
            if isinstance(report, tuple):
                told.take(report, now)
            elif report is not None:
                result = report
            if job.stopped and not job.started.is_set():
                return None
            if now - shown < UPDATE_EVERY:
                continue
            shown = now
            yield running(self._bar(job, told, now), not job.stopped)
        return result

    def _bar(self, job: Reports, told: Told, now: float) -> str:
        if job.stopped:
            return make_markup.progress_html(None, "Cancelling…")
        if not job.started.is_set():
            waits = queued_message(job.before, job.seconds_before) if job.before else "Starting…"
            return make_markup.progress_html(None, waits)
        return told.html(now, self._sayings.bar)


class Clearing:
    """Work that clears up after itself when it is stopped: its turn ends with it, also when nobody follows it any more.

    Attributes:
        turns: what ends then.
        is_watched: whether any work was wrapped.
    """

    def __init__(self) -> None:
        self.turns: list[RunningTurn] = []
        self.is_watched = False

    def watch(self, work: Work) -> Work:
        """The work, wrapped."""
        self.is_watched = True

        def run(job: Any) -> None:
            failed = False
            try:
                work(job)
            except SteeringError:
                raise
            except Exception:
                failed = True
                raise
            finally:
                for turn in self.turns:
                    turn.ended(stopped=job.stopped, failed=failed)

        return run


def buttons_running(can_cancel: bool) -> Updates:
    """The buttons that start and cancel, while something runs."""
    return [gr.update(visible=False), gr.update(visible=True, interactive=can_cancel)]


def buttons_at_rest() -> Updates:
    """The same two, while nothing does."""
    return [gr.update(visible=True), gr.update(visible=False)]


def in_a_thread(work: Callable[[Any], None]) -> Reports:
    """Do work that needs no model, so that nobody who waits for one waits for it."""
    job = Reports()

    def run() -> None:
        job.started.set()
        try:
            work(job)
        except BaseException as error:  # handed to the reader, whose sentence it becomes
            job.end(error)
        else:
            job.end()

    threading.Thread(target=run, name="errand", daemon=True).start()
    return job
