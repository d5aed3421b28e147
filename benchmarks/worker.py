"""A worker in another environment: one JSON request a line on its standard input, one answer a line on its output."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class Worker:
    """A running worker. Use as a context manager, which ends it.

    Args:
        python: the interpreter of its environment.
        file: the script, run with ``argument``; nothing of this project can be imported there.
        name: what failed, if it does.
        setting: the first request.

    Attributes:
        about: the answer to it.
    """

    def __init__(self, python: Path, file: str, argument: str, name: str, setting: dict[str, Any]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            [python, "-P", file, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.about = self.ask(setting)

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self._errors.read()[-2000:]}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the worker ends with its input
        self._process.wait(timeout=60)
        self._errors.close()
