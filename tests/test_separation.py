"""How well candidates separate held-out examples, against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import oracle
import pytest
import torch
from families import FAMILIES

from steering.contrast import ContrastSet, Example
from steering.directions import Candidates, difference_in_means
from steering.errors import SteeringError
from steering.models import ChatModel
from steering.separation import Separation, separation

Tiny = Callable[[str], ChatModel]


def contrast(positive: list[str], negative: list[str]) -> ContrastSet:
    def example(text: str) -> Example:
        question, _, response = text.partition(" | ")
        return Example(({"role": "user", "content": question},), response or None)

    return ContrastSet.from_examples("test", [*map(example, positive)], [*map(example, negative)])


TRAIN = contrast(["The sea is cold.", "A boat with a sail.", "Is it wide?"], ["Make tea.", "Why is the sky blue?"])
HELD_OUT = contrast(
    ["The sea is wide", "A red boat", "Waves?", "Harbour."], ["A soup", "My brother is here", "Help me."]
)
TRAIN_REPLIES = contrast(
    ["Hi | The sea is cold", "Tell me. | A boat"], ["Hi | Tea", "Tell me. | A bicycle stays upright."]
)
HELD_OUT_REPLIES = contrast(["Why? | The sea", "So? | The waves, the harbour"], ["Why? | Soup", "So? | I cannot help."])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("train", "held_out"), [(TRAIN, HELD_OUT), (TRAIN_REPLIES, HELD_OUT_REPLIES)])
def test_separation_equals_counting_pairs(name: str, train: ContrastSet, held_out: ContrastSet, tiny: Tiny) -> None:
    chat = tiny(name)
    candidates = difference_in_means(chat, train)
    found = separation(chat, candidates, held_out)
    n_after = len(candidates.positions)
    assert found.positions == candidates.positions
    assert found.total == len(held_out.positive) + len(held_out.negative)

    def streams(side: list[Example]) -> list[torch.Tensor]:
        read = []
        for example in side:
            prompt = chat.encode(list(example.messages))
            if example.response is None:
                read.append(oracle.hidden_states(chat, prompt)[:, -n_after:])
            else:
                reply = chat.tokenizer(example.response, add_special_tokens=False)["input_ids"]
                stream = oracle.hidden_states(chat, prompt + reply)[:, len(prompt) :]
                read.append(stream.mean(dim=1, keepdim=True))
        return read

    positive, negative = streams(held_out.positive), streams(held_out.negative)
    compared = 0
    for row, layer in product(range(n_after), range(chat.n_layers)):
        vector = candidates.vectors[row, layer].double()
        if vector.norm() < 1e-4:
            assert math.isnan(found.auroc[row, layer])
            assert found.right[row, layer] == 0
            continue
        unit = vector / vector.norm()
        high = [float(stream[layer, row] @ unit) for stream in positive]
        low = [float(stream[layer, row] @ unit) for stream in negative]
        middle = sum(
            float(side.means[row, layer].double() @ unit) for side in (candidates.positive, candidates.negative)
        )
        right = sum(value > middle / 2 for value in high) + sum(value < middle / 2 for value in low)
        pairs = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in product(high, low)]
        spread = math.sqrt((np.var(high) + np.var(low)) / 2)
        assert found.auroc[row, layer] == pytest.approx(sum(pairs) / len(pairs))
        assert found.right[row, layer] == right
        assert found.gap[row, layer] == pytest.approx((np.mean(high) - np.mean(low)) / spread, rel=1e-2, abs=1e-2)
        compared += 1
    assert compared >= 2


def test_a_separable_idea_is_separated(tiny: Tiny) -> None:
    """Sides that differ by their last words, in a model whose last position sees them."""
    chat = tiny("llama3")
    words = ["duck", "reed", "river", "boat", "sail", "moon", "letter", "walk"]
    train = contrast([f"{word} sea sea sea" for word in words[:4]], [f"{word} 42 42 42" for word in words[:4]])
    held_out = contrast([f"{word} sea sea sea" for word in words[4:]], [f"{word} 42 42 42" for word in words[4:]])
    found = separation(chat, difference_in_means(chat, train), held_out)
    assert found.auroc[-1, 1] == 1.0
    assert found.right[-1, 1] == found.total == 8
    swapped = replace(held_out, positive=held_out.negative, negative=held_out.positive)
    found = separation(chat, difference_in_means(chat, train), swapped)
    assert found.auroc[-1, 1] == 0.0


def made(auroc: list[list[float]], gap: list[list[float]] | None = None) -> Separation:
    values = np.array(auroc)
    gaps = np.zeros_like(values) if gap is None else np.array(gap)
    return Separation(values, np.zeros(values.shape, dtype=np.int64), 8, gaps, list(range(-len(values), 0)))


def test_the_suggestion_is_the_best_of_the_middle_layers() -> None:
    row = [0.5] * 10
    row[1], row[9], row[4] = 1.0, 1.0, 0.9  # the best of all lie too early and too late
    assert made([[0.5] * 10, row]).suggested() == (-1, 4)
    assert made([row, [0.5] * 10]).suggested() == (-2, 4)


def test_ties_go_to_the_widest_gap() -> None:
    auroc = [[0.5] * 3 + [0.98, 1.0, 1.0] + [0.5] * 4] * 2
    gap = [[0.0] * 4 + [2.0, 1.0] + [9.0] * 4, [0.0] * 4 + [1.5, 3.0] + [9.0] * 4]
    assert made(auroc, gap).suggested() == (-1, 5)


def test_places_without_a_candidate_are_passed_over() -> None:
    nan = math.nan
    assert made([[nan] * 10, [nan] * 5 + [0.2] + [nan] * 4]).suggested() == (-1, 5)
    with pytest.raises(SteeringError, match="do not differ at any middle layer"):
        made([[nan] * 10]).suggested()


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (1, {0}),
        (2, {1}),
        (3, {1}),
        (4, {2}),
        (5, {2}),
        (10, {3, 4, 5}),
        (16, set(range(5, 9))),
        (30, set(range(9, 18))),
    ],
)
def test_where_a_suggestion_may_lie(n_layers: int, expected: set[int]) -> None:
    """From 0.3 of the depth up to 0.6; the layer in front of the first block only where there is no other."""
    found = set()
    for layer in range(n_layers):
        row = [0.6] * n_layers
        row[layer] = 0.9
        found.add(made([row]).suggested()[1])
    assert found == expected


def test_progress_is_reported(tiny: Tiny) -> None:
    chat = tiny("llama3")
    candidates: Candidates = difference_in_means(chat, TRAIN)
    reports: list[tuple[str, float, float]] = []
    separation(chat, candidates, HELD_OUT, progress=lambda *report: reports.append(report))
    assert reports[-1][1:] == (7, 7)
