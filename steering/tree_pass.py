"""Forward passes over a tree of prompts under many interventions, each from the first layer it can change on.

The model itself runs the tree once, unsteered. What enters every block is kept, and so is what the model hands a block
beside the stream (mask, rotary angles), so that a later pass can begin at any block: an addition at layer l leaves all
before it as it was. Only the logits that are read are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from steering.architectures import final_logits
from steering.errors import ModelError
from steering.float32_linear import FastLinears
from steering.interventions import Steering, Variant
from steering.progress import Tick, no_tick
from steering.prompt_trees import SparseMask
from steering.tree_masks import attention_masks

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.prompt_trees import PromptTree

# How far our last step may be from the model's own, as a part of the largest logit, before it counts as another one.
HEAD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUGH_HEAD_TOLERANCE = 3e-2


class TreePass:
    """One tree of prompts, ready to be run under interventions.

    Args:
        model: the model; its weights must not change meanwhile.
        tree: the prompts.
        read: the nodes whose next-token logits are wanted, int64 ``[n_read]``.
        linears: the model's.
        from_any_layer: whether passes will begin at other layers than the first; takes memory for what enters each.
        after: a pass over other prompts of the same model. With it this tree is not run unsteered, only laid out: its
            own logits are not to be had then, and passes begin at the first layer.
        tick: as for :meth:`logits`, for the first, unsteered pass.

    Raises:
        ModelError: if the model ends in a step that is not known here, so that a pass could not be finished by hand.
    """

    def __init__(
        self,
        model: ChatModel,
        tree: PromptTree,
        read: Tensor,
        linears: FastLinears,
        *,
        from_any_layer: bool = False,
        after: TreePass | None = None,
        tick: Tick = no_tick,
    ) -> None:
        self.model = model
        self._from_any_layer = from_any_layer
        self._read = read
        self._linears = linears
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._residuals: list[Tensor] = []
        self._gives_tuples: bool = after is not None and after._gives_tuples
        laid_out = after is not None and not any("forward" in vars(block) for block in model.architecture.blocks)
        logits = self._first_pass(tree, tick, laid_out)
        self._unsteered: Tensor | None = None if laid_out else logits

    def take_unsteered(self) -> Tensor:
        """The model's own logits at the nodes read, float32 ``[n_read, vocabulary]``, on its device.

        They are handed over, once: of long responses they are large, and mostly a part is worth keeping.
        """
        assert self._unsteered is not None, "taken before"
        taken, self._unsteered = self._unsteered, None
        return taken

    def logits(self, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        """Next-token logits at the nodes read, one row a variant: float32 ``[rows, n_read, vocabulary]``.

        Args:
            first_layer: the lowest layer any of the variants changes; layers below are not run. An ablation changes 0.
            tick: called before every block with the part of them that is done; what it raises ends the pass.
        """
        model = self.model
        steering = Steering(model, variants)
        hidden = self._residuals[first_layer].expand(len(variants), -1, -1)
        blocks = list(zip(model.architecture.blocks, self._calls, strict=True))[first_layer:]
        with torch.inference_mode(), steering.applied(), self._linears.in_use():
            for number, (block, (args, kwargs)) in enumerate(blocks):
                tick(number / len(blocks))
                output = block(hidden, *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
            return self._finish(hidden[:, self._read.to(hidden.device)])

    def _finish(self, hidden: Tensor) -> Tensor:
        return final_logits(self.model.model, self.model.architecture.final_norm(hidden)).float()

    def _first_pass(self, tree: PromptTree, tick: Tick, laid_out: bool) -> Tensor:
        """Keep what the blocks are given. ``laid_out``: they hand on the stream as it is, and compute nothing."""
        model = self.model
        last: list[Tensor] = []
        sparse = cache(SparseMask.over)  # one for all blocks that are given the same mask

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tick(len(self._calls) / model.n_layers)
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            if isinstance(mask := rest.get("attention_mask"), Tensor):
                rest["attention_mask"] = sparse(mask)
            if self._from_any_layer or not self._residuals:
                self._residuals.append(args[0] if args else kwargs["hidden_states"])
            self._calls.append((args[1:], rest))

        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._gives_tuples = isinstance(output, tuple)

        def hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states,) if self._gives_tuples else hidden_states

        def keep_last(module: nn.Module, args: tuple[Any, ...]) -> None:
            last.append(args[0][:, self._read.to(args[0].device)])

        with model.lock, ExitStack() as stack, torch.inference_mode():
            for block in model.architecture.blocks:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
                if laid_out:
                    cast(Any, block).forward = hand_on
                    stack.callback(delattr, block, "forward")
                else:
                    stack.callback(block.register_forward_hook(note).remove)
            stack.callback(model.architecture.final_norm.register_forward_pre_hook(keep_last).remove)
            with self._linears.in_use():
                output = model.model(
                    input_ids=tree.ids[None].to(model.device),
                    attention_mask=attention_masks(model, tree),
                    position_ids=tree.depths[None].to(model.device),
                    use_cache=False,
                    logits_to_keep=self._read.to(model.device),
                )
                logits: Tensor = output.logits[0].float()
        with torch.inference_mode():
            ours = self._finish(last[0])[0]
        tolerance = HEAD_TOLERANCE.get(model.dtype, ROUGH_HEAD_TOLERANCE)
        if not float((ours - logits).abs().max()) <= tolerance * float(logits.abs().max()):
            raise ModelError(
                f"{model.label} ends in a step that is not known here, so its directions cannot be scored. Choose "
                "another model."
            )
        return logits
