"""Trees of prompts: every sequence is one path, and sees itself alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from steering.prompt_trees import prompt_tree

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
