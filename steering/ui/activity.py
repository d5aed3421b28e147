"""What runs at the moment: turns, their rows and tokens, for the log, the status page and the end of the program."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from steering.ui.journal import note

A_MINUTE = 60  # seconds


class RunningTurn:
    """One turn from its beginning to its end; :meth:`ended` must be called however it ends, and may be called twice."""

    def __init__(self, activity: Activity, visitor: str, rows: int, kind: str, stop: Callable[[], None]) -> None:
        self.visitor = visitor
        self.rows = rows
        self.kind = kind
        self.stop = stop
        self.tokens = 0
        self.start = activity.clock()
        self._activity = activity

    def wrote(self, tokens: int) -> None:
        """Say how many tokens all its rows have by now."""
        self._activity.wrote(self, tokens)

    def ended(self, *, stopped: bool = False, failed: bool = False) -> None:
        """Say that it is over.

        Args:
            stopped: somebody asked for the end before it came.
            failed: an error ended it; whoever saw the error logs it.
        """
        self._activity.turn_ended(self, stopped=stopped, failed=failed)


class Activity:
    """Counts what runs, from any thread, and notes beginnings, ends and refusals in the log.

    Args:
        clock: seconds that only grow; given by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start = clock()
        self._turns: set[RunningTurn] = set()
        self._by_second: OrderedDict[int, int] = OrderedDict()
        self._change = threading.Condition()
        self._salt = secrets.token_bytes(16)

    def turn_started(
        self, session_key: str, *, rows: int = 3, kind: str = "chat", stop: Callable[[], None] = lambda: None
    ) -> RunningTurn:
        """A turn that was accepted and now waits for the model, or runs.

        Args:
            session_key: the visitor's; only its hash is kept and logged.
            rows: the rows of a batch it takes.
            kind: who asked: ``chat``, ``steer``, ``blind``.
            stop: ends it; called from another thread when the program ends.
        """
        turn = RunningTurn(self, self.visitor(session_key), rows, kind, stop)
        with self._change:
            self._turns.add(turn)
        note("turn started", kind=kind, session=turn.visitor, rows=rows)
        return turn

    def wrote(self, turn: RunningTurn, tokens: int) -> None:
        with self._change:
            second = int(self.clock())
            self._by_second[second] = self._by_second.get(second, 0) + max(0, tokens - turn.tokens)
            turn.tokens = max(turn.tokens, tokens)
            self._forget_old(second)

    def turn_ended(self, turn: RunningTurn, *, stopped: bool = False, failed: bool = False) -> None:
        with self._change:
            if turn not in self._turns:
                return
            self._turns.remove(turn)
            self._change.notify_all()
        seconds = round(self.clock() - turn.start, 2)
        note(
            "turn ended",
            kind=turn.kind,
            session=turn.visitor,
            rows=turn.rows,
            tokens=turn.tokens,
            seconds=seconds,
            stopped=stopped,
            failed=failed,
        )

    def refused(self, why: str, session_key: str = "", address: str = "") -> None:
        """Note that something was refused; ``why`` is a word or two of the program's own."""
        note("refused", why=why, session=self.visitor(session_key), address=self.visitor(address))

    def visitor(self, key: str) -> str:
        """What stands for a session or an address in the log: the same until the program ends, and no way back."""
        return hashlib.blake2b(key.encode(), digest_size=6, key=self._salt).hexdigest() if key else ""

    @property
    def turns(self) -> int:
        """How many turns were accepted and are not over."""
        with self._change:
            return len(self._turns)

    @property
    def rows(self) -> int:
        """How many rows these take together."""
        with self._change:
            return sum(turn.rows for turn in self._turns)

    @property
    def tokens_per_second(self) -> float:
        """Of all rows together, over the last minute, or since the start if that is less."""
        with self._change:
            now = self.clock()
            self._forget_old(int(now))
            return sum(self._by_second.values()) / max(1.0, min(A_MINUTE, now - self.start))

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.start

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no turn is left, at most this long; whether none is."""
        with self._change:
            return self._change.wait_for(lambda: not self._turns, timeout=seconds)

    def stop_all(self) -> int:
        """Ask every turn to end; how many were asked."""
        with self._change:
            turns = list(self._turns)
        for turn in turns:
            turn.stop()
        return len(turns)

    def _forget_old(self, second: int) -> None:
        while self._by_second and next(iter(self._by_second)) <= second - A_MINUTE:
            self._by_second.popitem(last=False)
