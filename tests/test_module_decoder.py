"""Rows on transformers' modules: put together, taken apart, gone on from, and left alone by a pass that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import oracle
import pytest
import torch
from families import FAMILIES
from torch import Tensor

from steering.decoders import KeptRow, NewRow
from steering.directions import Direction
from steering.errors import DirectionError
from steering.models import ChatModel
from steering.module_decoder import ModuleDecoder
from steering.variants import Dial, Variant

Tiny = Callable[[str], ChatModel]
QUESTIONS = ("Why is the sky blue?", "Tell me about the sea, and about the boats that are on it.", "Hm?")


def rows_of(chat: ChatModel) -> list[NewRow]:
    """A row plain, one ablated, one added to; of different lengths, and one of them unobserved."""
    direction = oracle.make_direction(chat, 1, length=6.0)
    variants = (Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.5))
    probes: tuple[Direction | None, ...] = (direction, direction, None)
    prompts = [chat.encode([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [NewRow(*one) for one in zip(prompts, variants, probes, strict=True)]


def follow(decoder: ModuleDecoder, logits: Tensor, n: int) -> tuple[list[list[int]], Tensor]:
    """Greedy tokens of every row, and the logits behind the last."""
    found = []
    for _ in range(n):
        newest = logits.argmax(dim=-1)
        found.append(newest.tolist())
        logits = decoder.step(newest)
    return found, logits


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_with_more_and_less_and_nothing_kept_join_together(name: str, tiny: Tiny) -> None:
    """What is kept is longer than a narrow window, and what is left of the prompts differs in length."""
    chat = tiny(name)
    new = rows_of(chat)
    decoder = ModuleDecoder(chat)
    follow(decoder, decoder.join(new), 12)
    kept = [decoder.kept(row) for row in range(3)]
    assert [len(row.tokens) for row in kept] == [len(row.prompt) + 12 for row in new]
    extra = new[1].prompt[:9]
    prompts = [kept[0].tokens + extra, kept[1].tokens + extra[:4], kept[2].tokens[:-3] + extra, new[0].prompt]
    rows = [*new, new[0]]
    given: list[KeptRow | None] = [*kept, None]
    joined = ModuleDecoder(chat)
    again = [NewRow(prompt, row.variant, row.probe, one) for prompt, row, one in zip(prompts, rows, given, strict=True)]
    unread = [len(one.prompt) - one.kept.reusable(one.prompt) for one in again if one.kept is not None]
    assert unread == [9, 4, 9]
    whole = ModuleDecoder(chat)
    anew = [NewRow(one.prompt, one.variant, one.probe) for one in again]
    found, expected = joined.join(again), whole.join(anew)
    close(found, expected)
    close(joined.cosines(), whole.cosines())
    assert not joined.cosines()[2].any()  # a row without a probe
    close(follow(joined, found, 3)[1], follow(whole, expected, 3)[1])
    for row in range(4):
        one, other = joined.kept(row), whole.kept(row)
        assert one.tokens == other.tokens
        for a, b in zip(one.keys + one.values, other.keys + other.values, strict=True):
            close(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_taken_go_on_as_those_that_stay(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    decoder = ModuleDecoder(chat)
    logits = decoder.join(rows_of(chat))
    logits = follow(decoder, logits, 2)[1]
    taken = decoder.taken([2, 0])
    assert (taken.n_rows, decoder.n_rows) == (2, 3)
    found = follow(taken, logits[[2, 0]], 4)
    expected = follow(decoder, logits, 4)
    assert found[0] == [[step[2], step[0]] for step in expected[0]]
    close(found[1], expected[1][[2, 0]])
    close(taken.cosines(), decoder.cosines()[[2, 0]])
    assert taken.kept(0).pieces == decoder.kept(2).pieces
    decoder.leave([1])  # the longest: the padding of the others goes with it
    close(follow(decoder, expected[1][[0, 2]], 2)[1], follow(taken, found[1], 2)[1][[1, 0]])
    decoder.leave([0, 1])
    assert decoder.n_rows == 0
    late = rows_of(chat)
    close(decoder.join(late), ModuleDecoder(chat).join(late))


@pytest.mark.parametrize("name", ["llama3", "gemma2-narrow", "cohere", "gpt-neox", "mixtral"])
def test_a_pass_that_fails_has_changed_nothing(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    new = rows_of(chat)
    decoder, other = ModuleDecoder(chat), ModuleDecoder(chat)
    logits = follow(decoder, decoder.join(new), 2)[1]
    expected = follow(other, other.join(new), 2)[1]
    for block in oracle.parts(chat.model).blocks:

        def fail(*_: object) -> None:
            raise RuntimeError("broken")

        handle = block.register_forward_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="broken"):
                decoder.step(logits.argmax(dim=-1))
            with pytest.raises(RuntimeError, match="broken"):
                decoder.join(new)
        finally:
            handle.remove()
        assert decoder.n_rows == 3
    foreign = replace(oracle.make_direction(chat), card={"n_layers": 99})
    with pytest.raises(DirectionError):
        decoder.change(0, Variant.ablated(foreign))
    with pytest.raises(DirectionError):
        decoder.join([NewRow([5, 6], Variant.baseline(), foreign)])
    assert oracle.count_hooks(chat.model) == 0
    found, wanted = follow(decoder, logits, 3), follow(other, expected, 3)
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])
    assert decoder.kept(1).tokens == other.kept(1).tokens


def test_what_is_done_to_a_row_changes_from_the_next_token_on(tiny: Tiny) -> None:
    chat = tiny("gemma3")
    new, dial = rows_of(chat), Dial(0.0)
    direction = oracle.make_direction(chat, 1, length=6.0)
    decoder, dialled = ModuleDecoder(chat), ModuleDecoder(chat)
    logits = decoder.join(new)
    expected = dialled.join([NewRow(new[0].prompt, Variant.added(direction, dial), direction), *new[1:]])
    close(logits, expected)
    dial.value = 2.0
    decoder.change(0, Variant.added(direction, 2.0))
    close(follow(decoder, logits, 4)[1], follow(dialled, expected, 4)[1])
    close(decoder.cosines(), dialled.cosines())


def test_without_padding_no_mask_is_made(tiny: Tiny) -> None:
    """The plain causal path is faster; it is gone back to when a longer row leaves."""
    chat = tiny("llama3")
    new = rows_of(chat)
    seen: list[bool] = []
    body = chat.model.model
    handle = body.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("attention_mask") is not None), with_kwargs=True
    )
    try:
        decoder = ModuleDecoder(chat)
        decoder.join([new[0], new[0]])
        decoder.step(torch.tensor([5, 6]))
        decoder.join([new[1]])
        decoder.step(torch.tensor([5, 6, 7]))
        decoder.leave([2])
        decoder.step(torch.tensor([5, 6]))
    finally:
        handle.remove()
    assert seen == [False, False, False, True, False]
