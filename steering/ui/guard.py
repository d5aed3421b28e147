"""What the page's server takes from outside, looked at before Gradio sees it: sizes, kinds, sessions, and how often.

Gradio takes a file of any kind from anybody, at more than one address, and an event with any session's name. Here a
file is taken at one address only, if some component of the page can read it, and everything else that is sent must be
small JSON whose session is a short text.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steering.contrast_files import FORMATS
from steering.exchange_kinds import KIND_BY_ENDING
from steering.ui.inputs import UNREADABLE
from steering.ui.operator import ENDING, Operator

UPLOAD = "/gradio_api/upload"
CLOSED = ("/gradio_api/deep_link",)  # writes a whole conversation to the disk for whoever has its session's name
KINDS = (*FORMATS, *KIND_BY_ENDING)
FILES_AT_ONCE = 2
ENVELOPE = 10_000  # bytes around the files of one upload
LARGEST_EVENT = 1_000_000  # bytes; the votes of the blind test, which a browser keeps, are the longest thing sent
LISTENED_TO = 50_000_000  # bytes of what is too large: a browser shows an answer only once it has sent everything
LONGEST_SESSION = 64  # characters; Gradio's own have 11, those of its Python client 36
KEPT_ON_DISK = 2 * 3600  # seconds after which an upload is gone: Gradio looks once an hour for those older than one


class Guard:
    """Middleware of the page's server; the first to see a request."""

    def __init__(self, app: ASGIApp, operator: Operator, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._operator = operator
        self._disk = _Disk(operator.limits.uploads_mb * 10**6, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") in CLOSED:
            await self._refuse(scope, "closed", "There is nothing at this address.", 404)(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].rstrip("/") == UPLOAD
        largest = self._operator.limits.upload_mb * 10**6 + ENVELOPE if is_upload else LARGEST_EVENT
        body = await _body(receive, largest)
        if body is None:
            words = f"What was sent is larger than {largest / 1e6:.3g} MB, which is the most that is taken here."
            refusal: Response | None = self._refuse(scope, "too large", words, 413)
        elif is_upload:
            refusal = await self._upload(scope, body)
        else:
            refusal = self._event(scope, body)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._pass_on(scope, _replay(body or b"", receive), send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio have it; where it stumbles over names and numbers that its page would not send, refuse it."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if begun:
                raise
            refusal = self._refuse(scope, f"unreadable event ({type(error).__name__})", UNREADABLE, 400)
            await refusal(scope, receive, send)

    async def _upload(self, scope: Scope, body: bytes) -> Response | None:
        """The answer to files that are not taken; None if they are."""
        if self._operator.ending.is_set():
            return self._refuse(scope, "ending", ENDING, 503)
        sentence = self._operator.rate.allow("", self._operator.address(Request(scope)))
        if sentence:
            return self._refuse(scope, "asks too often", sentence, 429)
        try:
            stream = Request(scope, _replay(body)).stream()
            form = await MultiPartParser(Headers(scope=scope), stream, max_files=FILES_AT_ONCE, max_fields=0).parse()
        except (MultiPartException, MultipartParseError, KeyError, ValueError):
            words = f"This is no upload that can be read; at most {FILES_AT_ONCE} files are taken at once."
            return self._refuse(scope, "unreadable upload", words, 400)
        try:
            names = _names(form)
        finally:
            await form.close()
        if not names or any(not name.lower().endswith(KINDS) for name in names):
            words = f"Only files of these kinds are taken: {', '.join(kind[1:] for kind in KINDS)}."
            return self._refuse(scope, "kind of file", words, 415)
        if not self._disk.take(len(body)):
            words = "There is no room for more files at the moment. Try again in an hour."
            return self._refuse(scope, "no room for files", words, 507)
        return None

    def _event(self, scope: Scope, body: bytes) -> Response | None:
        """The answer to an event that is not taken; None if it is."""
        if not body:
            return None
        kind = Headers(scope=scope).get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            return self._refuse(scope, "no JSON", f"Only JSON is taken here, and files at {UPLOAD}.", 415)
        try:
            content = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return self._refuse(scope, "no JSON", "This is no JSON.", 400)
        session = content.get("session_hash") if isinstance(content, dict) else None
        if session is not None and not (isinstance(session, str) and 0 < len(session) <= LONGEST_SESSION):
            return self._refuse(scope, "no session", f"A session is a text of up to {LONGEST_SESSION} characters.", 400)
        sentence = self._operator.rate.allow_event(session or self._operator.address(Request(scope)))
        return self._refuse(scope, "too many events", sentence, 429) if sentence else None

    def _refuse(self, scope: Scope, why: str, sentence: str, status: int) -> Response:
        self._operator.activity.refused(why, address=self._operator.address(Request(scope)))
        if scope["path"].rstrip("/") == UPLOAD:  # the page shows an upload's answer as it is
            return PlainTextResponse(sentence, status)
        return JSONResponse({"detail": sentence, "error": sentence}, status)


class _Disk:
    """Room for uploads: what was taken lately, as much of it as may still be on the disk."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._taken: deque[tuple[float, int]] = deque()
        self._total = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes; if so, they are taken."""
        with self._lock:
            now = self._clock()
            while self._taken and self._taken[0][0] < now - KEPT_ON_DISK:
                self._total -= self._taken.popleft()[1]
            if self._total + size > self._most:
                return False
            self._taken.append((now, size))
            self._total += size
            return True


def _names(form: FormData) -> list[str]:
    """The files' names; "" for one under another field's name, which Gradio would write to the disk and forget."""
    parts = ((field, part) for field, part in form.multi_items() if isinstance(part, UploadFile))
    return [(part.filename or "") if field == "files" else "" for field, part in parts]


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON.")


async def _body(receive: Receive, largest: int) -> bytes | None:
    """The whole body, or None if it is larger than ``largest`` bytes."""
    body = bytearray()
    read = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        read += len(part)
        if read <= largest:
            body += part
        elif read > LISTENED_TO:
            break
        more = message.get("more_body", False)
    return bytes(body) if read <= largest else None


def _replay(body: bytes, then: Receive | None = None) -> Receive:
    """A ``receive`` that gives a body that was read already, and then what else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await then() if then is not None else {"type": "http.disconnect"}

    return receive
