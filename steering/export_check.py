"""What was seen is what is taken: a model on the disk against the hooked model it stands for.

Both answer the same questions. The hooked model writes greedily; both then read its answers, and their distributions of
the next token are compared at every token of them. Where each finds the same token likeliest all the way, the edited
model would have written the same text.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steering.generation import stream_side_by_side
from steering.interventions import Steering, Variant
from steering.models import ChatModel, load_model
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable

REPLY_TOKENS = 16
READ_AT_ONCE = 4  # answers, with their logits over the whole vocabulary
WHAT = "Comparing the answers"

# Requests of every day, harmless ones, of different kinds.
QUESTIONS = (
    "Why is the sky blue?",
    "How do I make pancakes?",
    "Tell me about rivers.",
    "What can I do on a rainy Sunday?",
    "Write a poem about the moon.",
    "What is the capital of Portugal?",
    "Give me three tips for a good night's sleep.",
    "Explain gravity to a child.",
    "How many legs does a spider have?",
    "Write a thank-you note to a neighbour.",
    "What is the difference between a lake and a pond?",
    "Suggest a name for a cat.",
    "How does a bicycle stay upright?",
    "Summarise the story of a seed that becomes a tree.",
    "What should I pack for a day at the beach?",
    "Translate “good morning” into French.",
    "Why do leaves change their colour in autumn?",
    "Write one sentence about the sea.",
    "How do I remove a coffee stain?",
    "What is a prime number?",
    "Describe the smell of fresh bread.",
    "How far away is the moon?",
    "Tell me a joke about a penguin.",
    "What makes a good teacher?",
    "List five vegetables.",
    "How do I tie a bow?",
    "What is the plural of “mouse”?",
    "Write a short message to cancel an appointment.",
    "Why do we dream?",
    "How long does it take to boil an egg?",
    "Recommend a hobby for winter evenings.",
    "What is a rainbow made of?",
)


@dataclass(frozen=True)
class Equality:
    """How near an exported model is to the hooked one.

    Attributes:
        largest_logit_difference: over every token of every answer, and the whole vocabulary.
        mean_kl: mean KL(hooked ‖ exported) of the next token's distribution, nats.
        equal_tokens: share of tokens at which both find the same one likeliest.
        equal_texts: number of answers that are the same all the way.
        n_answers, n_tokens: how many there were in all.
        dtype: in which both were computed.
    """

    largest_logit_difference: float
    mean_kl: float
    equal_tokens: float
    equal_texts: int
    n_answers: int
    n_tokens: int
    dtype: str

    def sentence(self) -> str:
        """For people, and for the model's card."""
        return (
            f"{self.equal_texts} of {self.n_answers} greedy answers of up to {REPLY_TOKENS} tokens are the same, "
            f"{self.equal_tokens:.2%} of their {self.n_tokens} tokens; mean KL {self.mean_kl:.2g} nats, largest "
            f"difference of a logit {self.largest_logit_difference:.2g} ({self.dtype})."
        )


def hooked_answers(
    model: ChatModel, variant: Variant, questions: Sequence[str] = QUESTIONS, progress: Progress = silent
) -> tuple[list[tuple[list[int], list[int]]], list[Tensor]]:
    """What the hooked model writes: prompt and reply of each question as token ids, and its logits at every token."""
    conversations = [[{"role": "user", "content": question}] for question in questions]
    prompts = [model.encode(conversation) for conversation in conversations]
    steps = stream_side_by_side(model, conversations, [variant] * len(questions), max_new_tokens=REPLY_TOKENS)
    for number, step in enumerate(steps):  # noqa: B007  the last one is what counts
        progress(WHAT, number / REPLY_TOKENS, 3)
    texts = [(prompt, list(reply)) for prompt, reply in zip(prompts, step.token_ids, strict=True)]
    return texts, answer_logits(model, texts, variant, lambda part: progress(WHAT, 1 + part, 3))


@torch.inference_mode()
def answer_logits(
    model: ChatModel, texts: Sequence[tuple[list[int], list[int]]], variant: Variant, told: Callable[[float], None]
) -> list[Tensor]:
    """The logits of each token of each reply and of what follows it, float32 ``[tokens + 1, vocabulary]``.

    On the CPU, a tensor for each text.
    """
    found = []
    for begin in range(0, len(texts), READ_AT_ONCE):
        told(begin / len(texts))
        some = texts[begin : begin + READ_AT_ONCE]
        whole = [torch.tensor(prompt + reply) for prompt, reply in some]
        # Padded on the right, where a causal model's answers to what stands before do not see it.
        ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(model.device)
        lengths = torch.tensor([len(one) for one in whole], device=model.device)
        mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
        with Steering(model, [variant] * len(some)).applied():
            logits = model.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
        for row, (prompt, reply) in zip(logits, some, strict=True):
            found.append(row[len(prompt) - 1 : len(prompt) + len(reply)].float().cpu())
    return found


def equality(hooked: Sequence[Tensor], exported: Sequence[Tensor], dtype: torch.dtype) -> Equality:
    """Compare two models' logits at the same tokens."""
    largest, divergence, equal_tokens, equal_texts, tokens = 0.0, 0.0, 0, 0, 0
    for one, other in zip(hooked, exported, strict=True):
        largest = max(largest, float((one - other).abs().max()))
        p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
        divergence += float((p.exp() * (p - q)).sum())
        same = one.argmax(-1) == other.argmax(-1)
        equal_tokens += int(same.sum())
        equal_texts += bool(same.all())
        tokens += len(one)
    name = str(dtype).removeprefix("torch.")
    return Equality(largest, divergence / tokens, equal_tokens / tokens, equal_texts, len(hooked), tokens, name)


def compare(
    source: str, exported: Path, variant: Variant, progress: Progress = silent, revision: str | None = None
) -> Equality:
    """An exported model's folder against its hooked source; one after the other, so that one is in memory at a time.

    Both are computed in float32 on the CPU, or, where that would not fit, in the source's own number type.
    """
    dtype = _dtype_that_fits(exported)
    hooked = load_model(source, device="cpu", dtype=dtype, revision=revision, progress=lambda *_: progress(WHAT, 0, 3))
    texts, expected = hooked_answers(hooked, variant, progress=progress)
    del hooked
    gc.collect()
    model = load_model(str(exported), device="cpu", dtype=dtype, progress=lambda *_: progress(WHAT, 2, 3))
    found = answer_logits(model, texts, Variant.baseline(), lambda part: progress(WHAT, 2 + part, 3))
    progress(WHAT, 3, 3)
    return equality(expected, found, model.dtype)


def _dtype_that_fits(exported: Path) -> torch.dtype:
    from steering.checkpoints import Checkpoint
    from steering.machine import free_memory

    tensors = Checkpoint.read(exported, exported.name).tensors.values()
    numbers = sum(prod(tensor.shape) for tensor in tensors)
    widest = max(tensors, key=lambda tensor: tensor.nbytes)
    return torch.float32 if 1.3 * 4 * numbers < free_memory(torch.device("cpu")) else widest.number_type
