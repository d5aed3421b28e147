"""Linear layers that read the same input, as one product, by whichever copy of their weights is fastest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from steering.packed import PackedLinear, packed_linear

_SMALL_BATCH = 12  # rows; up to here a copy of the weights is worth its memory


class JoinedLinear:
    """The answers of several linear layers to the same rows, side by side.

    Few rows are answered by the packed weights where every layer has some; else the layers' own weights answer, which
    are read where they are, or a copy of them.

    Args:
        layers: linear layers with inputs of the same width.
        reordered: keep a copy of bfloat16 weights in the order in which oneDNN reads them fastest (for few rows in 0.7
            of the time), unless packed weights answer small batches anyway. It does not follow changes of the weights.
    """

    def __init__(self, layers: Sequence[nn.Linear], *, reordered: bool) -> None:
        self._weights = [layer.weight for layer in layers]
        self._biases = [layer.bias for layer in layers]
        self._bias: Tensor | None = None
        if any(layer.bias is not None for layer in layers):
            self._bias = torch.cat(
                [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
            )
        self._packed_rows = 0
        self._joined: Tensor | None = None
        if all(isinstance(layer, PackedLinear) for layer in layers):
            self._join_packed([cast(PackedLinear, layer) for layer in layers])
        if reordered and self._packed_rows < _SMALL_BATCH:
            joint = torch.cat([weight.detach() for weight in self._weights])
            self._joined = cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(joint, None))

    def __call__(self, rows: Tensor) -> Tensor:
        """Map ``[n, in]``, contiguous and of the weights' number type, to ``[n, the sum of all widths]``."""
        if len(rows) <= self._packed_rows:
            output = packed_linear(rows, self._kernel_weight, self._scales_and_zeros)
            return output if self._bias is None else output.add_(self._bias)
        if self._joined is not None:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(rows, self._joined, self._bias, "none", [], ""))
        if len(self._weights) == 1:
            return linear(rows, self._weights[0], self._biases[0])
        return torch.cat([linear(rows, w, b) for w, b in zip(self._weights, self._biases, strict=True)], dim=1)

    def _join_packed(self, layers: Sequence[PackedLinear]) -> None:
        """Take the packed weights of all layers as one matrix, if the kernel's layout lets matrices be strung together.

        The layers' own copies become parts of the joint one, so that it takes no memory of its own.
        """
        self._kernel_weight, self._scales_and_zeros = layers[0].kernel_weight, layers[0].scales_and_zeros
        if len(layers) > 1:
            self._kernel_weight = torch.cat([layer.kernel_weight for layer in layers])
            self._scales_and_zeros = torch.cat([layer.scales_and_zeros for layer in layers], dim=1)
            width = layers[0].in_features
            row = torch.randn(1, width, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
            alone = [packed_linear(row, layer.kernel_weight, layer.scales_and_zeros) for layer in layers]
            if not torch.equal(
                packed_linear(row, self._kernel_weight, self._scales_and_zeros), torch.cat(alone, dim=1)
            ):
                return
            start = 0
            for layer in layers:
                layer.kernel_weight = self._kernel_weight[start : start + layer.out_features]
                start += layer.out_features
        self._packed_rows = min(layer.max_rows for layer in layers)
