"""What each step of a turn brought to all its variants, and the text of a reply token by token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from steering.template import ThoughtMarks

Likeliest = tuple[list[int], list[float]]


class Reply:
    """The tokens of one reply and the text each of them brought, decoded only as far as someone asks."""

    def __init__(self, tokenizer: Any) -> None:
        self.ids: list[int] = []
        self._tokenizer = tokenizer
        self._texts = [""]

    def text(self, n_tokens: int) -> str:
        """The text of the first ``n_tokens`` tokens.

        A character whose bytes are not complete yet is left out.
        """
        while len(self._texts) <= n_tokens:
            text = self._tokenizer.decode(self.ids[: len(self._texts)], skip_special_tokens=True)
            self._texts.append(self._texts[-1] if text.endswith("\ufffd") else text)
        return self._texts[n_tokens]

    def brought(self, n_tokens: int) -> str:
        """What the token at place ``n_tokens``, from 1, added to the text; "" while a character is incomplete."""
        return self.text(n_tokens)[len(self.text(n_tokens - 1)) :]


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of all variants brought. Texts are decoded only when they are asked for.

    Attributes:
        cosines: float32 ``[n_variants, n_layers]``, cos(x^(l), ablation unit) at the token whose reading gave each
            variant's newest token; a finished variant keeps its last.
        finished: whether each variant's reply has ended.
        n_tokens: how many tokens each reply has, the end token not counted.
        n_thought: how many of them belong to the thought, for models that think before they answer.
        left_out: how many of the oldest messages of each conversation did not fit and were left out.
        likeliest: for each variant that wrote a token in this step, if that was asked for, the ids of the likeliest
            next tokens and their probabilities, falling: softmax of the model's logits as they were, before the
            repetition penalty and the temperature. None for the other variants.
    """

    cosines: Tensor
    finished: list[bool]
    n_tokens: list[int]
    n_thought: list[int]
    left_out: list[int]
    likeliest: list[Likeliest | None]
    _replies: list[Reply]
    _advanced: list[bool]
    _marks: ThoughtMarks | None

    @cached_property
    def texts(self) -> list[str]:
        """The reply of each variant so far, thought and all."""
        return [reply.text(n) for reply, n in zip(self._replies, self.n_tokens, strict=True)]

    @cached_property
    def thoughts(self) -> list[str]:
        """The thought of each reply so far, without the marks around it; "" where there is none."""
        texts = [reply.text(n) for reply, n in zip(self._replies, self.n_thought, strict=True)]
        if self._marks is None:
            return texts
        # A tokenizer that takes the marks for special tokens has left them out by itself.
        return [text.removeprefix(self._marks.start).removesuffix(self._marks.end).strip() for text in texts]

    @cached_property
    def answers(self) -> list[str]:
        """The reply of each variant so far, without its thought."""
        return [
            reply.text(n)[len(reply.text(n_thought)) :].lstrip() if n_thought else reply.text(n)
            for reply, n, n_thought in zip(self._replies, self.n_tokens, self.n_thought, strict=True)
        ]

    @cached_property
    def tokens(self) -> list[str | None]:
        """What each variant's newest token added to its text; None for a variant that wrote none in this step."""
        return [
            reply.brought(n) if advanced else None
            for reply, n, advanced in zip(self._replies, self.n_tokens, self._advanced, strict=True)
        ]

    @property
    def token_ids(self) -> list[list[int]]:
        """The token ids of each reply so far, without the end token."""
        return [reply.ids[:n] for reply, n in zip(self._replies, self.n_tokens, strict=True)]
