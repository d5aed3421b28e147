"""Keys and values put together and taken apart, against the tensors they were made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steering.key_values import KeyValues

HEADS, WIDTH = 2, 3
LAYERS = 2


def row(length: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of one row, ``[heads, length, head_dim]`` a layer."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(2, HEADS, length, WIDTH, generator=generator)) for _ in range(LAYERS)]  # type: ignore[misc]


def batch(*rows: list[tuple[Tensor, Tensor]]) -> KeyValues:
    first, *others = [KeyValues([(k[None], v[None]) for k, v in layers], [layers[0][0].shape[1]]) for layers in rows]
    return first.joined_with(others)


def same(found: list[tuple[Tensor, Tensor]], expected: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(k, other_k) and torch.equal(v, other_v) for (k, v), (other_k, other_v) in pairs)


def test_rows_of_different_lengths_are_padded_on_the_left() -> None:
    rows = [row(length, seed) for seed, length in enumerate((3, 5, 1))]
    joined = batch(*rows)
    assert joined.width == 5
    assert joined.lengths == [3, 5, 1]
    assert all(same(joined.row(place), rows[place]) for place in range(3))
    for keys, values in joined.layers:
        assert keys.shape == (3, HEADS, 5, WIDTH)
        assert not keys[0, :, :2].any()
        assert not values[2, :, :4].any()


@pytest.mark.parametrize(("chosen", "width"), [([1], 5), ([2, 0], 3), ([2], 1), ([0, 1, 2], 5), ([], 0)])
def test_rows_taken_leave_the_padding_that_none_needs(chosen: list[int], width: int) -> None:
    rows = [row(length, seed) for seed, length in enumerate((3, 5, 1))]
    joined = batch(*rows)
    taken = joined.selected(chosen)
    assert taken.width == width
    assert taken.lengths == [joined.lengths[place] for place in chosen]
    assert all(same(taken.row(place), rows[one]) for place, one in enumerate(chosen))
    for keys, _ in taken.layers:
        keys.fill_(9.0)  # memory of their own
    assert all(same(joined.row(place), rows[place]) for place in range(3))


def test_copies_share_no_memory() -> None:
    joined = batch(row(3, 0), row(2, 1))
    for keys, values in joined.row(0):
        keys.zero_()
        values.zero_()
    assert same(joined.row(0), row(3, 0))


def test_a_pass_that_did_not_end_is_forgotten_in_the_layers_it_reached() -> None:
    joined = batch(row(3, 0), row(2, 1))
    joined.cache.update(torch.ones(2, HEADS, 1, WIDTH), torch.ones(2, HEADS, 1, WIDTH), layer_idx=0)
    assert [keys.shape[2] for keys, _ in joined.layers] == [4, 3]
    joined.crop(3)
    assert [keys.shape[2] for keys, _ in joined.layers] == [3, 3]
    assert same(joined.row(0), row(3, 0))
    assert same(joined.row(1), row(2, 1))


def test_a_pass_over_nothing_is_forgotten_whole() -> None:
    empty = KeyValues()
    assert empty.width == 0
    empty.cache.update(torch.ones(1, HEADS, 4, WIDTH), torch.ones(1, HEADS, 4, WIDTH), layer_idx=0)
    empty.crop(0)
    assert empty.width == 0
    empty.cache.update(torch.ones(1, HEADS, 2, WIDTH), torch.ones(1, HEADS, 2, WIDTH), layer_idx=0)
    assert empty.layers[0][0].shape == (1, HEADS, 2, WIDTH)
