"""The directions that programs computed: each under an id of its own, for an hour after its use."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from steering.errors import DirectionError
from steering.ui.session import OWN

if TYPE_CHECKING:
    from steering.directions import Direction

KEPT_SECONDS = 3600.0
MOST_KEPT = 128  # a direction of a model of width 4,096 takes about 0.1 MB


class KeptDirections:
    """The directions in use, the least recently used given up first; for any thread."""

    def __init__(self, most: int = MOST_KEPT, seconds: float = KEPT_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[float, Direction]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, direction: Direction) -> str:
        """Keep a direction; the id it is had by, which cannot be guessed."""
        key = OWN + secrets.token_urlsafe(16)
        with self._lock:
            self._forget_old()
            self._kept[key] = (time.monotonic(), direction)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> Direction:
        """The direction with an id, whose hour begins anew.

        Raises:
            DirectionError: if there is none, or not any more.
        """
        with self._lock:
            self._forget_old()
            if key not in self._kept:
                raise DirectionError(
                    "There is no direction with this id, or not any more: it is kept for an hour after its last use. "
                    "Compute it again."
                )
            _, direction = self._kept.pop(key)
            self._kept[key] = (time.monotonic(), direction)
            return direction

    def _forget_old(self) -> None:
        oldest_kept = time.monotonic() - self._seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest_kept:
            self._kept.popitem(last=False)
