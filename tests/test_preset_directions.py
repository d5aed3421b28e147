"""The presets' directions: what comes with the project is what its command makes, and what is made here is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steering import preset_directions
from steering.contrast import ContrastSet, preset_names
from steering.directions import Direction, difference_in_means
from steering.interventions import Addition, AffineAblation, Capping
from steering.models import ChatModel
from steering.preparation import prepare
from steering.preset_directions import SEED, SHIPPED, preset_direction
from steering.scoring import scorer_for, scores_of
from steering.ui.make_checks import is_limits, is_scores, is_trust, trust_html, verdict_of

Tiny = Callable[[str], ChatModel]
RECOMPUTED = "sea"


def shipped(name: str) -> Direction:
    return Direction.load(SHIPPED / f"{name}.safetensors")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_its_card(name: str) -> None:
    direction = shipped(name)
    card = direction.card
    data = ContrastSet.load(name)
    assert card["data_sha256"] == data.sha256
    assert card["revision"]
    assert is_scores(card["scores"])
    assert is_limits(card["limits"])
    assert is_trust(card["trust"])
    assert card["trust"]["data_sha256"] == data.sha256
    assert trust_html(card)
    assert verdict_of(card)[1]
    strength = card["strength"]
    assert 0 < strength["sweet"][0] < strength["sweet"][1] <= strength["end"]
    assert strength["start"] <= strength["end"]
    # What the settings offer works with it.
    assert AffineAblation(direction)
    assert Capping(direction)
    assert Addition(direction.projected())


@pytest.mark.parametrize("name", preset_names())
def test_what_was_chosen_keeps_to_its_limits(name: str) -> None:
    card = shipped(name).card
    scores, limits = card["scores"], card["limits"]
    assert scores["induce"] > limits["induce"]
    assert scores["kl"] < limits["kl"]
    assert shipped(name).layer < limits["depth"] * card["n_layers"]
    assert (limits["kl"] > 0.1) <= ("relaxed" in card)  # a limit that was let go is told


def test_a_preset_computed_again_is_the_same(bundled: ChatModel) -> None:
    expected = shipped(RECOMPUTED)
    filtered = bool(expected.card["filtered"])
    prepared = prepare(bundled, ContrastSet.load(RECOMPUTED), filtered=filtered, seed=SEED)
    found = difference_in_means(bundled, prepared.train).direction(expected.position, expected.layer)
    for ours, theirs in ((found.vector, expected.vector), (found.ablation_unit, expected.ablation_unit)):
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert found.norm == pytest.approx(expected.norm, rel=1e-3)
    scorer = scorer_for(bundled, prepared.validation, prepared.tokens)
    [values] = scores_of(scorer, [expected], scorer.totals)
    for score, numbers in values.items():
        assert float(numbers.mean()) == pytest.approx(expected.card["scores"][score], abs=0.02)
    assert float(scorer.unsteered.positive.mean()) == pytest.approx(
        expected.card["scores"]["unsteered_positive"], abs=0.02
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(preset_directions, "cache_folder", lambda: tmp_path)
    return tmp_path / "directions"


def test_one_made_here_is_kept_and_read_again(home: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny("llama3")
    monkeypatch.setattr(chat, "revision", "1234abcd", raising=False)
    made = preset_direction(chat, "sea")
    [kept] = home.iterdir()
    assert torch.equal(Direction.load(kept).vector, made.vector)
    assert made.card["data_sha256"] == ContrastSet.load("sea").sha256
    monkeypatch.setattr(preset_directions, "make_preset_direction", lambda *_: pytest.fail("made again"))
    assert torch.equal(preset_direction(chat, "sea").vector, made.vector)


@pytest.mark.parametrize("content", [b"", b"no direction at all"])
def test_a_damaged_file_is_made_again(content: bytes, home: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny("llama3")
    monkeypatch.setattr(chat, "revision", "1234abcd", raising=False)
    made = preset_direction(chat, "sea")
    [kept] = home.iterdir()
    kept.write_bytes(content)
    assert torch.equal(preset_direction(chat, "sea").vector, made.vector)
    assert torch.equal(Direction.load(kept).vector, made.vector)


def test_the_shipped_ones_are_for_the_bundled_model_alone(home: Path, tiny: Tiny) -> None:
    """The tiny model is of another width: what comes with the project must not be tried on it."""
    direction = preset_direction(tiny("qwen2"), "sea")
    assert len(direction.vector) == tiny("qwen2").d_model
    assert "trust" not in direction.card
