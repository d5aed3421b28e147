"""Whether the servers of the remote mode answer, what they serve and what they are: asked again and again.

That is done on threads of its own, so that neither the page's start nor a visitor waits for a server that is down.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from steering.ui.journal import note
from steering.ui.remote_endpoints import KEY_VARIABLE, OTHER, Endpoint, headers, kind_of, short
from steering.ui.remote_stream import CONNECT_SECONDS, PLAIN, reason

AGAIN_WHEN_WELL = 20.0  # seconds
AGAIN_WHEN_NOT = 3.0
LONGEST_LIST = 2_000_000  # bytes of a list of models


@dataclass(frozen=True)
class Seen:
    """What is known of an endpoint.

    Attributes:
        answers: None until it was asked for the first time.
        model: the name it is asked for; "" as long as nobody said one.
        trouble: what is wrong, where it does not answer; follows the words “At address, …”.
    """

    answers: bool | None = None
    model: str = ""
    kind: str = OTHER
    trouble: str = ""


class EndpointWatch:
    """Looks after the endpoints; what it saw last may be read from any thread.

    Args:
        endpoints: in the order of the columns.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._seen = {endpoint.column: Seen(model=endpoint.model) for endpoint in endpoints}
        self._again = threading.Event()

    def begin(self) -> None:
        """Look now, and again every few seconds until the program ends."""
        for endpoint in self.endpoints:
            threading.Thread(target=self._look_after, args=(endpoint,), name="watch", daemon=True).start()

    def seen(self, endpoint: Endpoint) -> Seen:
        return self._seen[endpoint.column]

    @property
    def all_seen(self) -> list[Seen]:
        """In the order of the columns."""
        return [self._seen[endpoint.column] for endpoint in self.endpoints]

    @property
    def is_well(self) -> bool:
        """Whether all of them answered when they were last asked."""
        return all(seen.answers for seen in self.all_seen)

    def _look_after(self, endpoint: Endpoint) -> None:
        while True:
            seen = look(endpoint)
            before = self._seen[endpoint.column]
            if seen.answers != before.answers:
                note("endpoint", column=endpoint.column, answers=seen.answers, model=short(seen.model), kind=seen.kind)
            if not seen.answers and before.model:
                seen = Seen(False, before.model, before.kind, seen.trouble)
            self._seen[endpoint.column] = seen
            self._again.wait(AGAIN_WHEN_WELL if seen.answers else AGAIN_WHEN_NOT)


def look(endpoint: Endpoint) -> Seen:
    """Ask an endpoint for its models."""
    try:
        with (
            httpx.Client(headers=headers() | PLAIN, timeout=CONNECT_SECONDS, trust_env=not endpoint.is_here) as client,
            client.stream("GET", f"{endpoint.url}/models") as answer,
        ):
            status = answer.status_code
            if status in (401, 403):
                return Seen(False, endpoint.model, trouble=f"it wants a key (HTTP {status}): set {KEY_VARIABLE}")
            content = b""
            for block in answer.iter_raw():
                content += block
                if len(content) > LONGEST_LIST:
                    return Seen(False, endpoint.model, trouble="its list of models is too long")
    except httpx.HTTPError as error:
        return Seen(False, endpoint.model, trouble=reason(error))
    listed = _models(content) if status == 200 else None
    if status >= 500:
        return Seen(False, endpoint.model, trouble=f"it fails (HTTP {status})")
    if listed is None:
        # A gateway may keep its list to itself and answer all the same; with a name, that is enough to try.
        trouble = "" if endpoint.model else "it lists no models; give a name with model="
        return Seen(not trouble, endpoint.model, trouble=trouble)
    names = [str(entry["id"]) for entry in listed]
    kind = kind_of(listed)
    if not endpoint.model and not names:
        return Seen(False, kind=kind, trouble="it serves no model yet; give its name with model=")
    return Seen(True, endpoint.model or names[0], kind)


def _models(content: bytes) -> list[dict[str, Any]] | None:
    """The entries of a list of models; None if this is no such list."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    entries = said.get("data") if isinstance(said, dict) else None
    if not isinstance(entries, list):
        return None
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]
