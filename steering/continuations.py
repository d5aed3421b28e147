"""Writing behind prompts that are token ids already, many at a time, outside of any conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steering.decoder_choice import decoder_for
from steering.decoders import NewRow
from steering.errors import OutOfMemoryError
from steering.out_of_memory import is_out_of_memory
from steering.sampling import Sampler, SamplingSettings
from steering.variants import Variant

if TYPE_CHECKING:
    from steering.models import ChatModel


def continuations(
    model: ChatModel,
    prompts: Sequence[list[int]],
    variant: Variant,
    is_written: Callable[[int, list[int]], bool],
    settings: SamplingSettings | None = None,
) -> list[list[int]]:
    """What a variant writes behind each prompt, as rows of one batch that those leave which are at their end.

    Its interventions act at every position, whichever side of a thought the variant acts on.

    Args:
        prompts: token ids, at least one each.
        is_written: asked with a row's number and the token ids it has written so far: whether they are enough. A token
            that ends the model's replies ends the row anyway.
        settings: how tokens are chosen, by default greedily.

    Returns:
        Token ids of each row, the last one included.

    Raises:
        OutOfMemoryError: if the rows do not fit into memory together.
        SteeringError: if the model's numbers overflow, or a direction does not fit.
    """
    written: list[list[int]] = [[] for _ in prompts]
    decoder = decoder_for(model)
    sampler = Sampler(settings or SamplingSettings(), len(prompts), model.device)
    with memory_errors():
        logits = decoder.join([NewRow(prompt, variant) for prompt in prompts])
    going = list(range(len(prompts)))
    while True:
        tokens = sampler.choose(logits, going)
        ended = []
        for at, (row, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
            written[row].append(token)
            if token in model.end_tokens or is_written(row, written[row]):
                ended.append(at)
        decoder.leave(ended)
        staying = [at for at in range(len(going)) if at not in ended]
        if not staying:
            return written
        going = [going[at] for at in staying]
        with memory_errors():
            logits = decoder.step(tokens[staying])


@contextmanager
def memory_errors() -> Iterator[None]:
    """Say in a sentence that a batch did not fit into memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("There is not enough memory for so many texts at once. Lower the batch size.") from error
