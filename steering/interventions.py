"""Interventions on the residual stream, and the one place that touches a model's forward pass.

Several variants run as the rows of one batch; each row has its own interventions. Hooks are on the model only inside
:meth:`Steering.applied`, which lasts one forward pass and holds the model's lock, so whatever ends it, the model is
untouched, and two conversations can never see each other's hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from steering.directions import Direction
from steering.stream_edits import StreamEdits
from steering.variants import Ablation, Addition, AffineAblation, Capping, Dial, Intervention, Variant

if TYPE_CHECKING:
    from steering.models import ChatModel

__all__ = ["Ablation", "Addition", "AffineAblation", "Capping", "Dial", "Intervention", "Steering", "Variant"]


class Steering:
    """The interventions of the rows of one batch, ready for a model, and what was seen of the stream in the last pass.

    Args:
        variants: one per row.
        probe: the direction whose cosine is measured: one for every row, or a list with one, or None, for each; by
            default the first that any variant uses.

    Raises:
        DirectionError: if a direction does not fit the model.
    """

    def __init__(
        self,
        model: ChatModel,
        variants: Sequence[Variant],
        probe: Direction | Sequence[Direction | None] | None = None,
    ) -> None:
        self.model = model
        directions = [direction for variant in variants for direction in variant.directions]
        if probe is None or isinstance(probe, Direction):
            probe = [probe or (directions[0] if directions else None)] * len(variants)
        for direction in [*directions, *(one for one in probe if one is not None)]:
            direction.require_fit(model)
        self._edits = StreamEdits(model.n_layers, variants, probe)
        self._newest: list[Tensor] = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context one forward pass of the model carries the interventions."""
        with self.model.lock, ExitStack() as stack:
            self._newest = []
            self._edits.refresh()
            for layer, block in enumerate(self.model.architecture.blocks):
                hook = block.register_forward_pre_hook(self._on_entry(layer), with_kwargs=True)
                stack.callback(hook.remove)
            if self._edits.ablates:
                for writes in self.model.architecture.writes:
                    for write in writes:
                        stack.callback(write.register_forward_hook(self._on_write).remove)
            yield

    def cosines(self) -> Tensor:
        """Cosine of each layer's newest token with the probe in the last pass, float32 ``[rows, n_layers]`` on the CPU.

        Layer l is what block l reads, after the interventions at its entry; see :meth:`StreamEdits.cosines`.
        """
        return self._edits.cosines(self._newest)

    def _on_entry(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = self._edits.entered(layer, args[0] if args else kwargs["hidden_states"])
            self._newest.append(hidden[:, -1].clone())  # a view would keep the whole prompt of every layer
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return hook

    def _on_write(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention also returns its weights, a mixture of experts its routing
            return (self._edits.written(output[0]), *output[1:])
        return self._edits.written(output)
