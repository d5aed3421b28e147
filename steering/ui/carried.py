"""What a visitor takes home: the link to what is set, the conversation as Markdown, and the whole run as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from steering.ui.columns import SETS
from steering.ui.conversations import Turn
from steering.ui.scope import parse

if TYPE_CHECKING:
    from steering.ui.columns import Heads

LONGEST_LINKED = 500  # characters of a question in a link; browsers and servers bound addresses


@dataclass(frozen=True)
class Linked:
    """What a link sets: nothing private, only what anyone could set by hand. Absent parts are None."""

    idea: str | None = None
    strength: float | None = None
    seed: int | None = None
    model: str | None = None
    question: str | None = None
    beside: str | None = None
    other: str | None = None
    other_strength: float | None = None
    temperature: float | None = None


_PARTS = {
    "idea": ("idea", str),
    "strength": ("c", float),
    "seed": ("seed", int),
    "model": ("model", str),
    "question": ("q", str),
    "beside": ("beside", str),
    "other": ("other", str),
    "other_strength": ("oc", float),
    "temperature": ("t", float),
}

LINK_KEYS = tuple(letter for letter, _ in _PARTS.values())  # of an address, any of which makes it a link


def link_query(linked: Linked) -> str:
    """The part of the address behind the question mark."""
    given = {
        letter: f"{value:g}" if kind is float else str(value)[:LONGEST_LINKED]
        for name, (letter, kind) in _PARTS.items()
        if (value := getattr(linked, name)) is not None
    }
    return urlencode(given)


def read_link(query: Mapping[str, str]) -> Linked:
    """What a page's address asks for; parts that are no such thing are left out, as if they were not there."""
    found: dict[str, Any] = {}
    for name, (letter, kind) in _PARTS.items():
        text = query.get(letter)
        if not isinstance(text, str) or not text or len(text) > LONGEST_LINKED:
            continue
        try:
            value = kind(text)
        except ValueError:
            continue
        if (kind is float and not abs(value) <= 100) or (kind is int and not 0 <= value < 2**31):
            continue
        found[name] = value
    if found.get("beside") not in SETS:
        found.pop("beside", None)
    return Linked(**found)


def link_address() -> str:
    """Where a link leads: on a Space to its page, whose frame the app cannot see; "" elsewhere, for where one is."""
    space = os.environ.get("SPACE_ID")
    return f"https://huggingface.co/spaces/{space}" if space else ""


def as_markdown(turns: Sequence[Turn], columns: Sequence[str], heads: Heads, model: str) -> str:
    """The turns in view as Markdown: the question, then each answer under its column's name."""
    parts = []
    for turn in turns:
        parts.append(f"**{_one_line(turn.question)}**\n")
        for column, name in zip(columns, heads.names, strict=True):
            if column in turn.columns:
                reply = turn.replies[turn.columns.index(column)].strip() or "(nothing)"
                quoted = "\n".join(f"> {line}".rstrip() for line in reply.splitlines())
                parts.append(f"*{name}*\n\n{quoted}\n")
    strength = turns[-1].settings.get("coefficient") if turns else None
    told = f", strength {strength:g}" if strength is not None else ""
    parts.append(f"{model}{told}. Made with Steering playground.\n")
    return "\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("*", "\\*")


def as_json(turns: Sequence[Turn], idea: str, model: Mapping[str, str]) -> str:
    """All turns with their settings, tokens, cosines and likeliest next tokens, for programs."""
    return json.dumps(
        {"made_with": "Steering playground", "model": dict(model), "idea": idea, "turns": [_told(t) for t in turns]},
        ensure_ascii=False,
        indent=1,
    )


def _told(turn: Turn) -> dict[str, Any]:
    records = parse(turn.log)
    run: dict[str, Any] = next((content for kind, content in reversed(records) if kind == "H"), {})
    answers = []
    for place, column in enumerate(turn.columns):
        tokens = [
            {
                "text": text,
                "cosines": [round(float(c), 3) for c in cosines],
                "likeliest_next": [[word, round(p, 4)] for word, p in turn.likeliest.get((place, number), [])],
            }
            for number, column_number, text, cosines in (content for kind, content in records if kind == "T")
            if column_number == place
        ]
        thought = turn.thoughts[place] if turn.thoughts else ""
        answers.append({"column": column, "text": turn.replies[place], "thought": thought, "tokens": tokens})
    return {
        "question": turn.question,
        "layers": run.get("layers"),
        "layer": run.get("layer"),
        **({"unit": run["unit"]} if "unit" in run else {}),  # what stands under "tokens", where those may be none
        "settings": turn.settings,
        "strength_moved": [{"token": n, "coefficient": c} for kind, (n, c) in _moves(records)],
        "answers": answers,
    }


def _moves(records: Sequence[tuple[str, Any]]) -> list[tuple[str, tuple[int, float]]]:
    return [(kind, content) for kind, content in records if kind == "C"]
