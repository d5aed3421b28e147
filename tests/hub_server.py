"""A small hub on this machine: answers as the real one does for a model that is there, gated, gone, or half there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Status and error code for repositories that give no files.
REFUSALS = {
    "some/gone": (404, "RepoNotFound"),
    "some/gated": (403, "GatedRepo"),
    "some/broken": (500, "Broken"),
}


def listing(folder: Path) -> list[dict[str, object]]:
    """The files of a repository, as the hub lists them."""
    return [
        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": git_hash(file.read_bytes())}
        for file in sorted(folder.iterdir())
    ]


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as repositories; gives the address and the list of files sent so far."""
    sent: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            for model_id, (status, code) in REFUSALS.items():
                if model_id in path:
                    return self.reply(status, b"{}", with_body, {"X-Error-Code": code, "X-Error-Message": code})
            for model_id, folder in models.items():
                if path.startswith(f"api/models/{model_id}"):
                    if "/tree/" in path:
                        return self.reply(200, json.dumps(listing(folder)).encode(), with_body)
                    revision = path.partition("/revision/")[2] or "main"
                    if revision not in ("main", COMMIT):
                        return self.reply(404, b"{}", with_body, {"X-Error-Code": "RevisionNotFound"})
                    files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                    about = {"id": model_id, "modelId": model_id, "sha": COMMIT, "siblings": files, "tags": []}
                    return self.reply(200, json.dumps(about).encode(), with_body)
                if path.startswith(f"{model_id}/resolve/"):
                    file = folder / path.rpartition("/")[2]
                    if not file.is_file():
                        return self.reply(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
                    content = file.read_bytes()
                    if with_body:
                        sent.append(file.name)
                    etag = f'"{git_hash(content)}"'
                    return self.reply(200, content, with_body, {"X-Repo-Commit": COMMIT, "ETag": etag})
            return self.reply(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})

        def reply(self, status: int, body: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
