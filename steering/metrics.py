"""What a model's next-token logits say: how far it refuses or shows an idea, and how far it is from another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.errors import SteeringError

if TYPE_CHECKING:
    from steering.models import ChatModel


@dataclass(frozen=True)
class FirstTokens:
    """The tokens R whose probability as the first of a reply stands for the idea.

    Attributes:
        ids: their ids, in the order of how much they tell.
        texts: what they write.
        source: where they come from, in words for a card.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    source: str

    @classmethod
    def from_texts(cls, model: ChatModel, texts: Sequence[str]) -> FirstTokens:
        """The tokens a person names, each by the text it writes.

        Raises:
            SteeringError: if there is none, or a text is not exactly one token.
        """
        ids = []
        for text in texts:
            found = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(found) != 1:
                raise SteeringError(
                    f"“{text}” is {len(found)} tokens to {model.label}; a first token must be one. Shorten it."
                )
            ids.append(int(found[0]))
        if not ids:
            raise SteeringError("Name at least one first token, for instance I.")
        unique = list(dict.fromkeys(ids))
        return cls(tuple(unique), tuple(model.tokenizer.decode([i]) for i in unique), "named by hand")


@dataclass(frozen=True)
class RefusalTokens:
    """First tokens of refusals in one family of models: ``config.model_type`` begins with one of ``families``."""

    families: tuple[str, ...]
    ids: tuple[int, ...]
    texts: tuple[str, ...]


# Arditi et al. 2024, appendix C.1 and its table 4; the ids are those of the paper's published code. An entry holds for
# a model whose tokenizer writes just these texts for these ids, so that families sharing a type are told apart.
PAPER_REFUSAL_TOKENS = (
    RefusalTokens(("qwen",), (40, 2121), ("I", "As")),
    RefusalTokens(("gemma",), (235285,), ("I",)),
    RefusalTokens(("llama",), (59597,), ("I",)),  # Yi
    RefusalTokens(("llama",), (306,), ("I",)),  # Llama 2
    RefusalTokens(("llama",), (40,), ("I",)),  # Llama 3
)

# Of found tokens: the most there may be, and how much of the largest difference, and how much probability, each needs.
MOST_FOUND, PART_OF_LARGEST, LEAST_DIFFERENCE = 8, 0.2, 0.01


def paper_refusal_tokens(model: ChatModel) -> FirstTokens | None:
    """The paper's refusal tokens for this model's family, or None for a family it does not have."""
    for entry in PAPER_REFUSAL_TOKENS:
        if not model.config.model_type.startswith(entry.families) or max(entry.ids) >= len(model.tokenizer):
            continue
        if tuple(model.tokenizer.decode([i]).strip() for i in entry.ids) == entry.texts:
            return FirstTokens(entry.ids, entry.texts, "the paper's for this family (appendix C.1)")
    return None


def found_first_tokens(model: ChatModel, positive: Tensor, negative: Tensor) -> FirstTokens:
    """The first tokens whose mean probability rises most from the negative to the positive side.

    Args:
        positive, negative: logits at the last token of each side's prompts, ``[n, vocabulary]``.

    Returns:
        At most 8 tokens, each with at least a fifth of the largest rise and a rise of 0.01; if no token has that, the
        one that rises most.
    """
    rise = positive.float().softmax(dim=-1).mean(dim=0) - negative.float().softmax(dim=-1).mean(dim=0)
    largest = rise.topk(MOST_FOUND)
    enough = max(LEAST_DIFFERENCE, PART_OF_LARGEST * float(largest.values[0]))
    ids = [int(i) for i, value in zip(largest.indices, largest.values, strict=True) if value >= enough]
    ids = ids or [int(largest.indices[0])]
    texts = tuple(model.tokenizer.decode([i]) for i in ids)
    return FirstTokens(tuple(ids), texts, "found: their probability rises most from one side to the other")


def first_token_log_odds(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """log P(R) − log P(not R) of the next token, ``[..., vocabulary]`` to ``[...]`` (section 2.4, the refusal metric).

    R are ``tokens``. Both are sums in the log domain from float32 logits, so nothing is rounded to 0 or 1 at either
    end, unlike with probabilities.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    inside = torch.zeros(exact.shape[-1], dtype=torch.bool, device=exact.device)
    inside[list(tokens)] = True
    return exact[..., inside].logsumexp(dim=-1) - exact[..., ~inside].logsumexp(dim=-1)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(P ‖ Q) in nats of next-token distributions, both ``[..., vocabulary]``; P is that of ``logits``.

    Never below zero: what rounding takes below is zero, for selection proves with partial sums.
    """
    log_p, log_q = (x if x.dtype == torch.float64 else x.float() for x in (logits, other))
    log_p, log_q = log_p.log_softmax(dim=-1), log_q.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0)


def token_log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """log P of the given next tokens: logits ``[..., n, vocabulary]`` and ids ``[n]`` to ``[..., n]``."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    index = tokens.to(exact.device).expand(exact.shape[:-1])[..., None]
    return exact.gather(-1, index)[..., 0] - exact.logsumexp(dim=-1)
