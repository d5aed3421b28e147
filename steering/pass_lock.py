"""The lock that whoever runs a forward pass with hooks on the model holds."""

from __future__ import annotations

import threading
from types import TracebackType


class PassLock:
    """A lock that its holder may take again, and that tells whether anyone holds it.

    Long work reports its progress in the middle of a pass too. What is called then must not use the model: hooks of the
    unfinished pass are on it, and the same thread would be let in. It can ask :attr:`is_held`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0  # changed by the holder alone

    @property
    def is_held(self) -> bool:
        """Whether a pass is running, on whatever thread."""
        return self._depth > 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        taken = self._lock.acquire(blocking, timeout)
        self._depth += taken
        return taken

    def release(self) -> None:
        self._depth -= 1
        self._lock.release()

    def __enter__(self) -> PassLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
