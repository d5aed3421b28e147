"""Hooks for TransformerLens: what they do by themselves, and in a model there against the engine here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steering.direction import Direction
from steering.errors import DirectionError
from steering.exchange_lens import transformer_lens_hooks
from steering.interventions import Ablation, Addition, AffineAblation, Capping, Dial, Steering, Variant
from steering.models import ChatModel, load_model
from steering.neutral_means import NeutralMeans

Tiny = Callable[[str], ChatModel]


def direction(width: int = 64, depth: int = 3, layer: int = 1, rank: int = 1, seed: int = 0) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(width, 3, generator=generator)).Q.T.contiguous()
    return Direction(
        vector=torch.randn(width, generator=generator),
        ablation_basis=axes[:rank].clone(),
        layer=layer,
        position=-1,
        mean_residual_norm=8.0,
        card={"n_layers": depth},
        neutral=NeutralMeans(axes, torch.randn(depth, 3, generator=generator)),
    )


def variants(one: Direction, other: Direction) -> dict[str, Variant]:
    return {
        "baseline": Variant.baseline(),
        "added": Variant.added(one, 1.5),
        "added against": Variant.added(one, -2.0),
        "ablated": Variant.ablated(one),
        "a basis of two": Variant.ablated(other),
        "one ablated, one added": Variant("both", [Ablation(one), Addition(other, 2.0)]),
        "norm kept": Variant("kept", [Addition(one, 3.0, keep_norm=True)]),
        "affine": Variant("affine", [AffineAblation(one)]),
        "capped": Variant("capped", [Capping(one, 0.1)]),
    }


KINDS = tuple(variants(direction(), direction(rank=2, seed=1)))


# --- the functions by themselves ------------------------------------------------------------------------------------


def test_an_addition_is_one_hook_that_adds() -> None:
    one = direction(layer=2)
    ((name, hook),) = transformer_lens_hooks(one, 3, coefficient=0.5)
    assert name == "blocks.2.hook_resid_pre"
    x = torch.randn(4, 5, 64, generator=torch.Generator().manual_seed(2))
    before = x.clone()
    torch.testing.assert_close(hook(x, hook=None), x + 0.5 * one.vector)
    assert torch.equal(x, before)  # TransformerLens keeps what it gave
    ((_, same),) = transformer_lens_hooks(Variant.added(one, 0.5), 3)
    assert torch.equal(same(x), hook(x))


@pytest.mark.parametrize("rank", [1, 2])
def test_an_ablation_is_a_hook_wherever_the_stream_is_written(rank: int) -> None:
    one = direction(rank=rank)
    hooks = transformer_lens_hooks(Variant.ablated(one), 3)
    names = {
        f"blocks.{layer}.{point}" for layer in range(3) for point in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    }
    assert len(hooks) == len(names)
    assert {name for name, _ in hooks} == names
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(3)) * 50
    basis = one.ablation_basis.double()
    expected = x.double() - x.double() @ basis.T @ basis
    for _, hook in hooks:
        torch.testing.assert_close(hook(x, hook=None), expected.float(), atol=1e-4, rtol=1e-5)
        half = hook(x.bfloat16(), hook=None)
        assert half.dtype == torch.bfloat16
        assert half.shape == x.shape


def test_a_dial_is_read_in_every_pass() -> None:
    one, dial, x = direction(), Dial(0.0), torch.zeros(1, 1, 64)
    ((_, hook),) = transformer_lens_hooks(Variant.added(one, dial), 3)
    assert torch.equal(hook(x), x)
    dial.value = 2.0
    torch.testing.assert_close(hook(x)[0, 0], 2 * one.vector)


def test_a_model_of_another_depth_is_refused() -> None:
    with pytest.raises(DirectionError, match=r"layer 1 of a model with 3 layers; this one has 4"):
        transformer_lens_hooks(direction(), 4)
    with pytest.raises(DirectionError, match=r"layer 5 of a model"):
        transformer_lens_hooks(replace(direction(layer=5), card={}), 3)
    assert transformer_lens_hooks(Variant.baseline(), 3) == []


# --- in a model -----------------------------------------------------------------------------------------------------


def engine_logits(chat: ChatModel, ids: Tensor, variant: Variant) -> Tensor:
    steering = Steering(chat, [variant] * len(ids))
    with torch.inference_mode(), steering.applied():
        return chat.model(ids, use_cache=False).logits


def hooked_logits(chat: ChatModel, ids: Tensor, hooks: list[tuple[str, Callable[..., Tensor]]]) -> Tensor:
    """The model run with the hooks at the places that TransformerLens gives these names."""
    by_name = dict(hooks)
    handles = []

    def before(hook: Callable[..., Tensor]) -> Any:
        def run(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (hook(args[0], hook=None), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hook(kwargs["hidden_states"], hook=None)}

        return run

    def after(hook: Callable[..., Tensor]) -> Any:
        def run(module: Any, args: Any, output: Any) -> Any:
            return (hook(output[0]), *output[1:]) if isinstance(output, tuple) else hook(output)

        return run

    for layer, (block, writes) in enumerate(zip(chat.architecture.blocks, chat.architecture.writes, strict=True)):
        if hook := by_name.pop(f"blocks.{layer}.hook_resid_pre", None):
            handles.append(block.register_forward_pre_hook(before(hook), with_kwargs=True))
        for point, write in zip(("hook_attn_out", "hook_mlp_out"), writes, strict=True):
            if hook := by_name.pop(f"blocks.{layer}.{point}", None):
                handles.append(write.register_forward_hook(after(hook)))
    assert not by_name
    try:
        with torch.inference_mode():
            return chat.model(ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama3", "gemma2", "cohere"])
def test_the_hooks_at_their_places_are_the_engine(family: str, kind: str, tiny: Tiny) -> None:
    chat = tiny(family)
    variant = variants(direction(chat.d_model, chat.n_layers), direction(chat.d_model, chat.n_layers, 2, 2, 1))[kind]
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(4))
    expected = engine_logits(chat, ids, variant)
    found = hooked_logits(chat, ids, transformer_lens_hooks(variant, chat.n_layers))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if kind != "baseline":
        assert (expected - engine_logits(chat, ids, Variant.baseline())).abs().max() > 1e-3


@pytest.fixture(scope="module")
def bridge() -> Any:
    """The bundled model in TransformerLens, its weights as they are; another copy, for hooks stay on its modules."""
    lens = pytest.importorskip("transformer_lens.model_bridge", reason="transformer_lens is not installed")
    chat = load_model("bundled", device="cpu", dtype=torch.float32)
    from steering.weights import model_folder

    made = lens.TransformerBridge.boot_transformers(
        str(model_folder("bundled")), hf_model=chat.model, tokenizer=chat.tokenizer, device="cpu"
    )
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_transformer_lens_gives_our_logits(kind: str, bridge: Any, bundled_float32: ChatModel) -> None:
    chat = bundled_float32
    one, other = direction(chat.d_model, chat.n_layers, 17), direction(chat.d_model, chat.n_layers, 9, 2, 1)
    scaled = [replace(d, vector=d.vector * 1.5) for d in (one, other)]
    variant = variants(*scaled)[kind]
    questions = ("Tell me about rivers.", "Why is the sky blue?")
    ids = [chat.encode([{"role": "user", "content": question}]) for question in questions]
    batch = torch.tensor([row[: min(map(len, ids))] for row in ids])
    hooks = transformer_lens_hooks(variant, bridge.cfg.n_layers)
    with torch.inference_mode():
        found = bridge.run_with_hooks(batch, fwd_hooks=hooks, return_type="logits")
        plain = bridge(batch, return_type="logits")
    expected = engine_logits(chat, batch, variant)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
    moved = float((found - plain).abs().max())
    print(f"{kind}: largest difference {float((found - expected).abs().max()):.1e}, moved by {moved:.2f}")
    assert (moved > 0.1) == (kind != "baseline")
