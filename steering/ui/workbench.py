"""The work of “Make a direction” while it runs: one job a visitor, its bar, and how it ended."""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import make_markup
from steering.ui.engine import Engine
from steering.ui.limits import Limits
from steering.ui.make_results import Updates, result
from steering.ui.make_work import Checked, file_limits
from steering.ui.scope import queued_message
from steering.ui.session import Session, Sessions
from steering.ui.worker import Job, Work

logger = logging.getLogger(__name__)

LONGEST_NAME = 80
UNFORESEEN = "Something went wrong inside the program; its log says what. Your texts are still here: try again."


@dataclass
class Bench:
    """What one visitor's tab needs beside the session: the set as checked, the running work, files to download."""

    checked: Checked | None = None
    default_name: str = ""
    job: Job | None = None
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="direction-")
    )


class Workbench:
    """What is kept for each visitor's tab, and the running of work for it."""

    def __init__(self, engine: Engine, sessions: Sessions, limits: Limits) -> None:
        self.file_limits = file_limits(limits)
        self.engine = engine
        self.sessions = sessions
        self._benches: OrderedDict[str, Bench] = OrderedDict()

    def running(
        self,
        session: Session,
        work: Callable[[], tuple[str, Work]],
        follow: Callable[[Job, str], Iterator[Updates]],
        outcome: Callable[[], str],
    ) -> Iterator[Updates]:
        """Hand work to the model's thread and show how it goes.

        Args:
            work: gives the direction's name and the work; what it raises becomes a sentence.
            follow: shows the job's reports, taking what they bring.
            outcome: the line below the bar once it has ended well.
        """
        bench = self._bench(session)
        if bench.job is not None:
            yield [*self._bar("Still working.", None), *self.result(session)]
            return
        try:
            name, job_work = work()
            bench.job = job = self.engine.worker.submit(job_work)
            yield from follow(job, name)
            if job.stopped and not job.started.is_set():
                raise Cancelled
            ended = outcome()
        except Cancelled:
            has_found = session.making.direction is not None or session.making.search is not None
            stays = "What was found so far stays." if has_found else "Your texts are still here."
            ended = make_markup.done_html("Cancelled.", stays)
        except SteeringError as error:
            ended = make_markup.problem_html(str(error))
        except Exception:
            logger.exception("Finding a direction failed")
            ended = make_markup.problem_html(UNFORESEEN)
        finally:
            if bench.job is not None and not bench.job.ended.is_set():
                bench.job.stop()  # also when the page was closed in the middle
            bench.job = None
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        yield [ended, shown, shown, hidden, *self.result(session)]

    def bar(self, job: Job, words: str, part: float, more: str) -> Updates:
        """The bar of a job, with the buttons beside it; while it waits in line or is being ended, that is said."""
        if job.stopped:
            return self._bar("Cancelling…", part, can_cancel=False)
        if job.started.is_set():
            return self._bar(words, part, more)
        people = self.engine.worker.before(job)
        return self._bar(
            queued_message(people, self.engine.worker.seconds_before(job)) if people else "Starting…", None
        )

    def _bar(self, words: str, part: float | None, more: str = "", can_cancel: bool = True) -> Updates:
        hidden = gr.update(visible=False)
        html = make_markup.progress_html(part, words, more)
        return [html, hidden, hidden, gr.update(visible=True, interactive=can_cancel)]

    def name_of(self, session: Session, name: str) -> str:
        """The name to give a direction: what was typed, or what the file suggests."""
        return name.strip()[:LONGEST_NAME] or self._bench(session).default_name or "My idea"

    def cancel(self, request: gr.Request) -> None:
        job = self._bench(self.sessions.of(request)).job
        if job is not None:
            job.stop()

    def result(self, session: Session, problem: str = "") -> Updates:
        """What `make_results.result` says of this visitor's tab."""
        bench = self._bench(session)
        return result(session.making, Path(bench.folder.name), problem, measuring=bench.job is not None)

    def _bench(self, session: Session) -> Bench:
        bench = self._benches.pop(session.key, None) or Bench()
        self._benches[session.key] = bench
        while len(self._benches) > self.sessions.kept:
            _, oldest = self._benches.popitem(last=False)
            oldest.folder.cleanup()
        return bench
