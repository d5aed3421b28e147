"""What a suffix does to a direction (section 5.1): the stream, the heads that write it, and where they look.

A suffix is looked at beside others of equal length whose tokens are drawn at random, for any text behind a prompt
changes something. Suffixes are given; none is searched for here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.attribution import attribute
from steering.contrast import Example
from steering.errors import SteeringError
from steering.explain import layer_profile
from steering.head_attention import Head, attention_of_heads, parts_of_prompt, shares
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

FEWEST_RANDOM = 20
DRAWS = 400  # for one random suffix of the right length
INSTRUCTION, SUFFIX = "instruction", "suffix"
WHAT = "Reading the prompt with each suffix"


@dataclass(frozen=True, eq=False)
class Look:
    """One prompt: what is seen at its last token.

    Attributes:
        cosines: cos(x^(l), r̂), float32 ``[n_layers]``.
        heads: what each of the heads looked at wrote along r̂, ``[n_heads]``.
        attention: how much of each head's attention goes to each part of the prompt, ``[n_heads]`` by name.
    """

    text: str
    cosines: Tensor
    heads: Tensor
    attention: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SuffixAnalysis:
    """A prompt as it is, with the suffix, and with random suffixes of as many tokens.

    Attributes:
        top_heads: those that write most of r̂ in the prompt as it is, before the direction's layer, as (layer, head).
    """

    top_heads: list[Head]
    plain: Look
    with_suffix: Look
    with_random: list[Look]

    @property
    def random_cosines(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the random suffixes, ``[n_layers]`` each."""
        stacked = torch.stack([look.cosines for look in self.with_random])
        return stacked.mean(dim=0), stacked.std(dim=0)


def analyse_suffix(
    model: ChatModel,
    direction: Direction,
    prompt: str,
    suffix: str,
    *,
    n_random: int = FEWEST_RANDOM,
    n_heads: int = 3,
    seed: int = 0,
    progress: Progress = silent,
) -> SuffixAnalysis:
    """Look at a prompt with and without a suffix, which follows it after a space.

    Raises:
        SteeringError: if either is empty, there are fewer than 20 random ones, or the prompt with it is longer than
            the model reads.
        DirectionError: if the direction does not fit the model.
    """
    prompt, suffix = prompt.strip(), suffix.strip()
    if not prompt or not suffix:
        raise SteeringError("Give a prompt and a suffix; one of them is empty.")
    if n_random < FEWEST_RANDOM:
        raise SteeringError(
            f"Fewer than {FEWEST_RANDOM} random suffixes tell too little. Ask for {FEWEST_RANDOM} or more."
        )
    length = len(_ids(model, f"{prompt} {suffix}"))
    if length > model.max_length:
        raise SteeringError(
            f"With the suffix the prompt has {length} tokens; {model.label} reads at most {model.max_length}. "
            "Shorten it."
        )
    found = attribute(model, _ids(model, prompt), direction, direction.layer or None)
    top = [(layer, head) for layer, head, _ in found.top_heads(n_heads)]
    n_done, n_all = 0, n_random + 2

    def look(text: str) -> Look:
        nonlocal n_done
        progress(WHAT, n_done, n_all)
        n_done += 1
        return _look(model, direction, prompt, text, top)

    return SuffixAnalysis(
        top,
        look(""),
        look(suffix),
        [look(text) for text in random_suffixes(model, prompt, length, n_random, seed)],
    )


def random_suffixes(model: ChatModel, prompt: str, length: int, n: int, seed: int = 0) -> list[str]:
    """Suffixes of words drawn from the vocabulary, with each of which the whole prompt has ``length`` tokens.

    Raises:
        SteeringError: if the tokenizer makes none of that length.
    """
    generator = torch.Generator().manual_seed(seed)
    words = _words(model)
    n_tokens = length - len(_ids(model, prompt))
    found: list[str] = []
    for _ in range(n):
        count = max(1, n_tokens)
        for _ in range(DRAWS):
            drawn = torch.randint(len(words), (count,), generator=generator)
            text = "".join(words[int(one)] for one in drawn).strip()
            off = len(_ids(model, f"{prompt} {text}")) - length if text else -1
            if off == 0:
                found.append(text)
                break
            count = max(1, count - (1 if off > 0 else -1))
        else:
            raise SteeringError(
                f"No random suffix of {n_tokens} tokens was found for {model.label}. Choose a longer suffix."
            )
    return found


def _words(model: ChatModel) -> list[str]:
    """What of the vocabulary can stand in a text as it is."""
    special = set(model.tokenizer.all_special_ids)
    texts = (model.tokenizer.decode([token]) for token in range(len(model.tokenizer)) if token not in special)
    return [text for text in texts if text.strip() and text.isprintable() and "\ufffd" not in text]


def _ids(model: ChatModel, text: str) -> list[int]:
    return model.encode([{"role": "user", "content": text}])


def _look(model: ChatModel, direction: Direction, prompt: str, suffix: str, heads: list[Head]) -> Look:
    messages = [{"role": "user", "content": f"{prompt} {suffix}".strip()}]
    ids = model.encode(messages)
    parts = parts_of_prompt(model, messages, {INSTRUCTION: prompt} | ({SUFFIX: suffix} if suffix else {}))
    written = attribute(model, ids, direction, direction.layer or None)
    return Look(
        suffix,
        layer_profile(model, direction, [Example(tuple(messages))]).cosines[0],
        torch.stack([written.heads[layer, head, -1] for layer, head in heads]),
        shares(attention_of_heads(model, ids, heads), parts),
    )


__all__ = ["FEWEST_RANDOM", "Look", "SuffixAnalysis", "analyse_suffix", "random_suffixes"]
