"""What is kept between turns: for whom, under which condition, up to how many bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import oracle
import pytest
import torch

from steering.decoders import KeptRow
from steering.kept_rows import KeptRows, ReadingCondition, reading_condition, ready_for
from steering.models import ChatModel
from steering.neutral_means import NeutralMeans
from steering.variants import Ablation, Addition, AffineAblation, Capping, Dial, Variant

Tiny = Callable[[str], ChatModel]
PLAIN = ReadingCondition("model", ())


def kept(n_tokens: int = 4) -> KeptRow:
    """A row of 64 bytes a token: 2 layers, keys and values, 2 heads of 2 numbers."""
    layers = [torch.zeros(2, n_tokens, 2) for _ in range(4)]
    return KeptRow(list(range(n_tokens)), layers[:2], layers[2:], [0])


def test_the_least_recently_used_go_first() -> None:
    rows = {name: kept() for name in "abcd"}
    store = KeptRows(3 * rows["a"].nbytes)
    assert rows["a"].nbytes == 256
    for name in "abc":
        store.put("visitor", name, PLAIN, rows[name])
    assert store.take("visitor", "a", PLAIN) is rows["a"]
    store.put("visitor", "d", PLAIN, rows["d"])
    assert store.take("visitor", "b", PLAIN) is None
    assert [store.take("visitor", name, PLAIN) for name in "acd"] == [rows[name] for name in "acd"]
    assert store.nbytes == 3 * 256
    large = kept(9)
    store.put("visitor", "e", PLAIN, large)  # 576 bytes: two must go
    assert store.take("visitor", "e", PLAIN) is large
    assert [store.take("visitor", name, PLAIN) is None for name in "acd"] == [True, True, True]
    store.put("visitor", "e", PLAIN, kept(100))  # what does not fit leaves nothing, the old row neither
    assert store.take("visitor", "e", PLAIN) is None
    assert store.nbytes == 0


def test_owners_and_columns_are_kept_apart() -> None:
    store = KeptRows(10**6)
    rows = {(owner, name): kept() for owner in ("one", "two") for name in ("baseline", "added")}
    for (owner, name), row in rows.items():
        store.put(owner, name, PLAIN, row)
    again = kept(2)
    store.put("one", "added", PLAIN, again)
    assert store.take("one", "added", PLAIN) is again
    assert store.take("two", "added", PLAIN) is rows["two", "added"]
    assert store.nbytes == 3 * 256 + 128
    store.forget("one")
    store.forget("nobody")
    assert store.take("one", "baseline", PLAIN) is None
    assert store.take("two", "baseline", PLAIN) is rows["two", "baseline"]
    assert store.nbytes == 2 * 256


def test_a_row_is_given_for_the_same_condition_only(tiny: Tiny) -> None:
    chat, other = tiny("qwen3"), tiny("llama3")
    direction, twin = oracle.make_direction(chat, 1), oracle.make_direction(chat, 1)
    dial = Dial(1.0)
    variants = [
        Variant.baseline(),
        Variant.ablated(direction),
        Variant.ablated(twin),
        Variant.added(direction, 1.0),
        Variant.added(direction, 1.5),
        Variant.added(twin, 1.0),
        Variant("kept", [Addition(direction, 1.0, keep_norm=True)]),
        Variant("capped", [Capping(direction, 1.0)]),
        Variant("capped lower", [Capping(direction, 0.5)]),
        Variant("both", [Ablation(direction), Addition(direction, 1.0)]),
    ]
    conditions = [reading_condition(chat, variant) for variant in variants]
    conditions.append(reading_condition(other, variants[0]))
    assert len(set(conditions)) == len(conditions)
    assert [
        reading_condition(chat, replace(one, name="x", interventions=tuple(one.interventions))) for one in variants
    ] == (conditions[:-1])
    assert reading_condition(chat, Variant.added(direction, dial)) == conditions[3]
    dial.value = 1.5
    assert reading_condition(chat, Variant.added(direction, dial)) == conditions[4]
    store = KeptRows(10**6)
    row = kept()
    store.put("visitor", "added", conditions[3], row)
    assert store.take("visitor", "added", conditions[4]) is None
    assert store.take("visitor", "added", conditions[3]) is row


def test_a_variant_that_acts_on_the_answer_reads_its_prompt_as_it_is(tiny: Tiny) -> None:
    chat = tiny("qwen3")
    thinking = ChatModel(chat.model, chat.tokenizer, chat.name, chat.label, thinking=True)
    added = Variant.added(oracle.make_direction(chat, 1))
    by_acts = {acts: replace(added, acts=acts) for acts in ("thought", "answer")}
    assert reading_condition(thinking, by_acts["answer"]) == reading_condition(thinking, Variant.baseline())
    assert reading_condition(thinking, by_acts["thought"]) == reading_condition(thinking, added)
    assert reading_condition(chat, by_acts["answer"]) == reading_condition(chat, added)


@pytest.mark.parametrize(
    ("tokens", "pieces", "prompt", "expected"),
    [
        # The prompt was read at once, then three tokens of a reply; 9 is what follows.
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, 9, 9], 7),
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1, 2, 3, 4, 5, 9, 9], 5),
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1, 2, 3, 9], 0),
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1, 2, 3, 4, 9], 4),
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1, 2, 3, 4], 0),  # asked again: in one piece, as the first time
        ([1, 2, 3, 4, 5, 6, 7], [0, 2, 4, 5, 6], [1, 2, 3, 4], 2),
        ([1, 2, 3], [0], [1, 2, 3], 0),
        ([1, 2, 3], [0], [5, 2, 3], 0),
        ([1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6], [1], 0),
    ],
)
def test_a_row_is_gone_on_from_where_a_piece_ended(
    tokens: list[int], pieces: list[int], prompt: list[int], expected: int
) -> None:
    row = replace(kept(len(tokens)), tokens=tokens, pieces=pieces)
    assert row.reusable(prompt) == expected


def test_a_prompt_that_the_next_turn_takes_the_end_back_of_is_gone_on_from() -> None:
    """7 8 ends the user's turn and opens the reply's, 0 0 is an empty thought."""
    post = [7, 8, 0, 0]
    row = replace(kept(9), tokens=[1, 2, 3, 7, 8, 0, 0, 5, 5], pieces=[0, 7, 8])
    cut = ready_for(row, [1, 2, 3, 7, 8, 5, 5, 9], post)
    assert cut.tokens == [1, 2, 3, 7, 8]
    assert cut.pieces == [0]
    assert cut.keys[0].shape == (2, 5, 2)
    assert cut.reusable([1, 2, 3, 7, 8, 5, 5, 9]) == 5
    for prompt in ([1, 2, 3, 7, 8, 0, 0], [1, 2, 3, 7, 8, 0, 0, 5, 9], [1, 2, 4, 7, 8, 0, 0], [1, 2], [9]):
        assert ready_for(row, prompt, post) is row


def test_many_threads_may_use_it() -> None:
    store = KeptRows(20 * 256)
    together = threading.Barrier(8)

    def use(owner: int) -> None:
        together.wait(timeout=60)
        for turn in range(300):
            store.put(owner, str(turn % 7), PLAIN, kept())
            store.take((owner + 1) % 8, str(turn % 7), PLAIN)
            if turn % 50 == 49:
                store.forget(owner)
            assert store.nbytes <= 20 * 256

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert store.nbytes == 0


def test_an_affine_ablation_is_not_an_ablation(tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = oracle.make_direction(chat, 1)
    known = replace(
        direction, neutral=NeutralMeans.along(direction.unit[None], torch.ones(chat.n_layers, chat.d_model))
    )
    conditions = {reading_condition(chat, Variant("x", [act(known)])) for act in (Ablation, AffineAblation)}
    assert len(conditions) == 2
