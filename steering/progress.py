"""How long work reports how far it is, for the command line and the page alike."""

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much there is.

    It is called at least once a batch, and in the middle of a forward pass too: it must not use the model then
    (:attr:`steering.pass_lock.PassLock.is_held`). It may raise :class:`steering.errors.Cancelled` to end the work
    there.
    """

    def __call__(self, what: str, done: float, total: float) -> None: ...


def silent(what: str, done: float, total: float) -> None:
    """Report nothing."""


# Told before every block of a pass what part of a step is done; what it raises ends the step.
Tick = Callable[[float], None]


def no_tick(part: float) -> None:
    """Do nothing before a block."""


def of_several(tick: Tick, number: int, n: int) -> Tick:
    """``tick`` for the ``number``-th of ``n`` that make up one."""
    return lambda part: tick((number + part) / n)
