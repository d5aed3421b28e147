"""The program's log on standard error, for people or for machines, without a word of any conversation.

In the format ``json`` each line is one object: ``time`` (UTC), ``level``, ``event``, and what belongs to the event.
What other libraries log or print there comes as the events ``log`` and ``printed``.

An exception's message can repeat what a visitor wrote, so of an error the log has its kind and the lines of the program
it went through, and its message only where that speaks of the machine (`_SPEAKS_OF_MACHINE`).
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("json", "text")
_SPEAKS_OF_MACHINE = (OSError, RuntimeError, MemoryError, ImportError, AttributeError, TypeError, ArithmeticError)
_MESSAGE = re.compile(r"^([\w.]*(?:Error|Exception|Interrupt|Warning|Cancelled)): .*")

logger = logging.getLogger("steering.journal")


def keep_journal(form: str) -> None:
    """Send everything that is logged, or printed to standard error, there in this format; one of `FORMATS`."""
    stream = sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.stderr = _Printed(stream, form)


def note(event: str, **fields: Any) -> None:
    """Write an event with what belongs to it: numbers, names of models, hashes; never what a visitor wrote."""
    logger.info(event, extra={"fields": fields})


def error_in_words(error: BaseException) -> str:
    """An error's way through the program and its kind; its message only if that cannot hold a visitor's words."""
    frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    # An OSError's own type is asked for: UnicodeError and JSONDecodeError are ValueErrors, which quote what they read.
    message = f": {error}" if isinstance(error, _SPEAKS_OF_MACHINE) else ""
    return f"{frames}{type(error).__module__}.{type(error).__qualname__}{message}"


class _Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line: dict[str, Any] = {"time": _time(record.created), "level": record.levelname.lower()}
        if fields is not None:
            line |= {"event": record.getMessage(), **fields}
        elif record.exc_info and record.exc_info[1] is not None:
            line |= {"event": "error", "logger": record.name, "message": record.getMessage()}
            line["traceback"] = error_in_words(record.exc_info[1])
        else:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    """A line for people; the fields of an event follow its name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(f" {name}={value}" for name, value in fields.items())

    def formatException(self, ei: Any) -> str:
        return f"Traceback:\n{error_in_words(ei[1])}"


class _Printed(io.TextIOBase):
    """Standard error for whoever prints there: whole lines, those that quote an error cut after its kind."""

    def __init__(self, stream: TextIO, form: str) -> None:
        self._stream = stream
        self._as_json = form == "json"
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            line = _MESSAGE.sub(r"\1", line)
            if self._as_json and line.strip():
                fields = {"time": _time(datetime.now(UTC).timestamp()), "level": "warning", "event": "printed"}
                line = json.dumps(fields | {"message": line}, ensure_ascii=False)
            elif self._as_json:
                continue
            self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return not self._as_json and self._stream.isatty()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
