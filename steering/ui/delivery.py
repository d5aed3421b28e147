"""How the page reaches a browser: with its first paint, compressed, and what never changes under its address only once.

Gradio compresses its scripts and styles but not the page itself, which carries the recorded run, the scope's scripts
and every component's settings; and it lets a browser ask again for each of its files on every visit, although their
names carry a hash of what is in them.
"""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steering.ui.scope import ASSETS

# Gradio's files carry the hash in their names; its theme and our files (`scope.asset_url`) have it after the address.
HASHED = re.compile(r"/assets/[^/]+-[\w-]{8}\.\w+$")
VERSIONED = re.compile(rf"/theme\.css$|file={re.escape(ASSETS.as_posix())}/[^/]+$")
VERSION = re.compile(rb"v=[0-9a-f]{16,64}")
FOR_GOOD = "public, max-age=31536000, immutable"
BODY = re.compile(rb"<body\b[^>]*>")
COMPRESSION_LEVEL = 5  # 9 takes three times as long, and saves 2 % more


class Delivery:
    """Middleware of the page's server.

    Args:
        first_paint: markup for the beginning of the page's body (`steering.ui.first_paint`).
    """

    def __init__(self, app: ASGIApp, first_paint: str = "") -> None:
        self._app = app
        page = _Painted(app, first_paint.encode()) if first_paint else app
        self._compressed = GZipMiddleware(page, compresslevel=COMPRESSION_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif is_page(scope):
            await self._compressed(scope, receive, send)
        elif never_changes(scope):
            await self._app(scope, receive, _kept(send))
        else:
            await self._app(scope, receive, send)


class _Painted:
    """Puts markup at the beginning of the body of an answer that is a page."""

    def __init__(self, app: ASGIApp, markup: bytes) -> None:
        self._app = app
        self._markup = markup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        parts: list[bytes] = []

        async def painted(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if message["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            if start is None:
                await send(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = BODY.sub(lambda tag: tag[0] + self._markup, b"".join(parts), count=1)
            if scope["method"] == "GET":
                MutableHeaders(raw=start["headers"])["Content-Length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, painted)


def is_page(scope: Scope) -> bool:
    """Whether the page itself is asked for, at the root or behind a proxy with a path of its own."""
    path, root = scope["path"], scope.get("root_path", "")
    return bool(path.removeprefix(root).strip("/") == "")


def never_changes(scope: Scope) -> bool:
    """Whether what is asked for has a hash of its content in its address."""
    path = scope["path"]
    return bool(HASHED.search(path) or (VERSIONED.search(path) and VERSION.fullmatch(scope.get("query_string", b""))))


def _kept(send: Send) -> Send:
    """A ``send`` that tells the browser to keep what it is given; an error is asked for again."""

    async def kept(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (200, 206, 304):
            MutableHeaders(raw=message["headers"])["Cache-Control"] = FOR_GOOD
        await send(message)

    return kept
