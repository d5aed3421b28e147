"""A small hub on this machine that takes what is published and gives it back, as the real one does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from hub_server import COMMIT, git_hash


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Shelf:
    """What the hub holds, by ``models/owner/name`` or ``datasets/owner/name``, and the requests it had."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuses: int = 0  # a status with which every change is answered


@contextmanager
def publishing() -> Iterator[Shelf]:
    """A hub that is empty at first."""
    shelf = Shelf()

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.give()

        def do_GET(self) -> None:
            self.give()

        def do_POST(self) -> None:
            shelf.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if shelf.refuses:
                return self.reply(shelf.refuses, {"error": "no"})
            path = self.path.partition("?")[0].strip("/")
            if path == "api/repos/create":
                asked = json.loads(body)
                owner = asked.get("organization") or "me"
                key = f"{asked.get('type') or 'model'}s/{owner}/{asked['name']}"
                url = f"{shelf.address}/{'datasets/' if key.startswith('d') else ''}{owner}/{asked['name']}"
                if key in shelf.repositories:
                    return self.reply(409, {"error": "exists", "url": url})
                shelf.repositories[key] = Repository(asked.get("private") or asked.get("visibility") == "private")
                return self.reply(200, {"url": url})
            if path == "api/validate-yaml":  # of a card's front matter
                return self.reply(200, {"errors": [], "warnings": []})
            kind, owner, name, what = path.split("/")[1:5]
            repository = shelf.repositories[f"{kind}/{owner}/{name}"]
            url = f"{shelf.address}/{'datasets/' if kind == 'datasets' else ''}{owner}/{name}"
            if what == "preupload":
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return self.reply(200, {"files": files})
            if what == "commit":
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self.reply(200, {"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT})
            return self.reply(404, {})

        def give(self) -> None:
            shelf.requests.append(f"{self.command} {self.path}")
            path = unquote(self.path.partition("?")[0].strip("/"))
            for key, repository in shelf.repositories.items():
                kind, _, name = key.partition("/")
                if path.startswith(f"api/{key}"):
                    if "/tree/" in path:
                        tree = [
                            {"type": "file", "path": file, "size": len(content), "oid": git_hash(content)}
                            for file, content in repository.files.items()
                        ]
                        return self.reply(200, tree)
                    files = [{"rfilename": file, "size": len(content)} for file, content in repository.files.items()]
                    about = {"id": name, "sha": COMMIT, "siblings": files, "tags": [], "private": repository.private}
                    return self.reply(200, about)
                prefix = name if kind == "models" else key
                if path.startswith(f"{prefix}/resolve/"):
                    file = path.removeprefix(f"{prefix}/resolve/").partition("/")[2]
                    if file not in repository.files:
                        return self.reply(404, {}, {"X-Error-Code": "EntryNotFound"})
                    content = repository.files[file]
                    headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_hash(content)}"'}
                    return self.reply(200, content, headers)
            return self.reply(404, {}, {"X-Error-Code": "RepoNotFound"})

        def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            sent = {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    shelf.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
