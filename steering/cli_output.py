"""What the command line prints: progress on the standard error, and results as lines for people."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.progress import Progress


class ProgressBar:
    """Progress on the standard error while a command works; nothing with ``--quiet``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._quiet = options.quiet
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Progress:
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _report(self, what: str, done: float, total: float) -> None:
        if self._quiet:
            return
        from tqdm import tqdm

        if self._what != what:
            self.__exit__()
            self._what = what
            shape = "{desc}{percentage:3.0f}% {elapsed}<{remaining}"
            self._bar = tqdm(desc=what, total=total, file=sys.stderr, leave=False, bar_format=shape)
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def as_text(result: dict[str, Any]) -> str:
    """A result as lines for people."""
    lines = []
    for key, value in result.items():
        if value in ("", None, []):
            continue
        words = key.replace("_", " ")
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            lines += [f"{words}:", *(f"  {one}" for one in value)]
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else value
        lines.append(f"{words}: {shown if isinstance(shown, str | int) else json.dumps(shown)}")
    return "\n".join(lines)
