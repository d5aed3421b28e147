"""The one callback through which long work reports how far it is, for the command line and the page alike."""

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
