"""How many processes were started together with this one, as ``torchrun`` says in the environment; without torch."""

from __future__ import annotations

import os


def started_together() -> int:
    """How many processes ``torchrun`` started this one with, itself included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def processes_here() -> int:
    """How many of them run on this machine and share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started_together() > 1 else 1
