"""Interventions on the residual stream, and the one place that touches a model's forward pass.

Several variants run as the rows of one batch; each row has its own interventions. Hooks are on the model only inside
:meth:`Steering.applied`, which lasts one forward pass and holds the model's lock, so whatever ends it, the model is
untouched, and two conversations can never see each other's hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.directions import Direction
from steering.row_interventions import Added, ablated_basis, additions, affine, cappings
from steering.variants import Ablation, Addition, AffineAblation, Capping, Dial, Intervention, Variant

if TYPE_CHECKING:
    from steering.models import ChatModel

__all__ = ["Ablation", "Addition", "AffineAblation", "Capping", "Dial", "Intervention", "Steering", "Variant"]


class Steering:
    """The interventions of the rows of one batch, ready for a model, and what was seen of the stream in the last pass.

    Args:
        variants: one per row.
        probe: the direction whose cosine is measured in every row; by default the first that any variant uses.

    Raises:
        DirectionError: if a direction does not fit the model.
    """

    def __init__(self, model: ChatModel, variants: Sequence[Variant], probe: Direction | None = None) -> None:
        self.model = model
        directions = [direction for variant in variants for direction in variant.directions]
        for direction in directions if probe is None else [*directions, probe]:
            direction.require_fit(model)
        probe = probe or (directions[0] if directions else None)
        self._probe = None if probe is None else probe.ablation_basis
        self._variants = tuple(variants)
        self._additions: dict[int, Added] = {}
        self._strengths: list[float] | None = None
        self._cappings = cappings(variants, model.n_layers)
        self._affine = affine(variants)
        self._basis = ablated_basis(variants)
        self._placed: dict[tuple[Any, ...], Tensor] = {}
        self._newest: list[Tensor] = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context one forward pass of the model carries the interventions."""
        with self.model.lock, ExitStack() as stack:
            self._newest = []
            self._read_strengths()
            for layer, block in enumerate(self.model.architecture.blocks):
                hook = block.register_forward_pre_hook(self._on_entry(layer), with_kwargs=True)
                stack.callback(hook.remove)
            if self._basis is not None:
                for writes in self.model.architecture.writes:
                    for write in writes:
                        stack.callback(write.register_forward_hook(self._on_write).remove)
            yield

    def cosines(self) -> Tensor:
        """Cosine of each layer's newest token with the probe in the last pass, float32 ``[rows, n_layers]`` on the CPU.

        cos(x^(l), r̂) for one direction; for a basis of k the length of the part inside it over the whole, in [0, 1].
        Layer l is what block l reads, after the interventions at its entry. All zero where there is no direction.
        """
        device = self._newest[0].device
        newest = torch.stack([x.to(device) for x in self._newest]).float()  # [n_layers, rows, d_model]
        if self._probe is None:
            return torch.zeros(newest.shape[1], newest.shape[0])
        inside = newest @ self._probe.to(device).T
        length = newest.norm(dim=-1).clamp_min(1e-12)
        part = inside[..., 0] if inside.shape[-1] == 1 else inside.norm(dim=-1)
        return (part / length).T.cpu()

    def _read_strengths(self) -> None:
        """Make anew what is added, if a coefficient has changed since the last pass."""
        strengths = [i.strength for v in self._variants for i in v.interventions if isinstance(i, Addition)]
        if strengths != self._strengths:
            self._strengths = strengths
            stale = {id(tensor) for added in self._additions.values() for tensor in (added.delta, added.keeps_norm)}
            self._placed = {key: placed for key, placed in self._placed.items() if key[0] not in stale}
            self._additions = additions(self._variants)

    def _on_entry(self, layer: int) -> Any:
        added = self._additions.get(layer)
        caps = [(capping.unit, capping.thresholds[layer]) for capping in self._cappings]
        keeps_norm = added is not None and added.keeps_norm is not None
        # The embedding is a write too. Ablated last it is early enough for additions, not for what looks at the stream.
        embedded = layer == 0 and (keeps_norm or bool(caps) or self._affine is not None)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if embedded:
                hidden = self._ablate(hidden)
            if added is not None:
                hidden = self._add(hidden, added)
            for unit, threshold in caps:
                if threshold is not None:
                    hidden = self._cap(hidden, unit, threshold)
            if self._affine is not None:
                hidden = self._project_out(hidden, self._affine.basis, self._affine.targets[layer])
            hidden = self._ablate(hidden)
            self._newest.append(hidden[:, -1].clone())  # a view would keep the whole prompt of every layer
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return hook

    def _on_write(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention also returns its weights, a mixture of experts its routing
            return (self._ablate(output[0]), *output[1:])
        return self._ablate(output)

    def _ablate(self, x: Tensor) -> Tensor:
        return x if self._basis is None else self._project_out(x, self._basis)

    def _add(self, x: Tensor, added: Added) -> Tensor:
        """x + c r for each row, ``[rows, tokens, d_model]``, in float32; with the norm of x in rows that keep it."""
        delta = self._place(added.delta, x)
        exact = x.to(delta.dtype)
        moved = exact + delta
        if added.keeps_norm is not None:
            ratio = exact.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            moved = moved * torch.where(self._place(added.keeps_norm, x) > 0, ratio, 1.0)
        return moved.to(x.dtype)

    def _cap(self, x: Tensor, unit: Tensor, threshold: Tensor) -> Tensor:
        """x − max(⟨x, r̂⟩ − τ, 0) r̂ for each row, in float32; rows without a capping keep every bit."""
        unit, threshold = self._place(unit, x), self._place(threshold, x)
        exact = x.to(unit.dtype)
        excess = ((exact * unit).sum(dim=-1, keepdim=True) - threshold).clamp_min(0)
        return torch.addcmul(exact, excess, unit, value=-1).to(x.dtype)

    def _project_out(self, x: Tensor, stored_basis: Tensor, target: Tensor | None = None) -> Tensor:
        """x − R̂ᵀ(R̂ x − target) for each row, ``[rows, tokens, d_model]``, in float32; target is ``[rows, 1, k]``.

        Rows whose basis is zero keep every bit.
        """
        basis = self._place(stored_basis, x)
        exact = x if x.dtype == basis.dtype else x.to(basis.dtype)
        if basis.shape[1] == 1:  # by far the most frequent; for one token a matrix product costs four times as much
            inside = (exact * basis).sum(dim=-1, keepdim=True)
            if target is not None:
                inside = inside - self._place(target, x)
            return torch.addcmul(exact, inside, basis, value=-1).to(x.dtype)
        inside = exact @ basis.mT
        if target is not None:
            inside = inside - self._place(target, x)
        return torch.baddbmm(exact, inside, basis, alpha=-1).to(x.dtype)

    def _place(self, tensor: Tensor, like: Tensor) -> Tensor:
        """``tensor`` on the device of ``like``, in float32 (float64 where the model is); moved once and kept."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (id(tensor), like.device, dtype)
        if key not in self._placed:
            self._placed[key] = tensor.to(like.device, dtype)
        return self._placed[key]
