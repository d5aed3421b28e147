"""Keys and values kept between the turns of conversations, so that a turn reads only what is new to its row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.decoders import KeptRow
from steering.thoughts import Thought
from steering.variants import Ablation, Addition, AffineAblation, Capping, Intervention, Variant

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

_Act = tuple[type[Intervention], "Direction", float | None, bool]


@dataclass(frozen=True)
class ReadingCondition:
    """What must be equal for keys and values to be those that reading again would give; directions by identity."""

    fingerprint: str
    acts: tuple[_Act, ...]


def reading_condition(model: ChatModel, variant: Variant) -> ReadingCondition:
    """Under what a row of this variant reads its prompt now; a dial counts at its value."""
    acting = Thought(model).acting(variant)
    return ReadingCondition(model.fingerprint, tuple(map(_act, acting.interventions)))


def _act(intervention: Intervention) -> _Act:
    match intervention:
        case Addition():
            return Addition, intervention.direction, intervention.strength, intervention.keep_norm
        case Capping():
            return Capping, intervention.direction, intervention.threshold, False
        case Ablation() | AffineAblation():
            return type(intervention), intervention.direction, None, False


def ready_for(row: KeptRow, prompt: list[int], post_instruction_tokens: list[int]) -> KeptRow:
    """The row as the next turn can go on from it, where the template takes something back.

    Some templates end a prompt with an empty thought that they leave out of the history. The reply was then read behind
    tokens that are gone, and of the piece before it only a part is still true: the part up to where they stood.
    """
    common = row.common(prompt)
    for n_same in range(1, len(post_instruction_tokens)):
        start = common - n_same
        if start >= 0 and row.tokens[start : start + len(post_instruction_tokens)] == post_instruction_tokens:
            return row.first(common) if common < len(prompt) else row
    return row


class KeptRows:
    """One row for each owner and column, up to a number of bytes; the least recently used go first.

    Any thread may call it.

    Args:
        limit_bytes: of all rows together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._rows: OrderedDict[tuple[Hashable, str], tuple[ReadingCondition, KeptRow]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._nbytes

    def take(self, owner: Hashable, name: str, condition: ReadingCondition) -> KeptRow | None:
        """What is kept of an owner's column, if it was read under the same condition; it stays kept."""
        with self._lock:
            found = self._rows.get((owner, name))
            if found is None or found[0] != condition:
                return None
            self._rows.move_to_end((owner, name))
            return found[1]

    def put(self, owner: Hashable, name: str, condition: ReadingCondition, row: KeptRow) -> None:
        """Keep a row in place of the column's last one; one that is larger than all there may be is not kept."""
        with self._lock:
            self._drop((owner, name))
            if row.nbytes > self.limit_bytes:
                return
            self._rows[owner, name] = condition, row
            self._nbytes += row.nbytes
            while self._nbytes > self.limit_bytes:
                self._drop(next(iter(self._rows)))

    def forget(self, owner: Hashable) -> None:
        """Give back all that is kept of an owner."""
        with self._lock:
            for key in [key for key in self._rows if key[0] == owner]:
                self._drop(key)

    def _drop(self, key: tuple[Hashable, str]) -> None:
        found = self._rows.pop(key, None)
        if found is not None:
            self._nbytes -= found[1].nbytes
