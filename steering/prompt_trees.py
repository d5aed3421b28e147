"""Many sequences of tokens as one, in which what several of them begin with stands once.

A forward pass over a tree costs its nodes and not the padded batch: prompts that share a template and their first words
are read once as far as they agree, and nothing is padding. Each node attends to the nodes on its own path from the root
and has its depth as its position, so that it sees exactly what it would see in its sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

RUN = 24  # queries that meet their keys together; measured, and flat around it
# Attention in runs copies keys and values; it is faster where it computes at most this part of the products.
WORTH_LEAVING_OUT = 0.4


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


class SparseMask(Tensor):
    """An additive attention mask ``[1, 1, n, n]`` under which torch's attention leaves out most of what it blocks.

    A node of a tree sees its own path only, a small part of all nodes. The nodes are taken in runs of :data:`RUN`, each
    of which meets just those keys that one of its nodes sees. To everything else this is an ordinary tensor.

    The class hooks into :func:`torch.nn.functional.scaled_dot_product_attention` by torch's ``__torch_function__``
    protocol, so a model needs no change, and one that attends in another way works with the same numbers.
    """

    _queries: Tensor  # [runs, RUN]: the nodes of each run; the last run is filled up with the last node
    _keys: Tensor  # [runs, most]: what each run meets; runs with fewer are filled up with nodes they do not see
    _mask: Tensor  # [runs, 1, RUN, most]

    @classmethod
    def over(cls, mask: Tensor) -> Tensor:
        """``mask``, an additive one ``[1, 1, n, n]``, as one of these, or as it is if little would be gained.

        Much is gained on a CPU (measured); a GPU does all products of a thousand nodes at once.
        """
        if not mask.is_cpu:
            return mask
        n = mask.shape[-1]
        sees = mask[0, 0] > torch.finfo(mask.dtype).min / 2
        queries = torch.arange(-(-n // RUN) * RUN, device=mask.device).clamp_max(n - 1).view(-1, RUN)
        met = sees[queries].any(dim=1)
        most = int(met.sum(dim=1).max())
        if queries.numel() * most > WORTH_LEAVING_OUT * n * n:
            return mask
        keys = met.sort(dim=1, descending=True, stable=True).indices[:, :most]
        self = mask.as_subclass(cls)
        self._queries, self._keys = queries, keys
        self._mask = mask[0, 0, queries[:, :, None], keys[:, None, :]][:, None]
        return self

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        mask = kwargs.get("attn_mask")
        with torch._C.DisableTorchFunctionSubclass():
            if function is scaled_dot_product_attention and isinstance(mask, SparseMask):
                return mask._attend(*args, **kwargs)
            return function(*args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **rest: Any) -> Tensor:
        """Attention, ``[rows, heads, n, width]`` as its query."""
        rows, _, n, _ = query.shape

        def in_runs(x: Tensor, nodes: Tensor) -> Tensor:
            """``[rows, heads, n, width]`` to ``[rows · runs, heads, nodes of a run, width]``."""
            by_node = x.transpose(1, 2).reshape(rows, n, -1).index_select(1, nodes.flatten())
            return by_node.view(-1, nodes.shape[1], x.shape[1], x.shape[3]).transpose(1, 2)

        attended = scaled_dot_product_attention(
            in_runs(query, self._queries),
            in_runs(key, self._keys),
            in_runs(value, self._keys),
            attn_mask=self._mask.repeat(rows, 1, 1, 1),
            **rest,
        )
        by_node = attended.transpose(1, 2).reshape(rows, -1, query.shape[1], value.shape[3])
        return by_node[:, :n].transpose(1, 2)


class _Trie:
    """Nodes with their parents, and the path of each sequence, as sequences are added."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.paths: list[list[int]] = []
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, sequences: Sequence[Sequence[int]]) -> None:
        for sequence in sequences:
            node, path = -1, []
            for token in sequence:
                known = self._children.get((node, token))
                if known is None:
                    known = self._children[node, token] = len(self.ids)
                    self.ids.append(token)
                    self._parents.append(node)
                node = known
                path.append(node)
            self.paths.append(path)

    def tree(self, n_paths: int | None = None) -> PromptTree:
        """The tree of the first ``n_paths`` sequences, by default of all."""
        paths = self.paths[:n_paths]
        n_nodes = 1 + max(max(path) for path in paths)  # nodes are numbered as they are added
        depths = torch.zeros(n_nodes, dtype=torch.int64)
        sees = torch.eye(n_nodes, dtype=torch.bool)
        for node, parent in enumerate(self._parents[:n_nodes]):
            if parent >= 0:
                depths[node] = depths[parent] + 1
                sees[node] |= sees[parent]
        return PromptTree(torch.tensor(self.ids[:n_nodes]), depths, sees, paths)


def prompt_tree(sequences: Sequence[Sequence[int]]) -> PromptTree:
    """Pack ``sequences``, none of them empty; equal ones share every node."""
    trie = _Trie()
    trie.add(sequences)
    return trie.tree()


def prompt_trees(items: Sequence[Sequence[Sequence[int]]], most_nodes: int) -> list[tuple[list[int], PromptTree]]:
    """Pack items, each of one or several sequences that stay together, into as few trees as their order allows.

    Returns:
        For each tree the indices of its items, and the tree, whose paths are those of the items' sequences in turn. It
        has at most ``most_nodes`` nodes, unless a single item has more.
    """
    packed: list[tuple[list[int], PromptTree]] = []
    trie = _Trie()
    indices: list[int] = []
    for index, sequences in enumerate(items):
        n_paths = len(trie.paths)
        trie.add(sequences)
        if indices and len(trie.ids) > most_nodes:
            packed.append((indices, trie.tree(n_paths)))
            trie, indices = _Trie(), []
            trie.add(sequences)
        indices.append(index)
    if indices:
        packed.append((indices, trie.tree()))
    return packed


def first_tree(sequences: Sequence[Sequence[int]], most_nodes: int) -> tuple[int, PromptTree]:
    """Pack as many of the first ``sequences`` as ``most_nodes`` nodes hold, but at least one.

    Returns:
        How many they are, and their tree.
    """
    trie = _Trie()
    for n, sequence in enumerate(sequences):
        trie.add([sequence])
        if n and len(trie.ids) > most_nodes:
            return n, trie.tree(n)
    return len(sequences), trie.tree()
