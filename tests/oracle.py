"""What the engine does, done again the slow way: one row at a time, in float64, with hooks of its own.

The names of modules below are written down anew for every tiny model, one step closer to the weights than the engine
hooks where that is possible, so that a mistake in the engine's table cannot hide here.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from steering.directions import Direction
from steering.models import ChatModel

NORMED = ("post_attention_layernorm", "post_feedforward_layernorm")
PROJECTIONS = ("self_attn.o_proj", "mlp.down_proj")
MIXTURE = ("self_attn.o_proj", "mlp")  # the experts' matrices are one parameter, so their sum is the write
WRITES = {
    "gemma2": NORMED,
    "gemma2-narrow": NORMED,
    "gemma3": NORMED,
    "olmo2": NORMED,
    "gpt-neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "qwen3-moe": MIXTURE,
    "mixtral": MIXTURE,
}

Unhook = Callable[[], None]


@dataclass(frozen=True)
class Parts:
    """The modules of one model that the oracle needs."""

    blocks: Sequence[nn.Module]
    embedding: nn.Module
    final_norm: nn.Module


def parts(model: nn.Module) -> Parts:
    if hasattr(model, "gpt_neox"):
        body = model.gpt_neox
        return Parts(body.layers, body.embed_in, body.final_layer_norm)
    return Parts(model.model.layers, model.model.embed_tokens, model.model.norm)


@cache
def float64_twin(model: nn.Module) -> Any:
    """A copy of ``model`` in float64, made once a model."""
    twin = copy.deepcopy(model).double()
    if hasattr(twin.config, "num_experts_per_tok"):
        twin.set_experts_implementation("eager")  # the fast kernel knows no float64
    return twin


def fingerprint(model: nn.Module) -> str:
    """A hash of every weight and buffer."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(name.encode() + tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_hooks(model: nn.Module) -> int:
    """How many hooks of any kind are on the model's modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@contextmanager
def by_hand(model: nn.Module, name: str, added: Mapping[int, Tensor], removed: Tensor | None) -> Iterator[None]:
    """Steer the float64 ``model`` of family ``name``: add ``added[l]`` before block l, take ``removed``'s span out.

    ``removed`` is ``[k, d_model]``, rows of any length and angle.
    """
    found = parts(model)
    span = None if removed is None else torch.linalg.qr(removed.double().T).Q  # [d_model, k]

    def without(x: Tensor) -> Tensor:
        return x if span is None else x - (x @ span) @ span.T

    def after(module: nn.Module, args: tuple, output: Any) -> Any:
        return (without(output[0]), *output[1:]) if isinstance(output, tuple) else without(output)

    def before(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
            hidden = args[0] if args else kwargs["hidden_states"]
            hidden = without(hidden + added[layer].double())
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return hook

    with ExitStack() as stack:
        for layer in added:
            stack.callback(found.blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True).remove)
        stack.callback(found.embedding.register_forward_hook(after).remove)
        for block in found.blocks:
            for path in WRITES.get(name, PROJECTIONS):
                # A family with mixtures may have a plain MLP in one of its blocks.
                stack.callback(attrgetter(path)(block).register_forward_hook(after).remove)
        yield


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what enters each block and the final norm; entered after the engine's hooks, it sees what they did."""
    found = parts(model)
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    with ExitStack() as stack:
        for module in [*found.blocks, found.final_norm]:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield seen


@torch.no_grad()
def plain_greedy(chat: ChatModel, ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """What transformers' own ``generate`` writes after ``ids``, up to the end token."""
    prompt = torch.tensor([list(ids)])
    output = chat.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=chat.pad_token,
    )[0, prompt.shape[1] :].tolist()
    ends = [place for place, token in enumerate(output) if token in chat.end_tokens]
    return output[: ends[0]] if ends else output


@torch.no_grad()
def hidden_states(chat: ChatModel, ids: Sequence[int]) -> Tensor:
    """What enters each block for one prompt, by transformers' own account, float64 ``[n_layers, tokens, d_model]``.

    Read from the twin, for transformers leaves hooks of its own on a model that was asked for hidden states.
    """
    output = float64_twin(chat.model)(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    return torch.cat(output.hidden_states[:-1])  # the last one is behind the final norm


def make_direction(chat: ChatModel, seed: int = 0, layer: int = 1, rank: int = 1, length: float = 4.0) -> Direction:
    """A random direction that fits ``chat``; its length is half the usual length of the tiny models' stream."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(chat.d_model, generator=generator)
    vector *= length / vector.norm()
    others = torch.randn(rank - 1, chat.d_model, generator=generator)
    basis = torch.linalg.qr(torch.cat([vector[None], others]).T).Q.T
    basis[0] = vector / vector.norm()  # QR is free to turn its sign
    card = {"n_layers": chat.n_layers, "d_model": chat.d_model}
    return Direction(vector, basis.contiguous(), layer, -1, mean_residual_norm=2 * length, name=f"{seed}", card=card)


def strong_direction(chat: ChatModel, ids: Sequence[int], layer: int = 1) -> Direction:
    """The stream itself at the last token: taking it out takes a great deal out."""
    vector = hidden_states(chat, ids)[layer, -1].float()
    return Direction(vector, (vector / vector.norm())[None], layer, -1, float(vector.norm()), "strong")


def ending_early(chat: ChatModel, tokens: Sequence[int]) -> ChatModel:
    """The same model, told that a reply also ends with any of ``tokens``."""
    model = copy.copy(chat.model)
    model.generation_config = copy.deepcopy(chat.model.generation_config)
    model.generation_config.eos_token_id = [*sorted(chat.end_tokens), *tokens]
    return ChatModel(model, chat.tokenizer, chat.name, chat.label)
