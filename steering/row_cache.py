"""Keys and values of rows that join and leave, in memory set aside beforehand: every row begins at its left edge."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

Strided = tuple[tuple[int, ...], tuple[int, ...], int]
"""Size, strides and offset of a part of a tensor, as ``as_strided`` takes them."""

_TOKEN_STEP = 128  # room grows by so many tokens at least


class RowCache:
    """Keys and values of the rows of a batch, each in a slot of its own and with a length of its own.

    What lies behind a row's length is never read with a weight other than zero, and is always a number: zero times what
    a row that overflowed has left there would not be zero.

    Attributes:
        layers: a tensor a layer, ``[slots, 2 * heads, room, head_dim]``: first the heads' keys, then their values.
        lengths: how many tokens each slot in use has read.
    """

    def __init__(self, n_layers: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
        self._heads, self._head_dim, self._dtype = heads, head_dim, dtype
        self.layers: list[Tensor] = [torch.zeros(0, 2 * heads, 0, head_dim, dtype=dtype)] * n_layers
        self.lengths: list[int] = []

    @property
    def room(self) -> int:
        """Tokens that a slot has room for."""
        return self.layers[0].shape[2]

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for so many slots and tokens in each; what is there stays. If memory runs out, nothing changes."""
        have, room = self.layers[0].shape[0], self.room
        if slots <= have and tokens <= room:
            return
        new_slots = have if slots <= have else max(slots, have + have // 2)
        self._move(new_slots, room if tokens <= room else _rounded(max(tokens, room + room // 4)))

    def read_parts(self, first: int, n: int, tokens: int) -> tuple[Strided, Strided]:
        """The first tokens' keys in ``n`` slots from ``first`` on, and their values, in each layer alike.

        ``[n, heads, tokens, head_dim]``.
        """
        head = self.room * self._head_dim
        size, strides = (n, self._heads, tokens, self._head_dim), (2 * self._heads * head, head, self._head_dim, 1)
        start = first * strides[0]
        return (size, strides, start), (size, strides, start + self._heads * head)

    def write_part(self, n: int, position: int) -> Strided:
        """Keys and values at one position in the first ``n`` slots, ``[n, 2 * heads, head_dim]``, in each layer."""
        head = self.room * self._head_dim
        return (n, 2 * self._heads, self._head_dim), (2 * self._heads * head, head, 1), position * self._head_dim

    def write_index(self, first: int, positions: Tensor) -> Tensor:
        """Keys and values at ``positions`` ``[rows, tokens]`` of the slots from ``first`` on, in each layer alike.

        Indices into the first dimension of a layer flattened to ``[-1, head_dim]``, in the order row, token, head.
        """
        rows = torch.arange(first, first + len(positions))[:, None, None]
        heads = rows * 2 * self._heads + torch.arange(2 * self._heads)
        return (heads * self.room + positions[:, :, None]).flatten()

    def leave(self, slots: Sequence[int]) -> list[int]:
        """Let slots go; the last ones move into the gaps. Says which slot each slot now in use was before."""
        going = set(slots)
        staying = [slot for slot in range(len(self.lengths)) if slot not in going]
        order = list(range(len(staying)))
        late = [slot for slot in staying if slot >= len(staying)]
        for gap, slot in zip(sorted(slot for slot in going if slot < len(staying)), late, strict=True):
            order[gap] = slot
        for place, slot in enumerate(order):
            if place != slot:
                for layer in self.layers:
                    layer[place].copy_(layer[slot])
        self.lengths = [self.lengths[slot] for slot in order]
        with suppress(RuntimeError, MemoryError):  # it is no harm if memory to shrink into cannot be had
            self._give_back()
        return order

    def clear_unused(self) -> None:
        """Forget what rows that left, or a pass that did not end, have written behind the slots in use."""
        for layer in self.layers:
            layer[len(self.lengths) :].zero_()

    def put(self, slot: int, keys: Sequence[Tensor], values: Sequence[Tensor], n_tokens: int) -> None:
        """Copy the first tokens of a row, ``[heads, tokens, head_dim]`` a layer, to the beginning of a slot."""
        for layer, own_keys, own_values in zip(self.layers, keys, values, strict=True):
            layer[slot, : self._heads, :n_tokens].copy_(own_keys[:, :n_tokens])
            layer[slot, self._heads :, :n_tokens].copy_(own_values[:, :n_tokens])

    def row(self, slot: int) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of a slot's keys and values, ``[heads, length, head_dim]`` a layer."""
        length = self.lengths[slot]
        keys = [layer[slot, : self._heads, :length].clone() for layer in self.layers]
        return keys, [layer[slot, self._heads :, :length].clone() for layer in self.layers]

    def taken(self, slots: Sequence[int]) -> RowCache:
        """A cache of its own with copies of these slots, in the order named."""
        copy = RowCache(len(self.layers), self._heads, self._head_dim, self._dtype)
        lengths = [self.lengths[slot] for slot in slots]
        if lengths:
            room = min(self.room, _rounded(max(lengths)))
            copy.layers = [layer[list(slots), :, :room] for layer in self.layers]
            copy.lengths = lengths
        return copy

    def _give_back(self) -> None:
        """Return memory once three quarters of it are not needed any more."""
        have, needed = self.layers[0].shape[0], len(self.lengths)
        longest = _rounded(max(self.lengths, default=0))
        if 4 * needed * longest <= have * self.room:
            self._move(needed, longest)

    def _move(self, slots: int, room: int) -> None:
        """Take new memory, with all of the old that fits: rows that are being read have no length yet."""
        slots_kept, room_kept = min(slots, self.layers[0].shape[0]), min(room, self.room)
        moved = []
        for layer in self.layers:
            new = layer.new_zeros(slots, 2 * self._heads, room, self._head_dim)
            new[:slots_kept, :, :room_kept].copy_(layer[:slots_kept, :, :room_kept])
            moved.append(new)
        self.layers = moved


def _rounded(tokens: int) -> int:
    return -(-tokens // _TOKEN_STEP) * _TOKEN_STEP
