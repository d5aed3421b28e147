"""What a direction says by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steering.architectures import final_logits

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

WORDS = 8


def words_pointed_to(model: ChatModel, direction: Direction, n: int = WORDS) -> list[str]:
    """The words whose next-token logits adding r raises most, if nothing but the output matrix came after it.

    W_U · norm(r), the "logit lens" of a direction (nostalgebraist 2020): a hint, no more, for later blocks read r too.
    Only tokens with a letter in them count, each word once.

    Returns:
        At most ``n`` words, the most raised first.
    """
    norm = model.architecture.final_norm
    weight = next(norm.parameters())
    with torch.inference_mode():
        logits = final_logits(model.model, norm(direction.vector.to(weight.device, model.dtype)[None, None]))[0, 0]
    words: list[str] = []
    for token in logits.float().topk(min(16 * n, logits.shape[-1])).indices.tolist():
        word = model.tokenizer.decode([token]).strip()
        if any(map(str.isalpha, word)) and word.casefold() not in (known.casefold() for known in words):
            words.append(word)
    return words[:n]
