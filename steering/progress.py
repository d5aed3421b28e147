"""The one callback through which long work reports how far it is, for the command line and the page alike."""

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much there is.

    It is called at least once a batch. It may raise :class:`steering.errors.Cancelled` to end the work there.
    """

    def __call__(self, what: str, done: float, total: float) -> None: ...


def silent(what: str, done: float, total: float) -> None:
    """Report nothing."""
