"""Matrix products in float32 by whichever of torch's two CPU libraries is faster here.

torch multiplies float32 matrices on a CPU with MKL; on some processors (AMD's, measured) its other library, oneDNN, is
faster at exactly the same sums up to rounding, most of all with weights in an order of its own. Which library is faster
is measured once on a machine and remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from steering.machine import free_memory, onednn_float32_is_faster

# The weights in oneDNN's order are a second copy; they may take so much of the memory that is free.
PART_OF_FREE_MEMORY = 0.25


class OneDnnLinear(nn.Linear):
    """A linear layer whose float32 product oneDNN computes; in all else what it was before."""

    onednn_weight: Tensor  # the weight, perhaps in oneDNN's own order

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, self.onednn_weight, self.bias, "none", [], ""))


class FastLinears:
    """The linear layers of a model whose products oneDNN computes faster: none where MKL is as fast, or on a GPU.

    Args:
        model: its weights must not change while this is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        # A layer whose forward was replaced is a part of one that several processes hold.
        plain = [one for one in model.modules() if type(one) is nn.Linear and "forward" not in vars(one)]
        on_cpu = [layer for layer in plain if layer.weight.is_cpu and layer.weight.dtype == torch.float32]
        layers = on_cpu if on_cpu and onednn_float32_is_faster() else []
        size = sum(layer.weight.nbytes for layer in layers)
        reorder = size < PART_OF_FREE_MEMORY * free_memory(torch.device("cpu"))
        with torch.inference_mode():
            self._layers = [(layer, _reordered(layer.weight) if reorder else layer.weight) for layer in layers]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this context the layers multiply by oneDNN. The caller holds the model's lock."""
        for layer, weight in self._layers:
            cast(nn.Module, layer).__class__ = OneDnnLinear
            layer.onednn_weight = weight
        try:
            yield
        finally:
            for layer, _ in self._layers:
                del layer.onednn_weight
                cast(nn.Module, layer).__class__ = nn.Linear


def _reordered(weight: Tensor) -> Tensor:
    """``weight`` in the order in which oneDNN reads it fastest, for any number of rows."""
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, None))
