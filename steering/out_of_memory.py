"""What happens when memory runs out: fewer at a time, down to one, and a sentence if even one does not fit."""

from __future__ import annotations

import torch

from steering.errors import OutOfMemoryError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory; on a CPU it says so only in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def half(count: int, error: BaseException, what: str, advice: str) -> int:
    """How many to try after ``count`` at once failed with ``error``.

    Args:
        what: what was to be done, as “read even one example”.
        advice: what a person can do, a sentence.

    Raises:
        OutOfMemoryError: if it was one.
        BaseException: ``error``, if it is about something else.
    """
    if not is_out_of_memory(error):
        raise error
    if count == 1:
        raise OutOfMemoryError(f"There is not enough memory to {what}. {advice}") from error
    return count // 2
