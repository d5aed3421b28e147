"""For the person who runs the playground: one place for its limits, who is let in, what runs, and how it ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from steering.ui.activity import Activity
from steering.ui.journal import note
from steering.ui.limits import Limits
from steering.ui.rate import Rate, address_of
from steering.ui.take_home_rules import TakeHome

ENDING = "The playground is being stopped. Your conversation ends here; come back in a while."
LAST_STEP = 5.0  # seconds at most for a turn that was stopped: it sees so between two steps of the model
LAST_WORDS = 1.0  # seconds for the state a turn ended in to reach its page


class Operator:
    """What every part of the page asks before it works for a visitor.

    Args:
        limits: as the command line and the environment say.
        behind_proxy: whether ``X-Forwarded-For`` is written by a proxy of ours.
        take_home: what visitors may take with them; by default no more than a direction's file.
        clock: seconds that only grow; given by tests.

    Attributes:
        rate: who asks too often.
        activity: what runs.
        ending: set once the program was asked to end.
        visitors: how many sessions are remembered; the page says where they are counted.
        forget_everyone: at the very end: what was written for visitors to download goes; the page says what that is.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        behind_proxy: bool = False,
        take_home: TakeHome | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.take_home = take_home or TakeHome()
        self.behind_proxy = behind_proxy
        self.rate = Rate(self.limits, clock)
        self.activity = Activity(clock)
        self.ending = threading.Event()
        self.visitors: Callable[[], int] = lambda: 0
        self.forget_everyone: Callable[[], None] = lambda: None

    def admit(self, request: Any) -> str:
        """Whether a visitor's question is taken: "" if it is, else the sentence to show.

        Args:
            request: the page's or the endpoint's, a ``gr.Request``; None for a call from within the program.
        """
        if self.ending.is_set():
            return ENDING
        if request is None:
            return ""
        session_key, address = request.session_hash or "", self.address(request)
        sentence = self.rate.allow(session_key, address)
        if sentence:
            self.activity.refused("asks too often", session_key, address)
        return sentence

    def address(self, request: Any) -> str:
        """Where a request comes from, a Gradio or a Starlette one, as far as it can be believed."""
        peer = request.client.host if request.client else None
        return address_of(peer, request.headers, behind_proxy=self.behind_proxy)

    def end(self) -> None:
        """Take no question more, give running replies their time, then stop what is left and let it say so."""
        self.ending.set()
        running = self.activity.turns
        note("ending", turns=running, grace=self.limits.grace)
        if not self.activity.wait_until_idle(self.limits.grace):
            note("stopping", turns=self.activity.stop_all())
            self.activity.wait_until_idle(LAST_STEP)
        if running:
            time.sleep(LAST_WORDS)
        self.forget_everyone()


def on_signals(first: Callable[[], None]) -> None:
    """Call ``first`` at SIGTERM or Ctrl-C, from the main thread; a second one ends the program at once."""

    def handle(number: int, _frame: Any) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        first()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)
