"""What programs pass to the public endpoints, looked at before use: nothing of it was checked on the way here."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui.chat import UNFORESEEN

logger = logging.getLogger(__name__)

LONGEST_SHOWN = 40  # characters of a wrong value in a sentence


@contextmanager
def errors_as_sentences(endpoint: str) -> Iterator[None]:
    """What goes wrong in an endpoint as the sentence its caller receives; the unforeseen is logged."""
    try:
        yield
    except SteeringError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        logger.exception("A call of /%s failed", endpoint)
        raise gr.Error(UNFORESEEN, print_exception=False) from error


def text(name: str, value: Any, longest: int) -> str:
    """A text of at most ``longest`` characters, without the space around it; it may be empty.

    Raises:
        SteeringError: if it is none, is longer, or holds a character that no tokenizer takes.
    """
    if not isinstance(value, str):
        raise SteeringError(f"{name} must be a text, not {shown(value)}.")
    if len(value) > longest:
        raise SteeringError(f"{name} has {len(value):,} characters; at most {longest:,} are taken. Shorten it.")
    if re.search("[\0\ud800-\udfff]", value):
        raise SteeringError(f"{name} has a character that is no text (NUL or half of a pair). Take it out.")
    return value.strip()


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number between ``low`` and ``high``.

    Raises:
        SteeringError: if it is none, NaN included, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SteeringError(f"{name} must be a number, not {shown(value)}.")
    if not low <= value <= high:
        raise SteeringError(f"{name} must lie between {low:g} and {high:g}, not at {shown(value)}.")
    return float(value)


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number between ``low`` and ``high``; 3.0 counts as one, for JSON does not tell the two apart.

    Raises:
        SteeringError: if it is none, or lies outside.
    """
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole:
        raise SteeringError(f"{name} must be a whole number, not {shown(value)}.")
    if not low <= value <= high:
        raise SteeringError(f"{name} must lie between {low} and {high}, not at {shown(value)}.")
    return int(value)


def yes_or_no(name: str, value: Any) -> bool:
    """True or false as they are.

    Raises:
        SteeringError: if it is neither.
    """
    if not isinstance(value, bool):
        raise SteeringError(f"{name} must be true or false, not {shown(value)}.")
    return value


def shown(value: Any) -> str:
    """The beginning of a value as JSON writes it."""
    written = json.dumps(value, ensure_ascii=False, default=repr)
    return written if len(written) <= LONGEST_SHOWN else written[:LONGEST_SHOWN] + "…"
