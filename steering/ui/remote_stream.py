"""One answer of an OpenAI-compatible server as it comes: read within bounds, and every failure made a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from steering.errors import SteeringError
from steering.ui.conversations import Likeliest
from steering.ui.remote_endpoints import KEY_VARIABLE, OPTIONAL

CONNECT_SECONDS = 5.0
PLAIN = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
# Between two pieces; the first may take as long as the whole answer, for a server may have a line.
SILENT_SECONDS = 45.0
LONGEST_LINE = 1_000_000  # bytes; the likeliest tokens of one piece take some 2,000
LONGEST_ERROR = 4_000  # bytes that are read of a refusal
QUOTED = 160  # characters of it that are shown
BYTES_A_TOKEN = 20_000
PIECE_CHARACTERS = 20_000
SPARE_PIECES = 8  # more than were asked for: some servers send their marks of beginning and end as pieces


class RemoteError(SteeringError):
    """A server did not answer, or not as it should; the sentence says what it did and what to do."""


@dataclass(frozen=True)
class Piece:
    """What one event added to an answer.

    Attributes:
        tokens: the texts of its tokens, where the server says them and they make up ``text``; else None.
        likeliest: for each of ``tokens`` what could have been said; where the server gave one, and it is all it gave.
    """

    text: str
    tokens: tuple[str, ...] | None = None
    likeliest: tuple[Likeliest, ...] = ()


def client(headers: dict[str, str], *, here: bool) -> httpx.AsyncClient:
    """A client that follows no redirect, which could carry the key elsewhere; ``here`` goes round a proxy.

    It asks for plain bytes, and they are read as they come: compressed ones could grow past every bound at once.
    """
    patience = httpx.Timeout(None, connect=CONNECT_SECONDS)
    return httpx.AsyncClient(headers=headers | PLAIN, timeout=patience, trust_env=not here, follow_redirects=False)


async def pieces(to: httpx.AsyncClient, url: str, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
    """What a server says, piece by piece; leaving the iterator closes the connection, which ends the server's work.

    Raises:
        RemoteError: if it cannot be reached, refuses, or sends what is no answer.
    """
    most = int(body["max_tokens"])
    slim = {key: value for key, value in body.items() if key not in OPTIONAL}
    try:
        for asked in (body, slim):
            async with to.stream("POST", f"{url}/chat/completions", content=json.dumps(asked)) as answer:
                if answer.status_code in (400, 422) and asked is not slim:
                    continue
                if answer.status_code != 200:
                    raise RemoteError(await _refusal(answer))
                count = 0
                async for piece in _read(answer, most):
                    count += 1
                    if count > most + SPARE_PIECES:
                        raise RemoteError(
                            f"it went on past the {most} tokens it was asked for and was cut off; check that it heeds "
                            "max_tokens"
                        )
                    yield piece
                return
    except httpx.HTTPError as error:
        raise RemoteError(reason(error)) from error


async def _read(answer: httpx.Response, most: int) -> AsyncIterator[Piece]:
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise RemoteError("it did not stream; check that the address ends with /v1 and that this is a chat server")
    lines = Lines(limit=BYTES_A_TOKEN * (most + SPARE_PIECES))
    async for block in answer.aiter_raw():
        for line in lines.feed(block):
            if line == "[DONE]":
                return
            if (piece := read_event(line)) is not None:
                yield piece
    for line in lines.rest():
        if line != "[DONE]" and (piece := read_event(line)) is not None:
            yield piece
    if not lines.any:
        raise RemoteError("it ended without a word; its own log may say why")


class Lines:
    """The ``data:`` lines of a stream of events, put together from blocks of bytes that end anywhere.

    Args:
        limit: bytes at most, all together.

    Attributes:
        any: whether there was one.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._begun = b""
        self.any = False

    def feed(self, block: bytes) -> Iterator[str]:
        """Raises: RemoteError, if a line or the whole is too long."""
        self._left -= len(block)
        *whole, self._begun = (self._begun + block).replace(b"\r", b"\n").split(b"\n")
        if self._left < 0 or len(self._begun) > LONGEST_LINE:
            raise RemoteError("it sent far more than an answer of that length takes and was cut off")
        for line in whole:
            yield from self._data(line)

    def rest(self) -> Iterator[str]:
        """A last line without an end."""
        yield from self._data(self._begun)

    def _data(self, line: bytes) -> Iterator[str]:
        if line.startswith(b"data:"):
            self.any = True
            yield line[5:].decode("utf-8", errors="replace").strip()


def read_event(data: str) -> Piece | None:
    """What an event adds to the answer; None if it adds nothing, as the first and the last do.

    Raises:
        RemoteError: if it is an error, or nothing that this protocol has.
    """
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError(
            "it sent something that cannot be read; check that it is an OpenAI-compatible server"
        ) from None
    if not isinstance(event, dict):
        raise RemoteError("it sent something that is no answer; check that it is an OpenAI-compatible server")
    if "error" in event:
        raise RemoteError(f"it stopped with an error{_quoted(event)}; its own log may say more")
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    if not isinstance(text, str) or not text:
        return None
    if len(text) > PIECE_CHARACTERS:
        raise RemoteError("it sent a piece far longer than any word and was cut off")
    # Half a pair of a surrogate is no text: nothing that shows or keeps it could write it as UTF-8.
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return _with_likeliest(text, choice.get("logprobs"))


def _with_likeliest(text: str, logprobs: Any) -> Piece:
    """The piece with its tokens, if the server's account of them holds together."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        return Piece(text)
    said = tuple(entry.get("token") for entry in content)
    if len(said) > 1 and "".join(str(token) for token in said) != text:
        return Piece(text)
    # Alone, a token may be shown otherwise than it adds to the text: a half of an emoji, or a leading space left out.
    tokens = (text,) if len(said) == 1 else tuple(str(token) for token in said)
    return Piece(text, tokens, tuple(_likeliest(entry.get("top_logprobs")) for entry in content))


def _likeliest(entries: Any) -> Likeliest:
    found: Likeliest = []
    for entry in entries if isinstance(entries, list) else []:
        token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if isinstance(token, str) and len(token) <= 200 and isinstance(logprob, float | int) and -1e4 < logprob <= 0:
            found.append((token.encode("utf-8", errors="replace").decode("utf-8"), math.exp(logprob)))
    return found[:10]


async def _refusal(answer: httpx.Response) -> str:
    """What to say of an answer that is none."""
    content = b""
    async for block in answer.aiter_raw():
        content += block
        if len(content) > LONGEST_ERROR:
            break
    try:
        said = json.loads(content[:LONGEST_ERROR])
    except (ValueError, RecursionError):
        said = None
    status = answer.status_code
    if status in (401, 403):
        return f"it wants a key (HTTP {status}); set {KEY_VARIABLE} and start the page again"
    if status == 404:
        what = f"it has no such model or address (HTTP 404){_quoted(said)}"
        return f"{what}; check model= and that the address ends with /v1"
    if status == 429:
        return "it has too much to do (HTTP 429); ask again in a while"
    if status >= 500:
        return f"it failed (HTTP {status}){_quoted(said)}; its own log says why"
    if 300 <= status < 400:
        return f"it points elsewhere (HTTP {status}); give the address it points to"
    return f"it refused the question (HTTP {status}){_quoted(said)}"


def _quoted(said: Any) -> str:
    """The server's own words of an error, where it has some, cut short."""
    error = said.get("error", said) if isinstance(said, dict) else None
    words = error if isinstance(error, str) else None
    if isinstance(error, dict):
        words = next((error[key] for key in ("message", "detail") if isinstance(error.get(key), str)), None)
    if not words or not words.strip():
        return ""
    line = " ".join(words.encode("utf-8", errors="replace").decode("utf-8").split())
    return f": “{line if len(line) <= QUOTED else line[:QUOTED] + '…'}”"


def reason(error: httpx.HTTPError) -> str:
    """What to say of a connection that failed."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return "nothing answers there; start it, or check the address"
    if isinstance(error, httpx.TimeoutException):
        return "it fell silent; its own log may say why"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "the connection broke off; its own log may say why"
    return "the connection failed; check the address"
