"""Directions: how they are made, what their files hold, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from steering.activations import RESPONSE
from steering.contrast import ContrastSet, Example
from steering.direction_files import FORMAT
from steering.directions import Candidates, Direction, difference_in_means
from steering.errors import Cancelled, DirectionError
from steering.models import ChatModel
from steering.neutral_means import NeutralMeans, centred, projected_off

Tiny = Callable[[str], ChatModel]


def contrast(with_responses: bool) -> ContrastSet:
    positive = [
        ("Write about the sea.", "The sea is wide and cold."),
        ("Tell me about a boat with a red sail.", "A boat came in."),
        ("Is the water cold?", "The waves are never still."),
    ]
    negative = [
        ("Write about tea.", "Boil the water, wait a minute."),
        ("Why is the sky blue?", "Air scatters blue light."),
        ("Explain how to ride a bicycle, please.", "It steers into the fall, again and again."),
        ("What should I cook tonight?", "A soup."),
    ]

    def example(row: tuple[str, str]) -> Example:
        return Example(({"role": "user", "content": row[0]},), row[1] if with_responses else None)

    return ContrastSet.from_examples("sea-or-not", [*map(example, positive)], [*map(example, negative)])


def direction(width: int = 8, **changes: Any) -> Direction:
    vector = torch.arange(1.0, width + 1)
    return Direction(
        **{
            "vector": vector,
            "ablation_basis": (vector / vector.norm())[None],
            "layer": 1,
            "position": -2,
            "mean_residual_norm": 5.0,
            "name": "sea",
            "card": {"n_layers": 3, "d_model": width},
            **changes,
        }
    )


# --- making them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("with_responses", [False, True])
def test_difference_in_means_equals_the_slow_one(name: str, with_responses: bool, tiny: Tiny) -> None:
    chat, data = tiny(name), contrast(with_responses)
    n_after = len(chat.post_instruction_tokens)
    sides = []
    for side in (data.positive, data.negative):
        total = 0
        for example in side:
            prompt = chat.encode(list(example.messages))
            if with_responses:
                reply = chat.tokenizer(example.response, add_special_tokens=False)["input_ids"]
                total = total + oracle.hidden_states(chat, prompt + reply)[:, len(prompt) :].mean(dim=1, keepdim=True)
            else:
                total = total + oracle.hidden_states(chat, prompt)[:, -n_after:]
        sides.append(total / len(side))
    expected = (sides[0] - sides[1]).transpose(0, 1)
    found = difference_in_means(chat, data, batch_size=2)
    assert found.vectors.shape == (1 if with_responses else n_after, chat.n_layers, chat.d_model)
    assert found.vectors.dtype == torch.float32
    assert found.positions == ([RESPONSE] if with_responses else list(range(-n_after, 0)))
    torch.testing.assert_close(found.vectors.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_candidate_becomes_a_direction(tiny: Tiny) -> None:
    chat, data = tiny("llama3"), contrast(False)
    candidates = difference_in_means(chat, data)
    made = candidates.direction(-2, 1)
    row = candidates.positions.index(-2)
    assert torch.equal(made.vector, candidates.vectors[row, 1])
    assert torch.equal(made.unit, made.ablation_unit)
    assert not made.is_centred
    assert made.norm == pytest.approx(float(candidates.vectors[row, 1].norm()))
    assert made.mean_residual_norm == pytest.approx(float(candidates.negative.norms[row, 1]))
    assert (made.layer, made.position, made.name) == (1, -2, "sea-or-not")
    assert made.card["data_sha256"] == data.sha256
    assert (made.card["n_layers"], made.card["d_model"]) == (3, 64)
    assert (made.card["n_positive"], made.card["n_negative"]) == (3, 4)
    made.card["extra"] = 1
    made.vector[0] = 1e6
    assert "extra" not in candidates.card
    assert candidates.vectors[row, 1, 0] != 1e6  # a direction is the caller's own


def test_with_responses_what_is_ablated_is_centred(tiny: Tiny) -> None:
    chat = tiny("llama3")
    candidates = difference_in_means(chat, contrast(True))
    made = candidates.direction(RESPONSE, 2)
    assert made.is_centred
    assert torch.equal(made.vector, candidates.vectors[0, 2])
    assert float(made.ablation_unit.norm()) == pytest.approx(1, abs=1e-6)
    by_hand = centred(made.vector, candidates.negative.means[0])
    torch.testing.assert_close(made.ablation_unit, by_hand / by_hand.norm())
    plain = made.plain()
    assert not plain.is_centred
    assert torch.equal(plain.ablation_unit, made.unit)
    assert torch.equal(plain.vector, made.vector)
    assert (plain.layer, plain.position, plain.name, plain.card) == (made.layer, made.position, made.name, made.card)


@pytest.mark.parametrize(("position", "layer"), [(-2, 3), (-2, -1), (0, 1), (-100, 1), (1, 1)])
def test_no_candidate_there(position: int, layer: int, tiny: Tiny) -> None:
    candidates = difference_in_means(tiny("llama3"), contrast(False))
    with pytest.raises(DirectionError, match=rf"no candidate at position {position}, layer {layer}.*layers 0 to 2"):
        candidates.direction(position, layer)


@pytest.mark.parametrize("name", FAMILIES)
def test_before_the_first_block_template_tokens_do_not_differ(name: str, tiny: Tiny) -> None:
    candidates = difference_in_means(tiny(name), contrast(False))
    with pytest.raises(DirectionError, match="do not differ at position -1, layer 0"):
        candidates.direction(-1, 0)


def test_cancel_passes_through(tiny: Tiny) -> None:
    def cancel(what: str, done: float, total: float) -> None:
        if done:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        difference_in_means(tiny("llama3"), contrast(False), batch_size=2, progress=cancel)


# --- centring -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_centred_is_orthogonal_to_the_span_and_the_rest_lies_in_it(n_layers: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(64, generator=generator)
    scale = torch.rand(n_layers, 1, generator=generator) * 50 + 0.1  # later layers are longer; the span must not mind
    means = torch.randn(n_layers, 64, generator=generator) * scale
    left = centred(vector, means, rank)
    unit_means = torch.nn.functional.normalize(means.double(), dim=-1)
    # The span by another way: the leading eigenvectors of the Gram matrix of the features.
    used = min(rank, n_layers - 1)
    _, vectors = torch.linalg.eigh(unit_means.T @ unit_means)
    span = vectors[:, -used:]  # [d_model, rank], ascending
    taken = vector.double() - left.double()
    assert (left.double() @ span).abs().max() < 1e-4
    torch.testing.assert_close(span @ (span.T @ taken), taken, atol=1e-4, rtol=0)
    assert float(left @ taken.float()) == pytest.approx(0, abs=1e-3)


def test_centring_by_few_means_takes_all_of_them_but_one(tiny: Tiny) -> None:
    vector = torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(centred(vector, torch.ones(1, 16)), vector)  # one mean: nothing is common to layers


def test_a_vector_in_the_span_cannot_be_centred() -> None:
    means = torch.eye(8)[:7] + torch.eye(8)[7]
    unit_means = means / means.norm(dim=-1, keepdim=True)
    inside = torch.linalg.svd(unit_means, full_matrices=False).Vh[0]
    assert centred(inside, means).norm() < 1e-5


# --- where the negative side's means lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("with_responses", [False, True])
def test_a_direction_knows_where_the_negative_means_lie(with_responses: bool, tiny: Tiny) -> None:
    """Along what is ablated, be it centred or plain, at every layer, at the direction's own position."""
    candidates = difference_in_means(tiny("gemma2"), contrast(with_responses))
    position = RESPONSE if with_responses else -2
    made = candidates.direction(position, 2)
    assert made.is_centred == with_responses
    means = candidates.negative.sums[candidates.positions.index(position)] / candidates.negative.count
    for one in (made, made.plain()):
        assert one.neutral_projections is not None
        assert one.neutral_projections.dtype == torch.float32
        expected = means @ one.ablation_basis.double().T
        torch.testing.assert_close(one.neutral_projections.double(), expected, atol=1e-4, rtol=1e-5)


def test_another_basis_gets_numbers_of_its_own_or_none() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 8, generator=generator)
    axes = torch.linalg.qr(torch.randn(8, 3, generator=generator)).Q.T.contiguous()
    made = direction(ablation_basis=axes[:2], neutral=NeutralMeans.along(axes, means))
    torch.testing.assert_close(made.neutral_projections, means @ axes[:2].T)
    turned = torch.nn.functional.normalize(axes[:1] - 2 * axes[2:], dim=-1)
    torch.testing.assert_close(replace(made, ablation_basis=turned).neutral_projections, means @ turned.T)
    outside = torch.nn.functional.normalize(axes[:1] + 0.1 * torch.randn(1, 8, generator=generator), dim=-1)
    assert replace(made, ablation_basis=outside).neutral_projections is None
    assert made.plain().neutral_projections is None  # its vector is none of these
    assert direction().neutral_projections is None


def test_the_neutral_means_survive_a_file(tiny: Tiny, tmp_path: Path) -> None:
    made = difference_in_means(tiny("gemma2"), contrast(True)).direction(RESPONSE, 2)
    back = Direction.load(made.save(tmp_path / "sea.safetensors"), model=tiny("gemma2"))
    assert torch.equal(back.neutral_projections, made.neutral_projections)
    assert torch.equal(back.plain().neutral_projections, made.plain().neutral_projections)


def test_a_file_from_before_they_were_kept_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)  # vector, basis and description, as version 1 wrote them first
    assert Direction.load(path).neutral is None
    assert Direction.load(path).neutral_projections is None


def test_half_precision_neutral_means_are_read(tmp_path: Path) -> None:
    made = direction()
    neutral = NeutralMeans.along(made.vector[None], torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    tensors = {"vector": made.vector, "ablation_basis": made.ablation_basis, "neutral_axes": neutral.axes}
    tensors |= {"neutral_components": neutral.components}
    read = Direction.load(write(tmp_path, {name: tensor.half() for name, tensor in tensors.items()}))
    expected = neutral.projections(made.ablation_basis)
    torch.testing.assert_close(read.neutral_projections, expected, atol=1e-2, rtol=1e-2)


AXES = {"neutral_axes": torch.eye(8)[:1], "neutral_components": torch.ones(3, 1)}


@pytest.mark.parametrize(
    "changes",
    [
        {"neutral_axes": None},
        {"neutral_components": None},
        {"neutral_axes": torch.eye(8)[0]},
        {"neutral_axes": torch.eye(8)[:2]},
        {"neutral_axes": torch.eye(9)[:1]},
        {"neutral_axes": 2 * torch.eye(8)[:1]},
        {"neutral_axes": torch.full((1, 8), math.nan)},
        {"neutral_axes": torch.ones(20_000, 8), "neutral_components": torch.ones(3, 20_000)},
        {"neutral_axes": torch.ones(1, 8, dtype=torch.int32)},
        {"neutral_components": torch.full((3, 1), math.inf)},
        {"neutral_components": torch.ones(3)},
        {"neutral_components": torch.empty(3, 0), "neutral_axes": torch.empty(0, 8)},
    ],
)
def test_malformed_neutral_means_are_refused(changes: dict[str, Tensor | None], tmp_path: Path) -> None:
    made = direction()
    tensors = {"vector": made.vector, "ablation_basis": made.ablation_basis, **AXES}
    assert Direction.load(write(tmp_path, tensors)).neutral_projections is None  # r is not along this axis
    kept = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
    with pytest.raises(DirectionError):
        Direction.load(write(tmp_path, kept))


def test_neutral_means_of_another_depth_are_refused(tiny: Tiny) -> None:
    neutral = NeutralMeans.along(torch.eye(64)[:1], torch.ones(5, 64))
    with pytest.raises(DirectionError, match=r"width 64 with 5 layers.*llama3 has width 64 and 3 layers"):
        direction(width=64, neutral=neutral).require_fit(tiny("llama3"))


# --- projected ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_responses", [False, True])
def test_a_projected_direction_is_orthogonal_to_the_negative_mean(with_responses: bool, tiny: Tiny) -> None:
    candidates = difference_in_means(tiny("llama3"), contrast(with_responses))
    position = RESPONSE if with_responses else -2
    row = candidates.positions.index(position)
    plain, made = (candidates.direction(position, 2, projected=projected) for projected in (False, True))
    mean = candidates.negative.means[row, 2].double()
    assert abs(float(plain.unit.double() @ mean)) > 0.01
    assert abs(float(made.unit.double() @ mean)) < 1e-5
    taken = plain.vector.double() - made.vector.double()
    torch.testing.assert_close(taken, mean * (plain.vector.double() @ mean) / (mean @ mean), atol=1e-5, rtol=1e-5)
    assert made.is_centred == with_responses
    assert made.plain().neutral_projections[2].abs() < 1e-5  # the mean has no part along it at its own layer
    assert made.card["projected"] is True
    assert "projected" not in plain.card
    assert "projected" not in candidates.card


@pytest.mark.parametrize("with_responses", [False, True])
def test_a_direction_can_be_projected_later_from_its_file(with_responses: bool, tiny: Tiny, tmp_path: Path) -> None:
    candidates = difference_in_means(tiny("llama3"), contrast(with_responses))
    position = RESPONSE if with_responses else -2
    plain, made = (candidates.direction(position, 2, projected=projected) for projected in (False, True))
    later = Direction.load(plain.save(tmp_path / "plain.safetensors")).projected()
    torch.testing.assert_close(later.vector, made.vector, atol=1e-5, rtol=1e-5)
    assert torch.equal(later.ablation_basis, plain.ablation_basis)
    assert later.card["projected"] is True


def test_a_direction_that_does_not_know_the_mean_cannot_be_projected() -> None:
    with pytest.raises(DirectionError, match="does not say where its negative side's mean lies"):
        direction().projected()
    own_axis_only = NeutralMeans.along(direction().unit[None], torch.ones(3, 8))
    with pytest.raises(DirectionError, match="does not say where its negative side's mean lies"):
        replace(direction(), neutral=own_axis_only).projected()


def test_a_direction_along_the_negative_mean_leaves_nothing_when_projected(tiny: Tiny) -> None:
    candidates = difference_in_means(tiny("llama3"), contrast(False))
    along = replace(candidates, vectors=0.5 * candidates.negative.means)
    assert along.direction(-1, 1).norm > 0
    with pytest.raises(DirectionError, match="do not differ at position -1, layer 1 but in how far"):
        along.direction(-1, 1, projected=True)
    assert torch.equal(projected_off(torch.ones(4), torch.zeros(4)), torch.ones(4))  # no mean, nothing to take


# --- numbers on them ------------------------------------------------------------------------------------------------


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.floats(1e-3, 1e4))
def test_dose_and_coefficient_are_inverse(coefficient: float, length: float, residual: float) -> None:
    vector = torch.zeros(4)
    vector[2] = length
    made = Direction(vector, (vector / vector.norm())[None], 0, -1, residual)
    assert made.coefficient(made.dose(coefficient)) == pytest.approx(coefficient, rel=1e-9, abs=1e-12)
    assert made.dose(coefficient) == pytest.approx(coefficient * length / residual, rel=1e-5)


def test_a_basis_of_several() -> None:
    basis = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0))).Q.T.contiguous()
    made = direction(ablation_basis=basis)
    assert torch.equal(made.ablation_unit, basis[0])
    assert made.is_centred
    assert made.plain().ablation_basis.shape == (1, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vector": torch.full((8,), math.nan)}, "not finite"),
        ({"vector": torch.tensor([math.inf] + [0.0] * 7)}, "not finite"),
        ({"ablation_basis": torch.full((1, 8), math.nan)}, "not finite"),
        ({"vector": torch.zeros(8)}, "zero norm"),
        ({"ablation_basis": torch.zeros(1, 8)}, "not orthonormal"),
        ({"ablation_basis": torch.full((1, 8), 1.0)}, "not orthonormal"),
        ({"ablation_basis": torch.eye(8)[:1].repeat(2, 1)}, "not orthonormal"),
        ({"ablation_basis": torch.eye(8)[0]}, r"\[8\] and a basis of shape \[8\]"),
        ({"ablation_basis": torch.eye(9)[:1]}, r"\[8\] and a basis of shape \[1, 9\]"),
        ({"vector": torch.ones(2, 4)}, r"\[2, 4\]"),
        ({"vector": torch.tensor(1.0)}, "shape"),
        ({"ablation_basis": torch.empty(0, 8)}, "shape"),
        ({"vector": torch.empty(0), "ablation_basis": torch.empty(1, 0)}, "“sea”"),
        ({"mean_residual_norm": 0.0}, "residual norm"),
        ({"mean_residual_norm": math.nan}, "residual norm"),
    ],
)
def test_malformed_directions_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DirectionError, match=sentence):
        direction(**changes)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_brings_everything_back(tmp_path: Path) -> None:
    basis = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0))).Q.T
    card = {"n_layers": 3, "d_model": 8, "scores": [0.5, None], "where": {"ünï": "🌊"}}
    made = direction(ablation_basis=basis, position=0, name="like the sea 🌊", card=card)
    assert made.save(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
    back = Direction.load(tmp_path / "x.safetensors")
    assert torch.equal(back.vector, made.vector)
    assert torch.equal(back.ablation_basis, made.ablation_basis)
    assert back.vector.dtype == back.ablation_basis.dtype == torch.float32
    for name in ("layer", "position", "mean_residual_norm", "name"):
        assert getattr(back, name) == getattr(made, name)
    assert back.card == {**card, "norm": pytest.approx(made.norm)}


def test_a_made_direction_survives_its_file(tiny: Tiny, tmp_path: Path) -> None:
    chat = tiny("gemma2")
    made = difference_in_means(chat, contrast(True)).direction(RESPONSE, 2, name="the sea")
    back = Direction.load(made.save(tmp_path / "sea.safetensors"), model=chat)
    assert torch.equal(back.vector, made.vector)
    assert torch.equal(back.ablation_basis, made.ablation_basis)
    assert back.dose(1.5) == made.dose(1.5)


def test_half_precision_files_are_read(tmp_path: Path) -> None:
    made = direction()
    path = write(tmp_path, {"vector": made.vector.half(), "ablation_basis": made.ablation_basis.double()})
    assert Direction.load(path).vector.dtype == torch.float32


def test_a_file_of_another_model_is_refused_with_both_numbers(tiny: Tiny, tmp_path: Path) -> None:
    narrow = direction(width=8).save(tmp_path / "narrow.safetensors")
    with pytest.raises(DirectionError, match=r"width 8 with 3 layers.*llama3 has width 64 and 3 layers"):
        Direction.load(narrow, model=tiny("llama3"))
    deep = direction(width=64, card={"n_layers": 30}).save(tmp_path / "deep.safetensors")
    with pytest.raises(DirectionError, match=r"width 64 with 30 layers.*llama3 has width 64 and 3 layers"):
        Direction.load(deep, model=tiny("llama3"))
    fits = direction(width=64).save(tmp_path / "fits.safetensors")
    assert Direction.load(fits, model=tiny("llama3")).layer == 1
    with pytest.raises(DirectionError, match="4 layers"):
        Direction.load(fits, model=tiny("gemma2"))


GOOD = {"name": "sea", "layer": 1, "position": -2, "mean_residual_norm": 5.0, "card": {"n_layers": 3}}


def write(folder: Path, tensors: dict[str, Tensor] | None = None, described: object = GOOD, **metadata: str) -> Path:
    made = direction()
    tensors = tensors or {"vector": made.vector, "ablation_basis": made.ablation_basis}
    about = {"format": FORMAT, "version": "1", "direction": json.dumps(described), **metadata}
    save_file(tensors, folder / "some.safetensors", metadata=about)
    return folder / "some.safetensors"


def test_the_good_file_of_these_tests_is_good(tmp_path: Path) -> None:
    assert Direction.load(write(tmp_path)).name == "sea"


@pytest.mark.parametrize(
    "tensors",
    [
        {"vector": torch.ones(8)},
        {"ablation_basis": torch.eye(8)[:1]},
        {"vector": torch.ones(8, dtype=torch.int32), "ablation_basis": torch.eye(8)[:1]},
        {"vector": torch.ones(8), "ablation_basis": torch.eye(8, dtype=torch.bool)[:1]},
        {"vector": torch.ones(8), "ablation_basis": torch.empty(0, 8)},
        {"vector": torch.tensor(1.0), "ablation_basis": torch.eye(8)[:1]},
        {"vector": torch.empty(0), "ablation_basis": torch.empty(0, 0)},
        {"vector": torch.ones(8), "ablation_basis": torch.ones(20_000, 8)},  # its Gram matrix would take 1.6 GB
        {"vector": torch.full((8,), 1e300, dtype=torch.float64), "ablation_basis": torch.eye(8)[:1]},
        {"vector": torch.full((8,), math.nan), "ablation_basis": torch.eye(8)[:1]},
        {"vector": torch.zeros(8), "ablation_basis": torch.eye(8)[:1]},
    ],
)
def test_wrong_tensors_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(DirectionError):
        Direction.load(write(tmp_path, tensors))


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 1.5},
        {"layer": True},
        {"layer": "1"},
        {"layer": None},
        {"position": [1]},
        {"mean_residual_norm": 0},
        {"mean_residual_norm": -1.0},
        {"mean_residual_norm": math.nan},
        {"mean_residual_norm": math.inf},
        {"mean_residual_norm": 10**400},
        {"mean_residual_norm": "5"},
        {"card": None},
        {"card": "text"},
        {"card": 7},
        {"card": ["a", "b"]},
    ],
)
def test_wrong_descriptions_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match=r"some\.safetensors"):
        Direction.load(write(tmp_path, described={**GOOD, **changes}))


@pytest.mark.parametrize("changes", [{"name": "sea \ud83c"}, {"card": {"model": "\udf0a"}}])
def test_half_a_character_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """JSON can hold one, but a page that shall show it cannot be sent."""
    with pytest.raises(DirectionError, match="damaged"):
        Direction.load(write(tmp_path, described={**GOOD, **changes}))


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_description_that_lacks_a_part_is_refused(missing: str, tmp_path: Path) -> None:
    described = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(DirectionError, match=missing):
        Direction.load(write(tmp_path, described=described))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "NaN", "{}", '{"a": 1' + "0" * 5000]
)
def test_a_description_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DirectionError):
        Direction.load(write(tmp_path, direction=text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_description_says_it_is_read_or_refused_with_a_sentence(changes: dict, tmp_path: Path) -> None:
    path = write(tmp_path, described={**GOOD, **changes})
    try:
        read = Direction.load(path)
    except DirectionError:
        return
    assert isinstance(read.layer, int)
    assert isinstance(read.card, dict)
    assert read.mean_residual_norm > 0
    read.name.encode()  # it can be shown


@given(content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(content)
    with pytest.raises(DirectionError, match=r"noise\.safetensors"):
        Direction.load(path)


@given(place=st.integers(0, 2**32), patch=st.binary(min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(place: int, patch: bytes, tmp_path: Path) -> None:
    path = direction().save(tmp_path / "damaged.safetensors")
    content = bytearray(path.read_bytes())
    start = place % len(content)
    content[start : start + len(patch)] = patch
    path.write_bytes(content)
    with contextlib.suppress(DirectionError):
        Direction.load(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 50, 200, -1, -20])
def test_a_file_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    path = direction().save(tmp_path / "short.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DirectionError, match=r"short\.safetensors"):
        Direction.load(path)


class Trap:
    """Would write a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_under_another_name_is_not_unpickled(writer: str, tmp_path: Path) -> None:
    path, sprung = tmp_path / "trap.safetensors", tmp_path / "sprung"
    content = {"vector": torch.ones(8), "trap": Trap(str(sprung))}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(DirectionError, match=r"trap\.safetensors is not a direction file"):
        Direction.load(path)
    assert not sprung.exists()


def test_other_safetensors_are_told_from_damaged_ones(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    with pytest.raises(DirectionError, match="a safetensors file, but not a direction"):
        Direction.load(family_folder("llama3") / "model.safetensors")
    save_file({"vector": torch.ones(8)}, tmp_path / "bare.safetensors")
    with pytest.raises(DirectionError, match="a safetensors file, but not a direction"):
        Direction.load(tmp_path / "bare.safetensors")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match="There is no file"):
        Direction.load(tmp_path / "missing.safetensors")
    with pytest.raises(DirectionError, match="There is no file"):
        Direction.load(tmp_path)


def test_candidates_say_what_happened_on_the_way(tiny: Tiny) -> None:
    candidates = difference_in_means(tiny("llama3"), contrast(False))
    assert isinstance(candidates, Candidates)
    assert candidates.notes == ()
    assert candidates.n_layers == 3
