"""Three answers side by side in a terminal, written at the same time."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from steering.generation import stream_side_by_side
from steering.interventions import Variant

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

GAP = 3  # spaces between two columns
NARROWEST = 20  # characters a column needs; a narrower terminal gets the answers one below the other
PENALTY = 1.15  # of repetitions, as on the page


class Columns:
    """Answers in columns; on a terminal redrawn as they grow, into a file or a pipe written once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._height = 0

    def show(self, names: list[str], texts: list[str], *, finished: bool) -> None:
        """Draw the answers so far."""
        if not (self._live or finished):
            return
        lines = columns(names, texts, shutil.get_terminal_size((100, 24)))
        if self._live and not finished:
            lines = lines[-(shutil.get_terminal_size().lines - 2) :]  # what has left the screen cannot be redrawn
        up = f"\x1b[{self._height}F\x1b[J" if self._live and self._height else ""
        self._out.write(up + "\n".join(lines) + "\n")
        self._out.flush()
        self._height = 0 if finished else len(lines)


def columns(names: list[str], texts: list[str], size: Any) -> list[str]:
    """The lines of ``texts`` side by side under their names, or one below the other where there is no room."""
    width = (size.columns - GAP * (len(texts) - 1)) // len(texts)
    if width < NARROWEST:
        return [line for name, text in zip(names, texts, strict=True) for line in (f"[{name}]", *text.splitlines(), "")]
    wrapped = [[name, "─" * width, *_wrapped(text, width)] for name, text in zip(names, texts, strict=True)]
    height = max(map(len, wrapped))
    rows = zip(*([*lines, *[""] * (height - len(lines))] for lines in wrapped), strict=True)
    return [(" " * GAP).join(f"{cell:<{width}}" for cell in row).rstrip() for row in rows]


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() for part in (textwrap.wrap(line, width) or [""])]


def chat_once(
    model: ChatModel,
    direction: Direction,
    coefficient: float,
    histories: list[list[dict[str, str]]],
    question: str,
    shown: Columns | None,
    **settings: Any,
) -> list[str]:
    """Ask once; the three answers. ``histories``, one a variant, grow by the question and each one's answer."""
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, coefficient)]
    names = ["as it is", f"{direction.name} taken out", f"{direction.name} turned up ({coefficient:g})"]
    for history in histories:
        history.append({"role": "user", "content": question})
    texts = ["", "", ""]
    try:
        for step in stream_side_by_side(model, histories, variants, repetition_penalty=PENALTY, **settings):
            texts = step.texts
            if shown:
                shown.show(names, texts, finished=False)
    except BaseException:
        for history in histories:
            history.pop()
        raise
    if shown:
        shown.show(names, texts, finished=True)
    for history, text in zip(histories, texts, strict=True):
        history.append({"role": "assistant", "content": text})
    return texts
