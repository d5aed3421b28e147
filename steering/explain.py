"""What a direction says by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steering.decoder_choice import decoder_for
from steering.decoders import NewRow
from steering.variants import Variant

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

WORDS = 8
QUESTIONS = ("What is gravity?", "How do I bake bread?", "Describe my street.")


def words_made_likelier(
    model: ChatModel, direction: Direction, coefficient: float, questions: tuple[str, ...] = QUESTIONS, n: int = WORDS
) -> list[str]:
    """The words that adding a direction makes likelier as the first of an answer, the mean over everyday questions.

    Measured on the model, by what share of the probability a word gains. (What the direction points to through the
    output matrix alone is noise in small models: later blocks read it first.) Only tokens with a letter count.

    Returns:
        At most ``n`` different words, the one that gains most first.

    Raises:
        DirectionError: if the direction does not fit the model.
    """
    prompts = [model.encode([{"role": "user", "content": question}]) for question in questions]
    variants = (Variant.baseline(), Variant.added(direction, coefficient))
    logits = decoder_for(model).join([NewRow(prompt, variant) for prompt in prompts for variant in variants])
    with torch.inference_mode():
        shares = logits.float().softmax(dim=-1)
        gained = (shares[1::2] - shares[::2]).mean(dim=0)
        likeliest = gained.topk(min(16 * n, len(gained)))
    words: list[str] = []
    for gain, token in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
        word = model.tokenizer.decode([token]).strip()
        if gain > 0 and any(map(str.isalpha, word)) and word not in words:
            words.append(word)
    return words[:n]
