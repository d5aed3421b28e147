"""Keys and values of the rows of a batch: rows are put together, taken out and copied, between any two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache

LayerKeyValues = tuple[Tensor, Tensor]


class KeyValues:
    """Keys and values of what the rows of a batch have read, padded on the left to the length of the longest row.

    Every layer keeps every token, also one that attends to a window only: what has left the window of a long row has
    not left that of a short one beside it. Transformers masks by the window itself.

    Attributes:
        cache: as transformers' modules take it and add to it; ``[rows, heads, width, head_dim]`` a layer.
        lengths: how many tokens each row has read.
    """

    def __init__(self, layers: Sequence[LayerKeyValues] = (), lengths: Sequence[int] = ()) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self.cache: DynamicCache = DynamicCache()
        self.lengths = list(lengths)
        for keys, values in layers:
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            self.cache.layers.append(layer)

    def like(self, layers: Sequence[LayerKeyValues] = (), lengths: Sequence[int] = ()) -> KeyValues:
        """Others of the same kind; without anything, for rows that have read nothing."""
        return KeyValues(layers, lengths)

    @property
    def width(self) -> int:
        """Tokens of the longest row, which every row is padded to."""
        return self.cache.get_seq_length()

    @property
    def layers(self) -> list[LayerKeyValues]:
        """Keys and values of each layer, ``[rows, heads, width, head_dim]``."""
        return [(layer.keys, layer.values) for layer in self.cache.layers]

    def crop(self, width: int) -> None:
        """Forget what a pass that did not end has added behind ``width``, in whichever layers it reached."""
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[:, :, :width], layer.values[:, :, :width]

    def row(self, row: int) -> list[LayerKeyValues]:
        """A copy of one row without its padding, ``[heads, length, head_dim]`` a layer."""
        padding = self.width - self.lengths[row]
        return [(keys[row, :, padding:].clone(), values[row, :, padding:].clone()) for keys, values in self.layers]

    def selected(self, rows: Sequence[int]) -> KeyValues:
        """A copy of some rows in the order named, without the padding that none of them needs."""
        if not rows:
            return self.like()
        lengths = [self.lengths[row] for row in rows]
        padding = self.width - max(lengths)

        def of(tensor: Tensor) -> Tensor:
            return tensor[:, :, padding:].index_select(0, torch.tensor(rows, device=tensor.device))

        return self.like([(of(keys), of(values)) for keys, values in self.layers], lengths)

    def joined_with(self, others: Sequence[KeyValues]) -> KeyValues:
        """These rows and then those of each of the others; a copy, unless all rows are in one of them."""
        parts = [part for part in (self, *others) if part.lengths]
        if not parts:
            return self
        if len(parts) == 1:
            return parts[0]
        by_layer = zip(*(part.layers for part in parts), strict=True)
        layers = [(_padded([keys for keys, _ in same]), _padded([values for _, values in same])) for same in by_layer]
        return self.like(layers, [length for part in parts for length in part.lengths])


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors ``[rows, heads, width, head_dim]`` of any width as one, each padded on the left with zeros."""
    first = tensors[0]
    rows, width = sum(len(tensor) for tensor in tensors), max(tensor.shape[2] for tensor in tensors)
    # Zeros, for what is masked still takes part, times 0; of a number left in memory that might make NaN.
    joint = first.new_zeros(rows, first.shape[1], width, first.shape[3])
    start = 0
    for tensor in tensors:
        joint[start : start + len(tensor), :, width - tensor.shape[2] :] = tensor
        start += len(tensor)
    return joint
