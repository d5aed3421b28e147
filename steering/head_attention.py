"""Where heads look: their attention from one token of a prompt, and how much of it goes to which part of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.activations import Enough
from steering.errors import ModelError, SteeringError

if TYPE_CHECKING:
    from steering.models import ChatModel, Message

TEMPLATE = "template"  # what belongs to no part that was named
Head = tuple[int, int]  # layer, head


def attention_of_heads(model: ChatModel, ids: Sequence[int], heads: Sequence[Head], token: int = -1) -> Tensor:
    """Attention weights of some heads from one token to all, float32 ``[n_heads, n]``, on the CPU.

    Each row sums to 1; where the model has sinks that take a share of it, to less.

    Args:
        ids: a prompt's tokens, ``n``.
        heads: as (layer, head).
        token: from which token.

    Raises:
        ModelError: if there is no such head, or the model does not tell its attention.
    """
    n_heads = int(model.config.num_attention_heads)
    if wrong := [place for place in heads if not (0 <= place[0] < model.n_layers and 0 <= place[1] < n_heads)]:
        raise ModelError(
            f"There is no head {wrong[0][1]} in layer {wrong[0][0]}: {model.label} has layers 0 to "
            f"{model.n_layers - 1} of {n_heads} heads each."
        )
    layers = sorted({layer for layer, _ in heads})
    seen: dict[int, Tensor] = {}

    def reading(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if not isinstance(weights, Tensor):
                raise ModelError(f"{model.label} does not tell where its heads look. Choose another model.")
            seen[layer] = weights[0, :, token].float().cpu()
            if layer == layers[-1]:
                raise Enough

        return hook

    with torch.inference_mode(), model.lock, _plain_attention(model), ExitStack() as stack:
        for layer in layers:
            attention = _attention_of(model.architecture.blocks[layer])
            stack.callback(attention.register_forward_hook(reading(layer)).remove)
        with suppress(Enough):
            model.model.base_model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    return torch.stack([seen[layer][head] for layer, head in heads])


def _attention_of(block: Any) -> nn.Module:
    return block.self_attn if hasattr(block, "self_attn") else block.attention


@contextmanager
def _plain_attention(model: ChatModel) -> Iterator[None]:
    """Within this context the model computes its attention as it is written down, which alone tells its weights."""
    config = model.model.config
    before = config._attn_implementation
    model.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.model.set_attn_implementation(before)


def parts_of_prompt(model: ChatModel, messages: list[Message], texts: Mapping[str, str]) -> list[str]:
    """Which part each token of the prompt belongs to: a name of ``texts``, or :data:`TEMPLATE`.

    Args:
        texts: by name, a text that stands in the last message, in their order there; nothing else of it is named. A
            token that reaches over an edge belongs to where most of it stands.

    Raises:
        SteeringError: if a text is not there, or the tokenizer does not tell where its tokens stand.
    """
    prompt = model.format(messages)
    if not model.tokenizer.is_fast:
        raise SteeringError(
            f"The tokenizer of {model.label} does not tell where its tokens stand. Choose another model."
        )
    encoded = model.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    content = prompt.rfind(messages[-1]["content"])
    spans, start = {}, content
    for name, text in texts.items():
        place = prompt.find(text, start) if content >= 0 else -1
        if place < 0 or not text:
            raise SteeringError(
                f"The {name} does not stand in the prompt as it was written. Take out what is unusual in it."
            )
        spans[name] = place, place + len(text)
        start = place + len(text)
    return [_part(spans, begin, end) for begin, end in encoded["offset_mapping"]]


def _part(spans: Mapping[str, tuple[int, int]], begin: int, end: int) -> str:
    inside = {name: min(end, last) - max(begin, first) for name, (first, last) in spans.items()}
    best = max(inside, key=inside.__getitem__, default=TEMPLATE)
    return best if spans and inside[best] * 2 > end - begin else TEMPLATE


def shares(attention: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
    """How much of each row of attention goes to each part, ``[n_heads]`` by name."""
    return {
        name: attention[:, torch.tensor([part == name for part in parts])].sum(dim=-1) for name in dict.fromkeys(parts)
    }
