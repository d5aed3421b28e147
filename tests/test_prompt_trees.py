"""Trees of prompts: every sequence is one path, and sees itself alone."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steering.prompt_trees import (
    RUN,
    WORTH_LEAVING_OUT,
    PromptTree,
    SparseMask,
    first_tree,
    prompt_tree,
    prompt_trees,
)

sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=8)


@given(sequences)
def test_each_path_is_its_sequence_and_sees_only_itself(prompts: list[list[int]]) -> None:
    tree = prompt_tree(prompts)
    for prompt, path in zip(prompts, tree.paths, strict=True):
        assert tree.ids[path].tolist() == prompt
        assert tree.depths[path].tolist() == list(range(len(prompt)))
        for depth, node in enumerate(path):
            assert tree.sees[node].nonzero()[:, 0].tolist() == path[: depth + 1]
    assert tree.ends.tolist() == [path[-1] for path in tree.paths]
    assert tree.longest == max(map(len, prompts))


@given(sequences)
def test_a_node_stands_for_a_beginning_once(prompts: list[list[int]]) -> None:
    beginnings = {tuple(prompt[: i + 1]) for prompt in prompts for i in range(len(prompt))}
    assert len(prompt_tree(prompts)) == len(beginnings)


def test_the_mask_blocks_what_is_not_seen_and_what_is_beyond_the_window() -> None:
    tree = prompt_tree([[1, 2, 3], [1, 4]])
    blocked = tree.mask(torch.float32)[0, 0] < 0
    assert blocked.tolist() == (~tree.sees).tolist()
    narrow = tree.mask(torch.float32, window=2)[0, 0] == 0
    assert narrow.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [True, False, False, True],
    ]


# ---------------------------------------------------------------- packing into several trees


@given(st.lists(sequences, max_size=6), st.integers(1, 20))
def test_items_are_packed_in_order_and_stay_whole(items: list[list[list[int]]], most: int) -> None:
    packed = prompt_trees(items, most)
    assert [index for indices, _ in packed for index in indices] == list(range(len(items)))
    for indices, tree in packed:
        inside = [sequence for index in indices for sequence in items[index]]
        alone = prompt_tree(inside)
        assert tree.ids.tolist() == alone.ids.tolist()
        assert tree.paths == alone.paths
        assert torch.equal(tree.sees, alone.sees)
        assert torch.equal(tree.depths, alone.depths)
        assert len(tree) <= most or len(indices) == 1
    for (indices, _), (following, _) in pairwise(packed):  # the next item would have been too much
        inside = [sequence for index in [*indices, following[0]] for sequence in items[index]]
        assert len(prompt_tree(inside)) > most


@given(sequences, st.integers(1, 20))
def test_the_first_tree_takes_as_many_as_it_may(prompts: list[list[int]], most: int) -> None:
    n, tree = first_tree(prompts, most)
    [(indices, expected), *_] = prompt_trees([[prompt] for prompt in prompts], most)
    assert n == len(indices)
    assert tree.ids.tolist() == expected.ids.tolist()
    assert tree.paths == expected.paths


# ---------------------------------------------------------------- attention that leaves out what is blocked


def a_tree(seed: int, n: int = 24) -> PromptTree:
    """Sequences with a common beginning, long enough that most of the products are blocked."""
    random = Random(seed)
    beginning = [9] * random.randint(0, 5)
    return prompt_tree([beginning + [random.randrange(3) for _ in range(random.randint(1, 20))] for _ in range(n)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_attention_in_runs_equals_attention_with_the_mask(
    seed: int, window: int | None, heads: int, kv_heads: int
) -> None:
    tree = a_tree(seed)
    mask = tree.mask(torch.float64, window)
    sparse = SparseMask.over(mask)
    assert isinstance(sparse, SparseMask), "the tree is meant to be one in which much is left out"
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(2, n, len(tree), width, dtype=torch.float64, generator=generator)
        for n, width in ((heads, 8), (kv_heads, 8), (kv_heads, 6))
    )
    options = {"scale": 0.3, "enable_gqa": heads != kv_heads}
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    found = scaled_dot_product_attention(query, key, value, attn_mask=sparse, **options)
    assert type(found) is Tensor
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_to_everything_else_it_is_an_ordinary_mask() -> None:
    mask = a_tree(0).mask(torch.float32)
    sparse = SparseMask.over(mask)
    for found, expected in (
        (sparse + 1, mask + 1),
        (sparse[:, :, 1:, :5], mask[:, :, 1:, :5]),
        (sparse.to(torch.float64), mask.double()),
        (torch.softmax(sparse, dim=-1), torch.softmax(mask, dim=-1)),
    ):
        assert type(found) is Tensor
        assert torch.equal(found, expected)


def test_where_little_would_be_left_out_the_mask_stays() -> None:
    mask = prompt_tree([list(range(30))]).mask(torch.float32)  # one sequence: half of all is seen
    assert SparseMask.over(mask) is mask


def test_with_runs_it_is_less_work() -> None:
    """Not by the clock: the products are counted."""
    tree = a_tree(1, n=60)
    sparse = SparseMask.over(tree.mask(torch.float32))
    assert isinstance(sparse, SparseMask)
    assert sparse._queries.shape[1] == RUN
    assert sparse._queries.numel() * sparse._keys.shape[1] <= WORTH_LEAVING_OUT * len(tree) ** 2
