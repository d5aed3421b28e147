"""How often one visitor, and one address, may ask: a bucket of tokens for each, filled at a steady pace."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steering.ui.limits import Limits

BUCKETS_KEPT = 4096  # of sessions, and as many of addresses; some 0.3 KB each
EVENTS_AT_ONCE = 6  # the part of a minute's events that may come at once; a slider sends dozens while it is dragged
ROUNDING = 1e-6  # seconds; a visitor who comes back at the second they were told is let in


@dataclass
class _Bucket:
    """Tokens left at a moment of the clock."""

    tokens: float
    at: float


class _Buckets:
    """Buckets by key, all of one size and pace; the one unused for longest is given up first.

    Args:
        a_minute: tokens that come back in a minute.
        burst: tokens in a full bucket.
    """

    def __init__(self, a_minute: int, burst: int) -> None:
        self._pace = a_minute / 60
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, key: str, now: float) -> float:
        """Seconds until this key has a token; 0 when it has one."""
        wait = (1 - self._filled(key, now).tokens) / self._pace
        return wait if wait > ROUNDING else 0.0

    def take(self, key: str, now: float) -> None:
        self._filled(key, now).tokens -= 1

    def _filled(self, key: str, now: float) -> _Bucket:
        """The key's bucket with what came since it was last looked at."""
        bucket = self._buckets.pop(key, None) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._pace)
        bucket.at = now
        self._buckets[key] = bucket
        while len(self._buckets) > BUCKETS_KEPT:
            self._buckets.popitem(last=False)
        return bucket


class Rate:
    """Refuses whoever asks too often, without making anybody wait; may be called from any thread.

    A request counts against its session and against its address. One that is refused counts against neither, so
    that a visitor who stops pressing may ask again at the time the sentence names.

    Args:
        clock: seconds that only grow; given by tests.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions = _Buckets(limits.session_requests, limits.session_burst)
        self._addresses = _Buckets(limits.address_requests, limits.address_burst)
        self._events = _Buckets(limits.session_events, max(1, limits.session_events // EVENTS_AT_ONCE))
        self._lock = threading.Lock()

    def allow(self, session_key: str, address: str) -> str:
        """Count one request: "" if it may go on, else the sentence to show.

        Args:
            session_key: the visitor's; "" for a request without a session, which only its address speaks for.
            address: where it comes from, as `address_of` says.
        """
        with self._lock:
            now = self._clock()
            of_session = self._sessions.wait(session_key, now) if session_key else 0.0
            of_address = self._addresses.wait(address, now)
            if not of_session and not of_address:
                if session_key:
                    self._sessions.take(session_key, now)
                self._addresses.take(address, now)
                return ""
        seconds = math.ceil(max(of_session, of_address))
        when = "in a second" if seconds == 1 else f"in {seconds} seconds"
        if of_session >= of_address:
            return f"You ask faster than the model can be shared. Ask again {when}."
        return f"Too much is asked from your network's address at the moment. Ask again {when}."

    def allow_event(self, session_key: str) -> str:
        """Count one event of a page, of any kind: "" if it may go on, else the sentence to answer."""
        with self._lock:
            now = self._clock()
            if self._events.wait(session_key, now):
                return "This page sends more than the program can follow. Wait a moment."
            self._events.take(session_key, now)
            return ""

    @property
    def kept(self) -> tuple[int, int]:
        """How many buckets of sessions and of addresses are kept."""
        with self._lock:
            return len(self._sessions), len(self._addresses)


def address_of(peer: str | None, headers: Mapping[str, str], *, behind_proxy: bool) -> str:
    """The address a request comes from, as far as it can be believed.

    Args:
        peer: the other end of the connection.
        headers: the request's, with small letters.
        behind_proxy: whether the peer is a proxy that writes ``X-Forwarded-For``. If not, the header is whatever the
            visitor likes and is not read.
    """
    forwarded = [part.strip() for part in headers.get("x-forwarded-for", "").split(",")] if behind_proxy else []
    addresses = [part for part in forwarded if _is_address(part)]
    # Each proxy adds the address it was asked from at the end, so what a visitor wrote there by hand stands further
    # left; private addresses at the end are those of proxies behind the first one.
    public = [part for part in addresses if not ipaddress.ip_address(part).is_private]
    return (public or addresses or [peer or "unknown"])[-1]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
