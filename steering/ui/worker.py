"""One piece of work at a time for the model; the page's threads hand it over and read what comes back.

A torch mode entered on one thread holds on that thread only, and the web server moves a generator between threads, so
nothing of torch runs in the page's own threads. Each piece of work has a thread of its own, because torch keeps the
attention kernels of every length of prompt, about 1 MB each, for as long as the thread lives that used them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from steering.errors import Cancelled
from steering.ui.memory import give_memory_back

if TYPE_CHECKING:
    from steering.variants import Dial

Work = Callable[["Job"], None]


class Reports:
    """A piece of work as whoever asked for it sees it: what it reports, and whether it was stopped."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self.started = threading.Event()
        self.ended = threading.Event()

    @property
    def before(self) -> int:
        """How many must go before this can begin; 0 once it could."""
        return 0

    @property
    def seconds_before(self) -> float:
        """About how long it still waits."""
        return 0.0

    @property
    def stopped(self) -> bool:
        """Whether someone asked for the end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ask for the end; the work sees it between two steps."""
        self._stopped.set()

    def report(self, value: Any) -> None:
        """Called by the work: pass a value to whoever reads :meth:`reports`."""
        self._reports.put(("value", value))

    def progress(self, what: str, done: float, total: float) -> None:
        """The library's progress callback for this work: reports, and ends it when a stop was asked for."""
        self.check()
        self.report((what, done, total))

    def check(self) -> None:
        """Called by the work between two steps: ends it when a stop was asked for."""
        if self.stopped:
            raise Cancelled("Cancelled.")

    def end(self, error: BaseException | None = None) -> None:
        """Called when the work has ended, with what it raised, whose sentence is the reader's."""
        self._reports.put(("end", None) if error is None else ("error", error))
        self.ended.set()

    def reports(self, patience: float = 0.25) -> Iterator[Any]:
        """What the work reports, as it comes; None whenever nothing came for ``patience`` seconds.

        Raises:
            Exception: whatever the work raised.
        """
        while True:
            try:
                kind, value = self._reports.get(timeout=patience)
            except queue.Empty:
                yield None
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value


class Job(Reports):
    """A piece of work in the worker's line, and its place there."""

    def __init__(self, worker: Worker, work: Work, *, short: bool = False) -> None:
        super().__init__()
        self._worker = worker
        self._work = work
        self.short = short

    @property
    def someone_waits(self) -> bool:
        """Whether short work waits that this job could let go first."""
        return bool(self._worker.short_behind(self))

    def let_others_go(self) -> None:
        """Called by long work between two steps: the short work that waits now is done, and then this goes on."""
        for other in self._worker.short_behind(self):
            if self.stopped:
                return
            self._worker.do_now(other)

    @property
    def others_wait(self) -> bool:
        """Whether there is other work, before this in line or behind it."""
        return self._worker.has_other_than(self)

    @property
    def before(self) -> int:
        """How many jobs run before this one."""
        return self._worker.before(self)

    @property
    def seconds_before(self) -> float:
        """About how long this job still waits."""
        return self._worker.seconds_before(self)

    def run(self) -> None:
        """Do the work."""
        self.started.set()
        try:
            if not self.stopped:
                self._work(self)
        except BaseException as error:  # handed to the reader, whose sentence it becomes
            self.end(error)
        else:
            self.end()


class Worker:
    """Runs jobs one after another on a thread of its own.

    Attributes:
        in_this_process: whether the model works in the page's process, so that another can take its place.
    """

    in_this_process = True

    def __init__(self) -> None:
        self._line: deque[Job] = deque()
        self._change = threading.Condition()
        self._durations: deque[float] = deque([8.0], maxlen=8)
        threading.Thread(target=self._serve, name="line", daemon=True).start()

    def submit(self, work: Work, *, short: bool = False) -> Job:
        """Put work at the end of the line; ``short`` work may go before the rest of a long one."""
        job = Job(self, work, short=short)
        with self._change:
            self._line.append(job)
            self._change.notify()
        return job

    def dial(self, value: float) -> Dial:
        """A dial that work done here follows while it is turned."""
        from steering.variants import Dial

        return Dial(value)

    def submit_slice(self, work: Work) -> Job:
        """Put short work, which comes back for more of it, right behind the first long work in line.

        There that long work lets it go between two steps, and so both get on, however much more stands behind them.
        """
        job = Job(self, work, short=True)
        with self._change:
            place = next((i + 1 for i, other in enumerate(self._line) if not other.short), len(self._line))
            self._line.insert(place, job)
            self._change.notify()
        return job

    def short_behind(self, running: Job) -> list[Job]:
        """The short jobs that wait behind ``running`` and before any long one now, in their order.

        Work that comes back into the line while these are done waits for the next time, so that long work goes on too.
        """
        with self._change:
            if not self._line or self._line[0] is not running:
                return []
            waiting = [job for job in list(self._line)[1:] if not job.stopped]
        return list(takewhile(lambda job: job.short, waiting))

    def has_other_than(self, job: Job) -> bool:
        """Whether anyone else's work is in line."""
        with self._change:
            return any(other is not job and not other.stopped for other in self._line)

    def do_now(self, job: Job) -> None:
        """Do a waiting job now, on a thread of its own, while the running one stands still."""
        with self._change:
            if job not in self._line:  # given up and done meanwhile
                return
            self._line.remove(job)
        self._do(job)

    def before(self, job: Job) -> int:
        """How many jobs that were not given up stand before ``job``, the running one included."""
        with self._change:
            count = 0
            for other in self._line:
                if other is job:
                    return count
                count += not other.stopped
            return 0

    def seconds_before(self, job: Job) -> float:
        """About how long ``job`` still waits, from how long the last jobs took."""
        return self.before(job) * sum(self._durations) / len(self._durations)

    def _serve(self) -> None:
        while True:
            with self._change:
                while not self._line:
                    self._change.wait()
                job = self._line[0]
            self._do(job)
            with self._change:
                self._line.popleft()

    def _do(self, job: Job) -> None:
        """Run a job to its end on a thread of its own."""
        start = time.monotonic()
        thread = threading.Thread(target=job.run, name="model", daemon=True)
        thread.start()
        thread.join()
        give_memory_back()
        if not job.stopped:
            with self._change:
                self._durations.append(time.monotonic() - start)
