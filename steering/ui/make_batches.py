"""How the texts of a set are split and read, for computing a direction and for finding the best alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steering.contrast import ContrastSet

SEED = 0  # of the split into texts to learn from and texts to check with
# A batch is what must end before a cancel is seen; about a second of work on a slow machine.
CHARACTERS_A_BATCH, EXAMPLES_A_BATCH = 3_000, 16


def batch_size(data: ContrastSet) -> int:
    """How many of the set's longest texts make one batch."""
    longest = max(len(example.canonical) for example in (*data.positive, *data.negative))
    return max(1, min(EXAMPLES_A_BATCH, CHARACTERS_A_BATCH // longest))
