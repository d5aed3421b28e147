"""Recorded runs: what this program really wrote for an idea's own question, shown until the visitor asks.

``python -m steering record`` makes them with the page's own code and the bundled model; nothing in them is edited.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

from steering.contrast import PRESETS, preset_names
from steering.ui.columns import SETS
from steering.ui.conversations import Turn

FOLDER = PRESETS / "recorded"
COMMAND = "python -m steering record"
# The first screen and what is one press away use harmless ideas; refusal is asked live or not at all.
NOT_RECORDED = ("refusal", "refusing")
COLUMNS = (*SETS["random"], *(column for column in SETS["prompted"] if column not in SETS["random"]))
KEPT = ("question", "columns", "replies", "log", "settings")


def recorded_ideas() -> list[str]:
    """The presets that have a recorded run or can have one."""
    return [name for name in preset_names() if name not in NOT_RECORDED]


@cache
def recorded_turn(idea: str) -> Turn | None:
    """The recorded run of a preset, or None if there is none."""
    try:
        content = json.loads((FOLDER / f"{idea}.json").read_text(encoding="utf-8"))
        turn = Turn(**{name: content[name] for name in KEPT})
        likeliest = {
            (column, number): [(text, probability) for text, probability in words]
            for column, number, words in content["likeliest"]
        }
    except (OSError, ValueError, TypeError, KeyError):  # absent or damaged: the page then begins empty
        return None
    return replace(turn, columns=tuple(turn.columns), likeliest=likeliest)
