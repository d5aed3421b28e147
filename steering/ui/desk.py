"""Where visitors' questions are answered together: their replies are rows of one batch that join and leave.

One thread owns the model. What stands here runs on it in slices, as short work of the `worker`, so that long work
(finding a direction, a search) and replies take turns; the page's threads only hand over a question and read reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from steering.ui.turn import Models, TurnRequest, TurnWriter
from steering.ui.worker import Job, Reports, Worker

if TYPE_CHECKING:
    from steering.replies import Replies
    from steering.reply_batch import ReplyBatch

logger = logging.getLogger(__name__)

SLICE = 1.0  # seconds that replies go on while other work waits
USUAL_SECONDS = 8.0  # of a turn, before the first was written


class Reply(Reports):
    """One turn in the hands of the desk."""

    def __init__(self, desk: Desk, request: TurnRequest) -> None:
        super().__init__()
        self.request = request
        self.keeps = True  # until its visitor has left
        self._desk = desk

    @property
    def rows(self) -> int:
        return len(self.request.columns)

    @property
    def before(self) -> int:
        """How many turns must begin before this one; 0 once there is room for it."""
        return self._desk.before(self)

    @property
    def seconds_before(self) -> float:
        """About how long this one still waits."""
        return self._desk.seconds_before(self)


class _Running:
    """A turn in the batch."""

    def __init__(self, reply: Reply, writer: TurnWriter, replies: Replies) -> None:
        self.reply, self.writer, self.replies = reply, writer, replies


class Desk:
    """Answers visitors' questions, as many at a time as fit into a batch.

    Args:
        engine: the owner of the model.
        worker: in whose line replies stand.
        rows_at_most: how many rows are decoded together. A single turn of more is let in when it is alone.
    """

    def __init__(self, engine: Models, worker: Worker, rows_at_most: int) -> None:
        self._engine = engine
        self._worker = worker
        self._rows_at_most = rows_at_most
        self._change = threading.Lock()
        self._asked: WeakSet[Reply] = WeakSet()
        self._waiting: deque[Reply] = deque()
        self._running: list[_Running] = []
        self._batch: ReplyBatch | None = None
        self._slice: Job | None = None
        self._durations: deque[float] = deque([USUAL_SECONDS], maxlen=8)

    # ------------------------------------------------------------------ for the page's threads

    def ask(self, request: TurnRequest) -> Reply:
        """Have the replies of one turn written; it reports a `Tick` about twelve times a second."""
        reply = Reply(self, request)
        with self._change:
            self._asked.add(reply)
            self._waiting.append(reply)
            if self._slice is None:
                self._slice = self._worker.submit_slice(self._write)
        return reply

    def before(self, reply: Reply) -> int:
        """How many turns must begin or end before ``reply`` can begin; those that were given up do not count.

        Long work that must first come to a point where replies may go on counts too.
        """
        with self._change:
            if reply not in self._waiting:
                return 0
            line = 0 if self._slice is None or self._slice.started.is_set() else self._slice.before
            ahead = [other for other in self._waiting if not other.stopped]
            ahead = ahead[: ahead.index(reply)] if reply in ahead else ahead
            fits = self._fits(reply.rows + sum(other.rows for other in ahead))
            return line + (0 if fits else len(ahead) + 1)

    def seconds_before(self, reply: Reply) -> float:
        """About how long ``reply`` still waits, from how long the last turns took and how many are written at once."""
        at_once = max(1, len(self._running))
        return self.before(reply) / at_once * sum(self._durations) / len(self._durations)

    def forget(self, owner: str) -> None:
        """Keep nothing of the turns that a visitor who left still has here."""
        with self._change:
            for reply in self._asked:
                if reply.request.owner == owner:
                    reply.keeps = False

    @property
    def rows(self) -> int:
        """How many rows are being decoded."""
        return self._batch.n_rows if self._batch is not None else 0

    # ------------------------------------------------------------------ on the model's thread

    def _write(self, job: Job) -> None:
        """Go on with the replies until all are written, or, where other work waits, for a moment."""
        end = time.monotonic() + SLICE
        try:
            while True:
                self._let_in()
                with self._change:
                    if not self._running and not self._waiting:
                        self._slice = self._batch = None
                        return
                self._step()
                if time.monotonic() > end and job.others_wait:
                    break
        except Exception as error:  # a fault of the desk itself must not leave visitors waiting for ever
            logger.exception("The desk failed")
            self._end_all(error)
        with self._change:
            go_on = bool(self._running or self._waiting)
            self._slice = self._worker.submit_slice(self._write) if go_on else None

    def _let_in(self) -> None:
        """Begin the turns that wait, in their order, as far as there is room."""
        while True:
            with self._change:
                while self._waiting and self._waiting[0].stopped:
                    self._waiting.popleft().end()
                if not self._waiting or not self._fits(self._waiting[0].rows):
                    return
                reply = self._waiting.popleft()
            self._begin(reply)

    def _fits(self, rows: int) -> bool:
        if self._batch is None or not self._running:
            return True
        # Another model came into use: what the old one is writing is finished first.
        if self._batch.model is not self._engine.ready_model():
            return False
        return self._batch.n_rows + rows <= self._rows_at_most

    def _begin(self, reply: Reply) -> None:
        from steering.reply_batch import ReplyBatch

        reply.started.set()
        try:
            writer = TurnWriter(self._engine, reply.request, reply.report, reply.progress)
            writer.begin()
            reply.check()
            if self._batch is None or self._batch.model is not writer.model:
                self._batch = ReplyBatch(writer.model)
            replies = self._batch.join(writer.asked(self._engine.kept_rows))
        except BaseException as error:  # its sentence is the reader's
            reply.end(error)
            return
        running = _Running(reply, writer, replies)
        self._running.append(running)
        self._after_step(running)

    def _step(self) -> None:
        """One more token for every running turn; whoever is done leaves."""
        for running in [one for one in self._running if one.reply.stopped or one.writer.is_overdue]:
            self._finish(running)
        if not self._running or self._batch is None:
            return
        self._batch.step()
        for running in list(self._running):
            self._after_step(running)

    def _after_step(self, running: _Running) -> None:
        replies = running.replies
        if replies.error is None:
            running.writer.take(replies.newest)
        if replies.finished or replies.error is not None:
            self._finish(running, replies.error)

    def _finish(self, running: _Running, error: BaseException | None = None) -> None:
        """Let a turn go, keep its keys and values for the next one, and tell its reader."""
        self._running.remove(running)
        try:
            running.writer.flush()
            if self._batch is not None:
                self._batch.leave(running.replies)
                with self._change:  # a visitor leaves before this or after it
                    if running.reply.keeps:
                        running.writer.keep(running.replies, self._engine.kept_rows)
            if error is None and not running.reply.stopped:
                self._durations.append(time.monotonic() - running.writer.start)
        except BaseException as fault:
            running.reply.end(fault)  # or its reader would wait for ever
            raise
        running.reply.end(error)

    def _end_all(self, error: BaseException) -> None:
        """Give every turn back to its reader with ``error``."""
        with self._change:
            waiting, self._waiting = list(self._waiting), deque()
            running, self._running, self._batch = self._running, [], None
        for one in running:
            one.reply.end(error)
        for reply in waiting:
            reply.end(error)


__all__ = ["Desk", "Reply"]
