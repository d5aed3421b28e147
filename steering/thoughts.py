"""Where the thought of a thinking model's reply ends, told token by token, and what acts on which side of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from steering.variants import Variant

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.template import ThoughtMarks


class Thought:
    """How much of one reply is thought.

    A variant that acts in the answer only leaves prompt and thought as they are, and acts from the pass on that writes
    the answer's first token; one that acts in the thought only is the other way round. A reply of a model that does not
    think, or whose prompt closes the thought, has none, and every variant acts everywhere. A model that may begin a
    thought and begins with something else answers at once.

    Attributes:
        marks: what stands around it, or None where there is no thought.
        n_tokens: how many tokens of the reply belong to it, its marks among them.
        is_over: whether what comes next belongs to the answer.
    """

    def __init__(self, model: ChatModel) -> None:
        is_open = model.open_thought
        self.marks: ThoughtMarks | None = None if is_open is False else model.thought_marks
        self.n_tokens = 0
        self.is_over = self.marks is None
        self._is_open = is_open is True

    def take(self, ids: list[int]) -> None:
        """Look at a reply that has got one more token."""
        if self.marks is None or self.is_over:
            return
        begun = ids[: len(self.marks.start_tokens)]
        if not self._is_open and begun != self.marks.start_tokens[: len(ids)]:
            self.is_over, self.n_tokens = True, 0
            return
        self.n_tokens = len(ids)
        self.is_over = ids[-len(self.marks.end_tokens) :] == self.marks.end_tokens

    def acting(self, variant: Variant) -> Variant:
        """What acts of a variant on what is read next."""
        if self.marks is None or variant.acts == "both" or self.is_over == (variant.acts == "answer"):
            return variant
        return replace(variant, interventions=())
