"""Writing behind token ids: rows of many lengths and ends against each alone, all of it read again at every token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from steering.continuations import continuations
from steering.direction import Direction
from steering.errors import OutOfMemoryError
from steering.interventions import Steering, Variant
from steering.models import ChatModel


def alone(model: ChatModel, variant: Variant, prompt: list[int], most: int) -> list[int]:
    written: list[int] = []
    while len(written) < most:
        with torch.inference_mode(), Steering(model, [variant]).applied():
            logits = model.model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits[0, -1]
        written.append(int(logits.argmax()))
        if written[-1] in model.end_tokens:
            break
    return written


@pytest.mark.parametrize("family", ["llama3", "gemma2", "cohere"])
def test_rows_of_a_batch_are_what_each_writes_alone(family: str, tiny: Callable[[str], ChatModel]) -> None:
    model = tiny(family)
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    direction = Direction(vector, (vector / vector.norm())[None], 1, -1, 1.0, "odd", {"n_layers": model.n_layers})
    prompts = [model.tokenizer.encode(text) for text in ("A river", "Many words stand before this one, and", "So")]
    most = [7, 4, 10]
    for variant in (Variant.baseline(), Variant.ablated(direction)):
        found = continuations(model, prompts, variant, lambda row, ids: len(ids) >= most[row])
        assert found == [alone(model, variant, *one) for one in zip(prompts, most, strict=True)]


def test_too_many_for_the_memory_is_a_sentence(
    tiny: Callable[[str], ChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gemma2")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(model.model, "forward", fail)
    with pytest.raises(OutOfMemoryError, match="Lower the batch size"):
        continuations(model, [[1, 2]], Variant.baseline(), lambda row, ids: True)
