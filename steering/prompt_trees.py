"""Many sequences of tokens as one, in which what several of them begin with stands once.

A forward pass over a tree costs its nodes and not the padded batch: prompts that share a template and their first words
are read once as far as they agree, and nothing is padding. Each node attends to the nodes on its own path from the root
and has its depth as its position, so that it sees exactly what it would see in its sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptTree:
    """Sequences packed into one tree.

    Attributes:
        ids: token of each node, int64 ``[n_nodes]``; a node comes after its parent.
        depths: position of each node in its sequences, int64 ``[n_nodes]``.
        sees: whether a node (row) attends to another (column), bool ``[n_nodes, n_nodes]``.
        paths: the nodes of each sequence, from its first token to its last.
    """

    ids: Tensor
    depths: Tensor
    sees: Tensor
    paths: list[list[int]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ends(self) -> Tensor:
        """The node of each sequence's last token, int64 ``[n_sequences]``."""
        return torch.tensor([path[-1] for path in self.paths])

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(path) for path in self.paths)

    def mask(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """``sees`` as an additive attention mask, ``[1, 1, n_nodes, n_nodes]``; with a window, no further back."""
        sees = self.sees
        if window is not None:
            sees = sees & (self.depths[:, None] - self.depths < window)
        return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[None, None]


class _Trie:
    """Nodes with their parents, as sequences are added."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, sequence: Sequence[int]) -> list[int]:
        """The nodes of ``sequence``, those that are new made."""
        node, path = -1, []
        for token in sequence:
            known = self._children.get((node, token))
            if known is None:
                known = self._children[node, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(node)
            node = known
            path.append(node)
        return path


def prompt_tree(sequences: Sequence[Sequence[int]]) -> PromptTree:
    """Pack ``sequences``, none of them empty; equal ones share every node."""
    trie = _Trie()
    paths = [trie.add(sequence) for sequence in sequences]
    n_nodes = len(trie.ids)
    depths = torch.zeros(n_nodes, dtype=torch.int64)
    sees = torch.eye(n_nodes, dtype=torch.bool)
    for node, parent in enumerate(trie.parents):
        if parent >= 0:
            depths[node] = depths[parent] + 1
            sees[node] |= sees[parent]
    return PromptTree(torch.tensor(trie.ids), depths, sees, paths)


def groups_for_trees(items: Sequence[Sequence[Sequence[int]]], most_nodes: int) -> list[list[int]]:
    """Which items, each of one or several sequences, go into one tree: indices, in order.

    A tree has at most ``most_nodes`` nodes, unless a single item has more.
    """
    groups: list[list[int]] = []
    trie = _Trie()
    for index, sequences in enumerate(items):
        before = len(trie.ids)
        for sequence in sequences:
            trie.add(sequence)
        if not groups or (before and len(trie.ids) > most_nodes):
            groups.append([])
            trie = _Trie()
            for sequence in sequences:
                trie.add(sequence)
        groups[-1].append(index)
    return groups
