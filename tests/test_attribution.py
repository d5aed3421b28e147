"""Direct feature attribution against the slow way: float64, one head at a time, each cut out of the model by hand."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES

from steering.attribution import attribute
from steering.errors import ModelError
from steering.models import ChatModel

PROMPT = [{"role": "user", "content": "Why is the sea blue?"}]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_and_every_write_and_their_sum(name: str, tiny: Callable[[str], ChatModel]) -> None:
    model = tiny(name)
    direction = oracle.make_direction(model, layer=1)
    ids = model.encode(PROMPT)
    found = attribute(model, ids, direction)
    expected = by_hand(model, name, ids, direction.ablation_unit.double())
    assert found.ids == ids
    for part in ("embedding", "heads", "attention_bias", "mlps", "total"):
        torch.testing.assert_close(getattr(found, part).double(), expected[part], atol=1e-4, rtol=0)
    whole = found.embedding + found.heads.sum(dim=(0, 1)) + found.attention_bias.sum(dim=0) + found.mlps.sum(dim=0)
    torch.testing.assert_close(whole, found.total, atol=1e-4, rtol=0)
    assert found.n_heads == model.config.num_attention_heads
    assert oracle.count_hooks(model.model) == 0


@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt-neox"])
def test_what_a_layer_reads(name: str, tiny: Callable[[str], ChatModel]) -> None:
    model = tiny(name)
    direction = oracle.make_direction(model, layer=2)
    ids = model.encode(PROMPT)
    whole, found = attribute(model, ids, direction), attribute(model, ids, direction, layer=2)
    assert found.heads.shape[0] == found.mlps.shape[0] == 2
    torch.testing.assert_close(found.heads, whole.heads[:2])
    rest = whole.heads[2:].sum(dim=(0, 1)) + whole.attention_bias[2:].sum(dim=0) + whole.mlps[2:].sum(dim=0)
    torch.testing.assert_close(found.total, whole.total - rest, atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="nothing written before layer 0"):
        attribute(model, ids, direction, layer=0)


def test_top_heads(tiny: Callable[[str], ChatModel]) -> None:
    model = tiny("llama3")
    found = attribute(model, model.encode(PROMPT), oracle.make_direction(model, layer=1))
    every = sorted(
        ((layer, head, float(found.heads[layer, head, -1])) for layer in range(3) for head in range(4)),
        key=lambda place: -abs(place[2]),
    )
    assert found.top_heads(5) == every[:5]
    assert len(found.top_heads(100)) == 12


def test_a_model_that_adds_otherwise_is_refused(tiny: Callable[[str], ChatModel]) -> None:
    model = tiny("llama3")
    block = model.architecture.blocks[1]
    hook = block.register_forward_hook(lambda _, args, output: (output[0] if isinstance(output, tuple) else output) * 2)
    with pytest.raises(ModelError, match="in a way that is not known here"):
        attribute(model, model.encode(PROMPT), oracle.make_direction(model, layer=1))
    hook.remove()


def by_hand(model: ChatModel, name: str, ids: list[int], unit: torch.Tensor) -> dict[str, torch.Tensor]:
    """A head's part is what the attention's output loses when the head's values are set to zero before its matrix.

    What an inner norm divides by is that of the whole.
    """
    twin = oracle.float64_twin(model.model)
    parts = oracle.parts(twin)
    paths = oracle.WRITES.get(name, oracle.PROJECTIONS)
    matrix = "attention.dense" if name == "gpt-neox" else "self_attn.o_proj"
    scale = getattr(model.config, "residual_multiplier", None) or 1.0
    seen: dict[Any, torch.Tensor] = {}
    hooks = []

    def keep(key: Any, *, of_input: bool) -> Callable:
        def hook(module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            seen[key] = (given if of_input else output[0] if isinstance(output, tuple) else output)[0].detach()

        return hook

    for layer, block in enumerate(parts.blocks):
        hooks += [
            block.register_forward_hook(keep(("block", layer), of_input=True), with_kwargs=True),
            attrgetter(matrix)(block).register_forward_hook(keep(("z", layer), of_input=True), with_kwargs=True),
            attrgetter(paths[0])(block).register_forward_hook(
                keep(("attention", layer), of_input=False), with_kwargs=True
            ),
            attrgetter(paths[1])(block).register_forward_hook(keep(("mlp", layer), of_input=False), with_kwargs=True),
        ]
    hooks.append(parts.final_norm.register_forward_hook(keep("end", of_input=True), with_kwargs=True))
    with torch.no_grad():
        twin.base_model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    n_heads = model.config.num_attention_heads
    heads, biases = [], []
    for layer, block in enumerate(parts.blocks):
        projection, z = attrgetter(matrix)(block), seen["z", layer]
        write = attrgetter(paths[0])(block)
        is_normed = paths == oracle.NORMED
        whole = projection(z).detach()
        bias = torch.zeros_like(whole) if projection.bias is None else projection.bias.detach().expand_as(whole)

        def added(
            x: torch.Tensor, whole: torch.Tensor = whole, write: Any = write, is_normed: bool = is_normed
        ) -> torch.Tensor:
            if not is_normed:
                return x @ unit * scale
            ratio = write(whole).detach() / whole  # what the norm multiplies each number by
            return (x * ratio) @ unit * scale

        of_layer = []
        for head in range(n_heads):
            cut = z.clone()
            cut.view(len(ids), n_heads, -1)[:, head] = 0
            of_layer.append(added(whole - projection(cut).detach()))
        heads.append(torch.stack(of_layer))
        biases.append(added(bias))
    return {
        "embedding": seen["block", 0] @ unit,
        "heads": torch.stack(heads),
        "attention_bias": torch.stack(biases),
        "mlps": torch.stack([seen["mlp", layer] @ unit * scale for layer in range(len(parts.blocks))]),
        "total": seen["end"] @ unit,
    }
