"""There and back over a hub: directions, sets and edited models, with cards; private, and shown before they go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from publishing_hub import Repository, Shelf, publishing
from transformers import AutoModelForCausalLM

from steering import ContrastSet, Direction, SteeringError, orthogonalize
from steering.direction_card import direction_card
from steering.hub import pull, push

ROOT = Path(__file__).resolve().parent.parent
POETIC = ROOT / "presets" / "directions" / "poetic.safetensors"
SET = ROOT / "presets" / "poetic.jsonl"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with publishing() as shelf:
        yield shelf


def test_a_direction_there_and_back(shelf: Shelf, tmp_path: Path) -> None:
    pushed = push(POETIC, "me/poetic", licence="apache-2.0", endpoint=shelf.address)
    repository = shelf.repositories["models/me/poetic"]
    assert repository.private
    assert set(repository.files) == {"direction.safetensors", "README.md"} == set(pushed.files)
    assert pushed.files == {name: len(content) for name, content in repository.files.items()}
    assert pushed.address == f"{shelf.address}/me/poetic"
    out = pull("me/poetic", tmp_path / "mine.safetensors", endpoint=shelf.address)
    before, after = Direction.load(POETIC), Direction.load(out)
    assert torch.equal(before.vector, after.vector)
    assert torch.equal(before.ablation_basis, after.ablation_basis)
    assert (before.card, before.layer, before.name) == (after.card, after.layer, after.name)


def test_a_set_there_and_back(shelf: Shelf, tmp_path: Path) -> None:
    push(SET, "me/poetic-set", endpoint=shelf.address)
    assert set(shelf.repositories) == {"datasets/me/poetic-set"}
    out = pull("me/poetic-set", tmp_path / "set.jsonl", endpoint=shelf.address)
    assert out.read_bytes() == SET.read_bytes()
    card = shelf.repositories["datasets/me/poetic-set"].files["README.md"].decode()
    assert ContrastSet.load(SET).sha256 in card


def test_an_edited_model_there_and_back(
    shelf: Shelf, tmp_path: Path, tiny: Any, family_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = orthogonalize(
        str(family_folder("llama3")), oracle.make_direction(tiny("llama3")), tmp_path / "e", check=False
    )
    push(folder, "me/edited", private=False, endpoint=shelf.address)
    repository = shelf.repositories["models/me/edited"]
    assert not repository.private
    repository.files["run.py"] = b"print('a stranger')"
    repository.files["pytorch_model.bin"] = b"\x80\x04"
    out = pull("me/edited", tmp_path / "back", endpoint=shelf.address)
    assert {file.name for file in out.iterdir()} == {file.name for file in folder.iterdir()}
    assert all((out / file.name).read_bytes() == file.read_bytes() for file in folder.iterdir())
    AutoModelForCausalLM.from_pretrained(out)


def test_a_dry_run_shows_the_files_and_reaches_nobody(shelf: Shelf) -> None:
    pushed = push(POETIC, "me/poetic", dry_run=True, endpoint=shelf.address)
    assert set(pushed.files) == {"direction.safetensors", "README.md"}
    assert pushed.private
    assert not shelf.requests


def test_a_public_repository_is_not_taken_for_a_private_push(shelf: Shelf) -> None:
    shelf.repositories["models/me/poetic"] = Repository(private=False)
    with pytest.raises(SteeringError, match=r"everyone sees it.*--public"):
        push(POETIC, "me/poetic", endpoint=shelf.address)
    assert not shelf.repositories["models/me/poetic"].files
    push(POETIC, "me/poetic", private=False, endpoint=shelf.address)
    assert shelf.repositories["models/me/poetic"].files


@pytest.mark.parametrize(("status", "words"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "status 500")])
def test_what_the_hub_refuses_is_a_sentence(shelf: Shelf, status: int, words: str) -> None:
    shelf.refuses = status
    with pytest.raises(SteeringError, match=words):
        push(POETIC, "me/poetic", endpoint=shelf.address)


def test_a_hub_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="Check the connection"):
        push(POETIC, "me/poetic", endpoint="http://127.0.0.1:9")
    with pytest.raises(SteeringError, match="Check the connection"):
        pull("me/poetic", tmp_path / "x.safetensors", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["poetic", "a/b/c", "../x/y", "me/", "me/po etic", ""])
def test_names_that_are_none(name: str, shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="owner/name"):
        push(POETIC, name, endpoint=shelf.address)
    with pytest.raises(SteeringError, match="owner/name"):
        pull(name, tmp_path / "x", endpoint=shelf.address)
    assert not shelf.requests


def test_what_is_damaged_does_not_arrive(shelf: Shelf, tmp_path: Path) -> None:
    shelf.repositories["models/me/bad"] = Repository(True, {"direction.safetensors": b"\xff" * 100})
    shelf.repositories["models/me/none"] = Repository(True, {"notes.txt": b"nothing"})
    with pytest.raises(SteeringError, match="not a direction file, or is damaged"):
        pull("me/bad", tmp_path / "bad.safetensors", endpoint=shelf.address)
    with pytest.raises(SteeringError, match="holds no direction"):
        pull("me/none", tmp_path / "none", endpoint=shelf.address)
    with pytest.raises(SteeringError, match="has no me/absent"):
        pull("me/absent", tmp_path / "absent", endpoint=shelf.address)
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == []


def test_what_is_there_stays(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SteeringError, match="exists already"):
        pull("me/poetic", tmp_path / "mine", endpoint=shelf.address)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_with_a_link_out_of_it_is_not_published(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(POETIC, folder / "model.safetensors")
    (folder / "README.md").write_text("card")
    (tmp_path / "secret").write_text("mine")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(SteeringError, match="leads out of the folder"):
        push(folder, "me/model", endpoint=shelf.address)
    assert not shelf.requests


def test_what_is_nothing_of_ours_is_a_sentence(shelf: Shelf, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(SteeringError, match=r"There is no file|is no edited model"):
            push(path, "me/x", endpoint=shelf.address)
    assert not shelf.requests


# --- the card of a direction ----------------------------------------------------------------------------------------


def test_the_card_has_the_figures_with_their_intervals() -> None:
    direction = Direction.load(POETIC)
    card = direction_card(direction, "direction.safetensors", "apache-2.0")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "license: apache-2.0" in card
    for figure in direction.card["trust"]["scores"].values():
        assert f"{figure['value']:.3g} | {figure['low']:.3g} to {figure['high']:.3g} | {figure['n']}" in card
    assert direction.card["data_sha256"] in card
    assert "safeguard" in card


def test_the_five_lines_do_what_the_engine_does(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steering import Variant
    from steering.interventions import Steering

    chat = tiny("llama3")
    direction = replace(oracle.make_direction(chat, layer=1), card={"strength": {"start": 3.0}, "n_layers": 3})
    direction.save(tmp_path / "direction.safetensors")
    code = direction_card(direction, "direction.safetensors").partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 5
    monkeypatch.chdir(tmp_path)
    ids = torch.tensor([chat.encode([{"role": "user", "content": "Why?"}])])
    with torch.inference_mode(), Steering(chat, [Variant.added(direction, 3.0)]).applied():
        expected = chat.model(input_ids=ids, use_cache=False).logits
    plain = AutoModelForCausalLM.from_pretrained(chat.name, dtype=torch.float32).eval()
    exec(code, {"model": plain})  # the card's own code
    with torch.inference_mode():
        torch.testing.assert_close(plain(input_ids=ids, use_cache=False).logits, expected, atol=1e-4, rtol=0)


def test_markup_in_a_strangers_card_stays_text() -> None:
    nasty = '<img src=x onerror="alert(1)"> [a](javascript:x) | `b`\n# heading'
    card = {
        "model": nasty,
        "data": nasty,
        "trust": {"sentences": [nasty], "scores": {nasty: {"value": "x"}}},
        "n_layers": 9,
    }
    direction = Direction(torch.ones(8), torch.ones(1, 8) / 8**0.5, 2, -1, 1.0, nasty, card)
    text = direction_card(direction, "direction.safetensors")
    assert "<img" not in text.replace("\\<img", "")
    assert "[a](" not in text.replace("\\[a\\](", "")
    assert not [line for line in text.splitlines() if line.startswith("# heading")]


def test_a_card_of_nonsense_is_no_traceback() -> None:
    for trust in (None, 3, [], {"scores": 4, "sentences": 7, "separation": {"value": None}}):
        card: dict[str, Any] = {"trust": trust, "strength": {"sweet": 3}, "model": {"a": 1}}
        direction = Direction(torch.ones(8), torch.ones(1, 8) / 8**0.5, 2, -1, 1.0, "odd", card)
        assert "No figures of it were measured" in direction_card(direction, "d.safetensors")
        json.dumps(card)
