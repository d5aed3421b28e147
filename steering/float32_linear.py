"""Matrix products in float32 by whichever of torch's two CPU libraries is faster here.

torch multiplies float32 matrices on a CPU with MKL; on some processors (AMD's, measured: twice) its other library,
oneDNN, is faster at exactly the same sums up to rounding. Which one is measured once on a machine and remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from steering.machine import onednn_float32_is_faster


class OneDnnLinear(nn.Linear):
    """A linear layer whose float32 product oneDNN computes; in all else what it was before."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], ""))


def faster_linears(model: nn.Module) -> list[nn.Linear]:
    """The layers of ``model`` that :func:`as_onednn` would speed up here: none where MKL is as fast, or on a GPU."""
    plain = [layer for layer in model.modules() if type(layer) is nn.Linear]
    on_cpu = [layer for layer in plain if layer.weight.is_cpu and layer.weight.dtype == torch.float32]
    return on_cpu if on_cpu and onednn_float32_is_faster() else []


@contextmanager
def as_onednn(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Within this context ``layers`` multiply by oneDNN. The caller holds the model's lock."""
    for layer in layers:
        cast(nn.Module, layer).__class__ = OneDnnLinear
    try:
        yield
    finally:
        for layer in layers:
            cast(nn.Module, layer).__class__ = nn.Linear
