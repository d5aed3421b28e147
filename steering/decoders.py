"""What the engine asks of whatever runs the rows of a batch, and what is kept of a row between two turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.variants import Variant


@dataclass(frozen=True, eq=False)
class KeptRow:
    """The keys and values of one row, ready to be gone on from.

    Attributes:
        tokens: the token ids that were read.
        keys, values: one tensor a layer, ``[heads, len(tokens), head_dim]``, of their own memory.
        pieces: where each piece that was read at once begins, rising, the first 0; the tokens of a reply are pieces of
            one. A prompt read again in the same pieces gives the same numbers, bit for bit, in any number type.
    """

    tokens: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    pieces: list[int]

    @property
    def nbytes(self) -> int:
        """Bytes of memory it takes."""
        return sum(t.element_size() * t.numel() for t in (*self.keys, *self.values))

    def reusable(self, prompt: Sequence[int]) -> int:
        """How many of its tokens a row with this prompt can go on from, at least one of the prompt left to read.

        Always up to a place where a piece ended, so that a question asked again is read in the pieces of the first
        time, and a seed repeats its replies in any number type.
        """
        most = min(self.common(prompt), len(prompt) - 1)
        return max((end for end in (*self.pieces, len(self.tokens)) if end <= most), default=0)

    def common(self, prompt: Sequence[int]) -> int:
        """How many of its tokens the prompt begins with."""
        pairs = zip(self.tokens, prompt, strict=False)
        shorter = min(len(self.tokens), len(prompt))
        return next((place for place, (read, asked) in enumerate(pairs) if read != asked), shorter)

    def first(self, n_tokens: int) -> KeptRow:
        """The keys and values of its first tokens, of their own memory."""
        return KeptRow(
            self.tokens[:n_tokens],
            [keys[:, :n_tokens].clone() for keys in self.keys],
            [values[:, :n_tokens].clone() for values in self.values],
            [start for start in self.pieces if start < n_tokens],
        )


@dataclass(frozen=True, eq=False)
class NewRow:
    """A row that joins a batch: what it reads and what is done to it.

    Attributes:
        prompt: token ids, at least one.
        variant: its interventions.
        probe: the direction whose cosine is measured in it, or None.
        kept: keys and values of a part of the prompt at its beginning, read under the same interventions; how much of
            them is used, :meth:`KeptRow.reusable` says.
    """

    prompt: list[int]
    variant: Variant
    probe: Direction | None = None
    kept: KeptRow | None = field(default=None, repr=False)


class Decoder(Protocol):
    """Rows that are decoded together on one model; they join and leave between steps.

    The order of rows is that in which they joined; those that leave close the gap. A method that raises has changed
    nothing: the rows that were there can go on, together or taken apart.
    """

    @property
    def n_rows(self) -> int:
        """How many rows there are."""

    def join(self, rows: Sequence[NewRow]) -> Tensor:
        """Read the prompts of new rows, which come last; logits of their next tokens, ``[len(rows), vocabulary]``."""

    def step(self, tokens: Tensor) -> Tensor:
        """Take one more token in every row, ``[n_rows]``; logits of the next, ``[n_rows, vocabulary]``."""

    def leave(self, rows: Sequence[int]) -> None:
        """Let rows go, with their keys and values."""

    def change(self, row: int, variant: Variant) -> None:
        """Do something else to a row from the next token on; what it has read stays as it was read."""

    def kept(self, row: int) -> KeptRow:
        """A copy of the keys and values of a row."""

    def taken(self, rows: Sequence[int]) -> Decoder:
        """A decoder of its own with copies of these rows; this one keeps them too."""

    def cosines(self) -> Tensor:
        """Cosines with the probes at the newest tokens of the last :meth:`join` or :meth:`step`.

        float32 ``[rows read in it, n_layers]`` on the CPU; zero in rows without a probe.
        """
