"""Subspaces: their rows against the slow way, what chance leaves, their effect, and how many are enough."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from families import FAMILIES
from test_scoring import (
    CHECK,
    CHECK_REPLIES,
    TOKENS,
    TRAIN,
    TRAIN_REPLIES,
    contrast,
    plain_prompt_scores,
    plain_response_scores,
)
from torch import Tensor

from steering.activations import RESPONSE
from steering.contrast import ContrastSet, Example
from steering.directions import Direction, difference_in_means
from steering.effect_curve import KEffect, default_k, effect_curve
from steering.errors import Cancelled, DirectionError, OutOfMemoryError, SteeringError
from steering.figures import Figure
from steering.interventions import AffineAblation, Steering, Variant
from steering.metrics import FirstTokens
from steering.models import ChatModel, load_model
from steering.preparation import Prepared
from steering.progress import Tick, no_tick
from steering.remainders import length_without_chance
from steering.scoring import BYPASS, INDUCE, KL, Scorer, Step, Unsteered, response_sequence, scorer_for
from steering.subspace import COMPONENTS, DIFFERENCES, LARGEST_K, Subspace, pca_subspace, subspace

Tiny = Callable[[str], ChatModel]

PAIRED_REPLIES = contrast(
    ["Hi | The sea is cold", "Tell me. | A boat", "Why? | The waves are never still"],
    ["Hi | Tea", "Tell me. | A bicycle stays upright.", "Why? | A soup with beans"],
    paired=True,
)
# Two pairs, and one positive and two negative examples without a partner.
MIXED_REPLIES = ContrastSet.from_examples(
    "test",
    [*PAIRED_REPLIES.positive[:2], Example(({"role": "user", "content": "So?"},), "The harbour was quiet")],
    [
        Example(({"role": "user", "content": "And?"},), "Boil the water"),
        *PAIRED_REPLIES.negative[:2],
        Example(({"role": "user", "content": "But?"},), "It steers into the fall"),
    ],
)
SETS = {"prompts": TRAIN, "unpaired": TRAIN_REPLIES, "paired": PAIRED_REPLIES, "mixed": MIXED_REPLIES}


def ready(train: ContrastSet, check: ContrastSet | None = None) -> Prepared:
    """By default with other examples to check with."""
    check = check or (CHECK_REPLIES if train.has_responses else CHECK)
    tokens = None if train.has_responses else FirstTokens(TOKENS, ("a", "b"), "for this test")
    return Prepared(train, check, tokens, False, 0, train, False)


def direction_of(chat: ChatModel, data: ContrastSet, layer: int = 2, *, projected: bool = False) -> Direction:
    """The candidate at the last position, or over the responses."""
    position = RESPONSE if data.has_responses else -1
    return difference_in_means(chat, data).direction(position, layer, projected=projected)


# --- the slow way ---------------------------------------------------------------------------------------------------


def streams(chat: ChatModel, name: str, side: Sequence[Example], removed: Tensor | None) -> Tensor:
    """Each example at every layer with ``removed`` ablated, float64 ``[n_examples, n_layers, d_model]``."""
    twin, read = oracle.float64_twin(chat.model), []
    for example in side:
        prompt, reply = chat.encode(list(example.messages)), []
        if example.response is not None:
            prompt, reply = response_sequence(chat, example)
        with torch.no_grad(), oracle.by_hand(twin, name, {}, removed), oracle.watched(twin) as seen:
            twin(input_ids=torch.tensor([prompt + reply]), use_cache=False)
        layers = torch.cat(seen[:-1])
        read.append(layers[:, len(prompt) :].mean(dim=1) if reply else layers[:, -1])
    return torch.stack(read)


def without_span(vector: Tensor, rows: Tensor) -> Tensor:
    """``vector`` less its projection on the span of ``rows``, by least squares."""
    return vector - rows.T @ torch.linalg.lstsq(rows.T, vector[:, None]).solution[:, 0]


def neutral_span(chat: ChatModel, name: str, data: ContrastSet) -> Tensor:
    """What responses' directions are centred by: of three layers' unit means the two main axes."""
    means = streams(chat, name, data.negative, None).mean(dim=0)
    units = means / means.norm(dim=-1, keepdim=True)
    eigenvectors = torch.linalg.eigh(units.T @ units).eigenvectors  # in ascending order
    return eigenvectors[:, -(len(means) - 1) :].T


def plain_rows(chat: ChatModel, name: str, data: ContrastSet, layer: int, k: int) -> tuple[Tensor, list[float]]:
    """The rows and what is left before each, as a part of ‖r‖, from one prompt at a time in float64."""
    rows: list[Tensor] = []
    lengths: list[float] = []
    norm = 0.0
    for _ in range(k):
        removed = torch.stack(rows) if rows else None
        sides = [streams(chat, name, side, removed)[:, layer].mean(dim=0) for side in (data.positive, data.negative)]
        difference = sides[0] - sides[1]
        norm = norm or float(difference.norm())
        if data.has_responses:
            difference = without_span(difference, neutral_span(chat, name, data))
        lengths.append(float(difference.norm()) / norm)
        rows.append(difference / difference.norm())
    return torch.stack(rows), lengths


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["prompts", "unpaired"])
def test_rows_equal_the_plain_loop(name: str, kind: str, tiny: Tiny) -> None:
    chat, data = tiny(name), SETS[kind]
    made = subspace(chat, ready(data), direction_of(chat, data), k_max=3, batch_size=2)
    rows, lengths = plain_rows(chat, name, data, layer=2, k=3)
    torch.testing.assert_close(made.basis.double(), rows, atol=1e-3, rtol=0)
    assert made.lengths == pytest.approx(lengths, rel=1e-3)
    assert oracle.count_hooks(chat.model) == 0


@pytest.mark.parametrize("kind", ["paired", "mixed"])
def test_pairs_change_nothing_of_the_rows(kind: str, tiny: Tiny) -> None:
    chat, data = tiny("qwen2"), SETS[kind]
    made = subspace(chat, ready(data), direction_of(chat, data), k_max=3)
    rows, lengths = plain_rows(chat, "qwen2", data, layer=2, k=3)
    torch.testing.assert_close(made.basis.double(), rows, atol=1e-3, rtol=0)
    assert made.lengths == pytest.approx(lengths, rel=1e-3)


# --- what a subspace is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [subspace, pca_subspace])
@pytest.mark.parametrize("kind", SETS)
def test_rows_are_orthonormal(make: Callable[..., Subspace], kind: str, tiny: Tiny) -> None:
    chat, data = tiny("gemma2"), SETS[kind]
    direction = direction_of(chat, data)
    made = make(chat, ready(data), direction, k_max=4)
    assert made.basis.dtype == torch.float32
    assert made.basis.shape == (made.k_max, chat.d_model)
    torch.testing.assert_close(made.basis @ made.basis.T, torch.eye(made.k_max), atol=1e-6, rtol=0)
    assert len(made.lengths) == len(made.remainders) == made.k_max
    if make is subspace:
        assert made.k_max == 4
        assert torch.equal(made.basis[0], direction.ablation_unit)


def test_no_row_touches_what_the_first_leaves_alone(tiny: Tiny) -> None:
    chat = tiny("llama3")
    centred = subspace(chat, ready(TRAIN_REPLIES), direction_of(chat, TRAIN_REPLIES), k_max=3)
    span = neutral_span(chat, "llama3", TRAIN_REPLIES)
    assert float((centred.basis.double() @ span.T).abs().max()) < 1e-5
    projected = subspace(chat, ready(TRAIN), direction_of(chat, TRAIN, projected=True), k_max=3)
    mean = streams(chat, "llama3", TRAIN.negative, None)[:, 2].mean(dim=0)
    assert float((projected.basis.double() @ (mean / mean.norm())).abs().max()) < 1e-5


def test_rows_of_a_plain_direction_are_not_centred(tiny: Tiny) -> None:
    chat = tiny("llama3")
    plain = direction_of(chat, TRAIN_REPLIES).plain()
    made = subspace(chat, ready(TRAIN_REPLIES), plain, k_max=2)
    assert torch.equal(made.basis[0], plain.unit)
    sides = [
        streams(chat, "llama3", side, plain.unit[None])[:, 2].mean(dim=0)
        for side in (TRAIN_REPLIES.positive, TRAIN_REPLIES.negative)
    ]
    left = sides[0] - sides[1]
    torch.testing.assert_close(made.basis[1].double(), left / left.norm(), atol=1e-3, rtol=0)
    assert made.lengths[0] == pytest.approx(1, abs=1e-5)


def test_before_the_first_block_one_row_is_all(tiny: Tiny) -> None:
    """There the stream is the embedding, and ablating the difference leaves nothing that could rebuild it."""
    chat = tiny("llama3")
    plain = direction_of(chat, TRAIN_REPLIES, layer=0).plain()
    made = subspace(chat, ready(TRAIN_REPLIES), plain, k_max=5)
    assert made.k_max == 1


def test_k_directions_as_one(tiny: Tiny, tmp_path: Path) -> None:
    chat, data = tiny("llama3"), PAIRED_REPLIES
    direction = direction_of(chat, data)
    made = subspace(chat, ready(data), direction, k_max=3)
    means = streams(chat, "llama3", data.negative, None).mean(dim=0)
    for k in (1, 2, 3):
        of_k = made.direction(k)
        assert torch.equal(of_k.ablation_basis, made.basis[:k])
        assert torch.equal(of_k.vector, direction.vector)
        assert (of_k.layer, of_k.position, of_k.name) == (direction.layer, direction.position, direction.name)
        about = json.loads(json.dumps(of_k.card["subspace"], allow_nan=False))
        assert (about["k"], about["method"]) == (k, DIFFERENCES)
        assert about["remainders"][1] == made.remainders[1].as_card()
        loaded = Direction.load(of_k.save(tmp_path / f"{k}.safetensors"), chat)
        assert torch.equal(loaded.ablation_basis, of_k.ablation_basis)
        projections = loaded.neutral_projections
        assert projections is not None
        torch.testing.assert_close(projections.double(), means @ made.basis[:k].double().T, atol=1e-4, rtol=1e-4)
        Steering(chat, [Variant("affine", [AffineAblation(loaded)])])
    assert "subspace" not in direction.card


@pytest.mark.parametrize("k", [0, 4, -1])
def test_directions_with_other_numbers_of_rows_are_refused(k: int, tiny: Tiny) -> None:
    chat = tiny("llama3")
    made = subspace(chat, ready(TRAIN), direction_of(chat, TRAIN), k_max=3)
    with pytest.raises(DirectionError, match=rf"has 3 dimensions, so {k} of them cannot be ablated"):
        made.direction(k)


@pytest.mark.parametrize("make", [subspace, pca_subspace])
def test_what_cannot_be_made_is_refused(make: Callable[..., Subspace], tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = direction_of(chat, TRAIN)
    for k_max in (0, LARGEST_K + 1):
        with pytest.raises(SteeringError, match=f"from 1 to 8 dimensions, not {k_max}"):
            make(chat, ready(TRAIN), direction, k_max)
    with pytest.raises(DirectionError, match="position -1, which this set does not have: its positions are \\[0\\]"):
        make(chat, ready(TRAIN_REPLIES), direction, 2)
    swapped = replace(TRAIN, positive=TRAIN.negative, negative=TRAIN.positive)
    with pytest.raises(DirectionError, match=r"not the difference in means of these examples: their cosine is -1\.00"):
        make(chat, ready(swapped), direction, 2)
    wide = replace(direction, vector=torch.ones(8), ablation_basis=torch.eye(8)[:1], neutral=None)
    with pytest.raises(DirectionError, match="model of width 8"):
        make(chat, ready(TRAIN), wide, 2)


@pytest.mark.parametrize("make", [subspace, pca_subspace])
def test_cancelling_ends_it_at_the_next_batch(make: Callable[..., Subspace], tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = direction_of(chat, TRAIN)
    told: list[tuple[str, float, float]] = []
    make(chat, ready(TRAIN), direction, 3, batch_size=2, progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert {(what, total) for what, _, total in told} == {("Reading what is left", 3)}
    assert (told[0][1], told[-1][1]) == (0, 3)
    for stop in range(len(told)):
        seen: list[float] = []

        def progress(what: str, done: float, total: float, seen: list[float] = seen, stop: int = stop) -> None:
            seen.append(done)
            if len(seen) > stop:
                raise Cancelled("Stopped.")

        with pytest.raises(Cancelled):
            make(chat, ready(TRAIN), direction, 3, batch_size=2, progress=progress)
        assert oracle.count_hooks(chat.model) == 0
        assert chat.lock.acquire(blocking=False)
        chat.lock.release()


def test_ablated_passes_end_at_the_direction(tiny: Tiny) -> None:
    """Only the unablated pass reads later layers, for the means that a direction's file keeps."""
    chat = tiny("llama3")
    direction = direction_of(chat, TRAIN_REPLIES, layer=0).plain()
    rows: list[int] = []
    handle = oracle.parts(chat.model).blocks[1].register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    try:
        subspace(chat, ready(TRAIN_REPLIES), direction, k_max=2)
    finally:
        handle.remove()
    assert rows == [1]  # the unablated pass, one tree of all examples


def test_the_model_is_left_as_it_was(tiny: Tiny) -> None:
    chat = tiny("gpt-neox")
    before = oracle.fingerprint(chat.model)
    subspace(chat, ready(TRAIN), direction_of(chat, TRAIN), k_max=2)
    assert oracle.fingerprint(chat.model) == before


def test_the_bundled_model(bundled: ChatModel) -> None:
    """In its own number type, whose rounding is a thousand times that of the tiny models."""
    whole = ContrastSet.load("sounds-like-ai")
    data = whole.split(6, 1)[0]
    made = subspace(bundled, ready(data), direction_of(bundled, data, layer=13), k_max=3)
    torch.testing.assert_close(made.basis @ made.basis.T, torch.eye(3), atol=1e-5, rtol=0)
    assert made.lengths[0] > made.lengths[1] > made.lengths[2] > 0


# --- principal components -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETS)
def test_components_equal_numpys(kind: str, tiny: Tiny) -> None:
    chat, data = tiny("qwen2"), SETS[kind]
    positive, negative = (streams(chat, "qwen2", side, None)[:, 2].numpy() for side in (data.positive, data.negative))
    of_pair = {example.pair: row for example, row in zip(data.negative, negative, strict=True) if example.pair}
    rows = [
        row - of_pair.get(example.pair, negative.mean(axis=0))
        for example, row in zip(data.positive, positive, strict=True)
    ]
    rows += [
        positive.mean(axis=0) - row
        for example, row in zip(data.negative, negative, strict=True)
        if example.pair not in {one.pair for one in data.positive if one.pair}
    ]
    matrix = np.stack(rows)
    if data.has_responses:
        span = neutral_span(chat, "qwen2", data).numpy()
        matrix = matrix - matrix @ span.T @ span
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    made = pca_subspace(chat, ready(data), direction_of(chat, data), k_max=2)
    towards = positive.mean(axis=0) - negative.mean(axis=0)
    assert made.method == COMPONENTS
    for row, expected in zip(made.basis.double().numpy(), vectors[:, ::-1].T, strict=False):
        assert abs(row @ expected) == pytest.approx(1, abs=1e-4)
        assert row @ towards > 0
    assert values[-2] > 1.01 * values[-3]  # else the second would be any of a plane


def test_remainders_of_components_are_read_with_those_before_ablated(tiny: Tiny) -> None:
    chat, data = tiny("llama3"), TRAIN
    direction = direction_of(chat, data)
    made = pca_subspace(chat, ready(data), direction, k_max=3)
    for k in (1, 2):
        sides = [
            streams(chat, "llama3", side, made.basis[:k])[:, 2].mean(dim=0) for side in (data.positive, data.negative)
        ]
        assert made.lengths[k] == pytest.approx(float((sides[0] - sides[1]).norm()) / direction.norm, rel=1e-3)


@pytest.mark.parametrize("make", [subspace, pca_subspace])
def test_remainders_are_of_the_validation_examples(make: Callable[..., Subspace], tiny: Tiny) -> None:
    chat, data = tiny("llama3"), PAIRED_REPLIES
    direction = direction_of(chat, data)
    made = make(chat, ready(data), direction, k_max=3)
    span = neutral_span(chat, "llama3", data)
    for k in (0, 1, 2):
        removed = made.basis[:k] if k else None
        sides = [
            streams(chat, "llama3", side, removed)[:, 2] for side in (CHECK_REPLIES.positive, CHECK_REPLIES.negative)
        ]
        pairs = torch.stack([without_span(pair, span) for pair in sides[0] - sides[1]])
        shared = (pairs @ pairs.T - torch.diag((pairs**2).sum(dim=-1))).sum() / (len(pairs) * (len(pairs) - 1))
        remainder = made.remainders[k]
        assert remainder.value == pytest.approx(math.sqrt(max(float(shared), 0)) / direction.norm, rel=1e-3)
        assert remainder.low <= remainder.value <= remainder.high
        assert remainder.n == 2 * len(pairs)
    assert made.remainders[0].value > 0
    again = [make(chat, ready(data), direction, k_max=3, seed=seed).remainders for seed in (0, 1)]
    assert again[0] == made.remainders != again[1]


def test_there_are_no_more_components_than_differences(tiny: Tiny) -> None:
    chat = tiny("llama3")
    assert pca_subspace(chat, ready(PAIRED_REPLIES), direction_of(chat, PAIRED_REPLIES), k_max=8).k_max == 3


# --- what chance leaves ---------------------------------------------------------------------------------------------


def drawn_parts(true: float, n_pairs: int, n_positive: int, n_negative: int, rng: np.random.Generator) -> Tensor:
    """Parts of a sample whose sides' means differ by a vector of length ``true``; noise lies in 40 dimensions."""

    def side(n: int, mean: float) -> np.ndarray:
        rows = 0.2 * rng.standard_normal((n, 40)) + 3
        rows[:, 0] += mean
        return rows

    positive, negative = side(n_pairs + n_positive, true), side(n_pairs + n_negative, 0)
    positive, negative = positive / len(positive), negative / -len(negative)
    pairs = positive[:n_pairs] + negative[:n_pairs]
    return torch.from_numpy(np.concatenate([pairs, positive[n_pairs:], negative[n_pairs:]]))


@pytest.mark.parametrize("counts", [(12, 0, 0), (0, 12, 15), (6, 5, 8)])
@pytest.mark.parametrize("true", [0.0, 0.3, 1.0])
def test_chance_is_taken_off_and_the_truth_lies_in_the_interval(true: float, counts: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    figures, raw = [], []
    for seed in range(40):
        parts = drawn_parts(true, *counts, rng)
        figures.append(length_without_chance(parts, counts, seed))
        raw.append(float(parts.sum(dim=0).norm()))
    assert all(figure.low <= figure.value <= figure.high for figure in figures)
    assert sum(figure.low <= true <= figure.high for figure in figures) >= 36
    # The square is what is unbiased; the root of a square cut off at 0 is a little too long near 0.
    square = np.mean([figure.value**2 for figure in figures])
    assert abs(square - true**2) < 0.05
    assert np.mean(np.square(raw)) - true**2 > 2 * abs(square - true**2)


def test_pairs_equal_the_mean_of_all_products_of_two() -> None:
    """The classical unbiased estimate: ‖d‖² is what differences of two different pairs have in common."""
    parts = drawn_parts(1.0, 9, 0, 0, np.random.default_rng(2))
    differences = parts * 9
    products = [float(differences[i] @ differences[j]) for i in range(9) for j in range(9) if i != j]
    found = length_without_chance(parts, (9, 0, 0), seed=0)
    assert found.value**2 == pytest.approx(np.mean(products), rel=1e-9)
    assert found == length_without_chance(parts, (9, 0, 0), seed=0)
    assert found.low != length_without_chance(parts, (9, 0, 0), seed=1).low


def test_a_single_example_has_no_interval() -> None:
    parts = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    found = length_without_chance(parts, (0, 1, 1), seed=0)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((5, 5, 5, 2))


# --- an idea of two dimensions, planted -----------------------------------------------------------------------------

POSITIVE, NEGATIVE = "111", "222"
OPENINGS = ("sea", "boat", "soup", "moon", "tea", "rain", "letter", "blue", "book", "walk", "song", "river")


@torch.no_grad()
def plant_two_dimensions(chat: ChatModel) -> None:
    """Make of a Llama a model whose "1" differs from its "2" by one axis, which the first block copies to another.

    The copy is not proportional to what it copies, so with r ablated the two do not cancel any more; all other writes
    are zero. The next token is the more surely a "1", the more of the first axis is there.
    """
    body = chat.model.model
    for block in body.layers:
        for projection in (block.self_attn.o_proj, block.mlp.down_proj):
            projection.weight.zero_()
            assert projection.bias is None
        block.post_attention_layernorm.weight.fill_(1)
    body.norm.weight.fill_(1)
    one, two = (chat.tokenizer(digit, add_special_tokens=False)["input_ids"] for digit in "12")
    embedding = body.embed_tokens.weight
    embedding[:, :3] = torch.tensor([0.0, 0.0, 4.0])  # the idea, its copy, a constant
    embedding[one[0]] = embedding[two[0]]
    embedding[one[0], 0] = 4
    copier = body.layers[0].mlp
    for matrix, axis, size in ((copier.gate_proj.weight, 0, 1.0), (copier.up_proj.weight, 2, 1.0)):
        matrix.zero_()
        matrix[0, axis] = size
    copier.down_proj.weight[1, 0] = 0.2
    chat.model.lm_head.weight.zero_()
    chat.model.lm_head.weight[one[0], 0] = 3


def planted_set(openings: Sequence[str]) -> ContrastSet:
    return contrast(
        [f"{word}? | {word} {POSITIVE}" for word in openings],
        [f"{word}? | {word} {NEGATIVE}" for word in openings],
        paired=True,
    )


def test_a_planted_idea_of_two_dimensions_needs_two(family_folder: Callable[[str], Path]) -> None:
    chat = load_model(str(family_folder("llama3")), device="cpu", dtype=torch.float32)
    plant_two_dimensions(chat)
    train, check = planted_set(OPENINGS[:6]), planted_set(OPENINGS[6:])
    direction = direction_of(chat, train).plain()
    made = subspace(chat, ready(train, check), direction, k_max=5)
    assert made.k_max == 2  # nothing is left for a third
    assert float(made.basis[:, 2:].abs().max()) < 1e-4
    whole, left = made.remainders
    assert whole.value == pytest.approx(1, abs=0.2)  # the more tokens an opening has, the less the digits weigh
    assert 0.1 < left.low < left.high < 0.5

    aside = torch.zeros(chat.d_model)
    aside[10] = 1
    aside -= made.basis.T @ (made.basis @ aside)
    third = replace(direction, ablation_basis=torch.cat([made.basis, (aside / aside.norm())[None]]))
    scorer = scorer_for(chat, check, None)
    curve = effect_curve(scorer, [made.direction(1), made.direction(2), third])
    assert [effect.k for effect in curve] == [1, 2, 3]
    one, two, three = (effect.bypass for effect in curve)
    assert float(scorer.unsteered.positive.mean()) > one.high
    assert one.low > two.high
    assert two.value == pytest.approx(0, abs=1e-4)
    assert three.value == pytest.approx(two.value, abs=1e-4)
    assert default_k(curve) == 2


# --- effects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompts", "responses"])
def test_effects_equal_the_plain_loop(kind: str, tiny: Tiny) -> None:
    chat = tiny("gemma2")
    data, check = (TRAIN, CHECK) if kind == "prompts" else (TRAIN_REPLIES, CHECK_REPLIES)
    plain = plain_prompt_scores if kind == "prompts" else plain_response_scores
    made = subspace(chat, ready(data), direction_of(chat, data), k_max=3)
    directions = [made.direction(k) for k in (1, 2, 3)]
    scorer = scorer_for(chat, check, FirstTokens(TOKENS, ("a", "b"), "for this test"))
    told: list[tuple[float, float]] = []
    curve = effect_curve(scorer, directions, progress=lambda _, *now: told.append(now))
    for k, (direction, effect) in enumerate(zip(directions, curve, strict=True), start=1):
        expected = plain(chat, "gemma2", direction)
        assert effect.k == k
        assert effect.bypass.value == pytest.approx(expected.bypass_score, abs=1e-4)
        assert effect.kl.value == pytest.approx(expected.kl_score, abs=1e-4)
        assert (effect.bypass.n, effect.kl.n) == (scorer.totals[BYPASS], scorer.totals[KL])
        for figure in (effect.bypass, effect.kl):
            assert figure.low < figure.value < figure.high
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, 3), (3, 3))
    assert curve == effect_curve(scorer, directions)
    assert curve != effect_curve(scorer, directions, seed=1)


class Narrow:
    """A scorer of a given number that takes only so many directions a pass."""

    steps = (Step("added", {INDUCE: 2}), Step("ablated", {BYPASS: 2, KL: 2}))
    totals = {BYPASS: 2, INDUCE: 2, KL: 2}  # noqa: RUF012
    unsteered = Unsteered(torch.zeros(2), torch.zeros(2))

    def __init__(self, value: float, largest_pass: int, error: RuntimeError | None = None) -> None:
        self.value, self.largest_pass = value, largest_pass
        self.error = error or torch.OutOfMemoryError("out of memory")
        self.passes: list[tuple[str, int]] = []

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        if len(directions) > self.largest_pass:
            raise self.error
        self.passes.append((step, len(directions)))
        numbers = torch.full((2,), self.value).double()
        return [{BYPASS: numbers, KL: numbers} for _ in directions]


def test_out_of_memory_takes_fewer_directions_a_pass(tiny: Tiny) -> None:
    direction = oracle.make_direction(tiny("llama3"))
    scorer: Scorer = Narrow(0.5, largest_pass=2)
    assert [effect.bypass for effect in effect_curve(scorer, [direction] * 5)] == [Figure(0.5, 0.5, 0.5, 2)] * 5
    assert isinstance(scorer, Narrow)
    assert scorer.passes == [("ablated", 2), ("ablated", 2), ("ablated", 1)]  # nothing is added
    with pytest.raises(OutOfMemoryError, match="not enough memory to score even one direction"):
        effect_curve(Narrow(0.5, largest_pass=0), [direction])
    with pytest.raises(RuntimeError, match="size of tensor"):
        effect_curve(Narrow(0.5, 0, RuntimeError("The size of tensor a must match")), [direction])


def test_effects_can_be_cancelled(tiny: Tiny) -> None:
    chat = tiny("llama3")

    def progress(what: str, done: float, total: float) -> None:
        if done > 0:
            raise Cancelled("Stopped.")

    scorer = scorer_for(chat, CHECK_REPLIES, None)
    with pytest.raises(Cancelled):
        effect_curve(scorer, [oracle.make_direction(chat, rank=2)], progress=progress)
    assert oracle.count_hooks(chat.model) == 0


# --- how many are enough --------------------------------------------------------------------------------------------


def curve_of(*intervals: tuple[float, float, float], first: int = 1) -> list[KEffect]:
    """An effect curve from (low, value, high) of bypass."""
    return [
        KEffect(k, Figure(value, low, high, 32), Figure(0.1, 0.0, 0.2, 32))
        for k, (low, value, high) in enumerate(intervals, start=first)
    ]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (curve_of((0, 1, 2)), 1),
        (curve_of((0, 1, 2), (0, 0.5, 1), (-1, 0, 1)), 1),  # all overlap
        (curve_of((5, 6, 7), (0.5, 1, 2), (-1, 0, 1)), 2),
        (curve_of((5, 6, 7), (2, 3, 4), (-1, 0, 1)), 3),
        (curve_of((1, 2, 3), (-1, 0, 1), (5, 6, 7)), 1),  # intervals that touch overlap
        (curve_of((5, 6, 7), (-1, 0, 1), (2, 3, 4), (-0.5, 0.5, 1)), 2),  # the best need not be the last
        (curve_of((3, 3, 3), (1, 1, 1), (1, 1, 1)), 2),  # equal ones without intervals
        (curve_of((math.nan, math.nan, math.nan), (2, 3, 4), (1, 2, 3)), 2),  # an unknown effect is not chosen
        (curve_of((0, 1, 2), (1, 2, 3), first=4), 4),
        (curve_of((5, 6, 7), (0, 1, 2), (-1, 0, 1))[::-1], 2),  # in any order
    ],
)
def test_the_overlap_rule(curve: list[KEffect], expected: int) -> None:
    assert default_k(curve) == expected


@pytest.mark.parametrize("curve", [[], curve_of((math.nan, math.nan, math.nan))])
def test_without_a_known_effect_there_is_no_default(curve: list[KEffect]) -> None:
    with pytest.raises(SteeringError, match="The effect is known of no number of directions"):
        default_k(curve)
