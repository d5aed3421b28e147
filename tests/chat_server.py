"""A small chat server on this machine that speaks as OpenAI-compatible ones do, or as none should."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Talk"], None]


@dataclass
class Talk:
    """One question to the server, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    body: dict[str, Any]
    closed: threading.Event

    def begin(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()

    def send(self, content: bytes) -> None:
        self.handler.wfile.write(content)
        self.handler.wfile.flush()

    def piece(self, text: str | None, **more: Any) -> None:
        delta = {"role": "assistant"} if text is None else {"content": text}
        event = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **more}]}
        self.send(f"data: {json.dumps(event)}\n\n".encode())

    def refuse(self, status: int, said: Any) -> None:
        self.begin(status, "application/json")
        self.send(json.dumps(said).encode())


@dataclass
class ChatServer:
    """A running server: its address up to ``/v1``, and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)


def words(text: str) -> Answer:
    """Streams a text, a word a piece, and ends as it should."""

    def answer(talk: Talk) -> None:
        talk.begin()
        talk.piece(None)
        for place, word in enumerate(text.split(" ")):
            talk.piece(word if place == 0 else f" {word}")
        talk.send(b"data: [DONE]\n\n")

    return answer


def endless(seconds: float = 30.0, every: float = 0.02) -> Answer:
    """Goes on and on, until the reader leaves."""

    def answer(talk: Talk) -> None:
        talk.begin()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            talk.piece(" more")
            time.sleep(every)

    return answer


def silent(seconds: float = 30.0, first: str = "") -> Answer:
    """Says nothing, or nothing more; notices when the reader leaves."""

    def answer(talk: Talk) -> None:
        talk.begin()
        if first:
            talk.piece(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            talk.send(b": still here\n\n")
            time.sleep(0.02)

    return answer


VLLM_MODELS = [{"id": "tiny", "object": "model", "owned_by": "vllm"}]


@contextmanager
def chat_server(answer: Answer, models: Any = None, models_status: int = 200, port: int = 0) -> Iterator[ChatServer]:
    """Serve ``answer`` to every question; ``models`` is what is listed."""
    listed = {"object": "list", "data": VLLM_MODELS if models is None else models}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.headers.append(dict(self.headers))
            content = json.dumps(listed).encode()
            self.send_response(models_status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            try:
                answer(Talk(self, body, server.closed))
            except OSError:  # the reader went away
                server.closed.set()

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    running.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{running.server_address[1]}/v1")
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
