"""The limits of a running playground: what each is for, its default, and where the person who runs it sets it.

One table, the fields of :class:`Limits`, makes the command line's options, the environment's variables and the table
of the README. A limit called ``some_name`` is set by ``--some-name`` or by ``STEERING_SOME_NAME``; where both are
given, the command line holds.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steering.errors import SteeringError

CATALOGUE = "the catalogue"  # what may be chosen when no models are named


def _limit(default: int, unit: str, words: str, least: int, most: int) -> Any:
    """A field that holds a whole number from ``least`` to ``most``; ``unit`` and ``words`` are for people."""
    return dataclasses.field(default=default, metadata={"unit": unit, "words": words, "least": least, "most": most})


@dataclass(frozen=True)
class Limits:
    """What a visitor, and all visitors together, may ask of one running playground.

    Raises:
        SteeringError: if a value is out of its range; the sentence names the option and the variable.
    """

    rows: int = _limit(24, "rows", "decoded together; a question takes one for each pane", 3, 512)
    waiting: int = _limit(64, "visitors", "in line at most; the next are told that it is full", 1, 10_000)
    visitors: int = _limit(32, "visitors", "served at once; the others wait in line", 1, 1_000)
    sessions: int = _limit(200, "sessions", "remembered; the one unused for longest is forgotten first", 1, 100_000)
    tokens: int = _limit(512, "tokens", "in the longest answer", 120, 32_768)
    characters: int = _limit(2_000, "characters", "in the longest message", 100, 100_000)
    turns: int = _limit(24, "turns", "kept of one conversation", 1, 1_000)
    seconds: int = _limit(180, "seconds", "a reply may take", 5, 3_600)
    cache_mb: int = _limit(600, "MB", "of memory for keys and values kept between turns", 0, 1_000_000)
    upload_mb: int = _limit(2, "MB", "in an uploaded file", 1, 1_000)
    upload_rows: int = _limit(2_000, "rows", "in an uploaded list", 10, 1_000_000)
    uploads_mb: int = _limit(500, "MB", "of uploads on the disk, which go after an hour", 1, 1_000_000)
    session_requests: int = _limit(30, "a minute", "questions of one session", 1, 100_000)
    session_burst: int = _limit(12, "at once", "questions of one session after a rest", 1, 100_000)
    session_events: int = _limit(1_200, "a minute", "events of any kind of one page, as a slider sends", 60, 1_000_000)
    address_requests: int = _limit(600, "a minute", "questions and uploads of one address", 1, 1_000_000)
    address_burst: int = _limit(120, "at once", "questions and uploads of one address after a rest", 1, 1_000_000)
    grace: int = _limit(10, "seconds", "running replies get when the program is asked to end", 0, 600)
    models: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={"unit": "", "words": "that may be chosen, with commas between; hub ids, folders or .gguf files"},
    )

    def __post_init__(self) -> None:
        for field in _numbers():
            value, least, most = getattr(self, field.name), field.metadata["least"], field.metadata["most"]
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise _out_of_range(field, value)
        if any(not model.strip() for model in self.models):
            raise SteeringError(f"{_named('models')} has an empty name in it: write the models with one comma between.")

    @classmethod
    def of(cls, options: Mapping[str, Any], environment: Mapping[str, str]) -> Limits:
        """The limits as the command line and the environment say.

        Args:
            options: by a limit's name, the text that was typed; a limit that was left out is None or missing.
            environment: this process's variables.

        Raises:
            SteeringError: if a text is no number, or a number out of its range.
        """
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = options.get(field.name)
            text = environment.get(variable(field.name)) if text is None else text
            if text is not None:
                given[field.name] = _read(field, text)
        return cls(**given)


def option(name: str) -> str:
    """The command-line option that sets a limit."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment's variable that sets a limit."""
    return f"STEERING_{name.upper()}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command line one option for each limit; what is typed stays text, for :meth:`Limits.of` to read."""
    group = parser.add_argument_group("limits", "Each has a variable of the environment too: STEERING_ROWS for --rows.")
    for field in dataclasses.fields(Limits):
        words = f"{field.metadata['unit']} {field.metadata['words']} (default: {_default(field)})".strip()
        group.add_argument(option(field.name), metavar="LIST" if field.name == "models" else "N", help=words)


def as_table() -> str:
    """All limits as the README shows them."""
    lines = ["| option | variable | default | what |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(Limits):
        words = f"{field.metadata['unit']} {field.metadata['words']}".strip()
        lines.append(f"| `{option(field.name)}` | `{variable(field.name)}` | {_default(field)} | {words} |")
    return "\n".join(lines)


def _numbers() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(Limits) if field.name != "models"]


def _default(field: dataclasses.Field[Any]) -> str:
    return CATALOGUE if field.name == "models" else f"{field.default:,}"


def _named(name: str) -> str:
    return f"{option(name)} ({variable(name)})"


def _read(field: dataclasses.Field[Any], text: str) -> Any:
    if field.name == "models":
        return tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    try:
        return int(text)
    except ValueError:
        raise _out_of_range(field, text) from None


def _out_of_range(field: dataclasses.Field[Any], value: object) -> SteeringError:
    least, most = field.metadata["least"], field.metadata["most"]
    return SteeringError(f"{_named(field.name)} must be a whole number from {least:,} to {most:,}, not “{value}”.")
