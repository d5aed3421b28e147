"""What is taken along is what was seen: edited models and adapters beside the hooked variants they stand for."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file, save_file
from test_orthogonalize import EXACT, NORMED, OTHERS, SIZES, Folder, Tiny, digests, logits, plainly, prompts, read
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from steering import Direction, SteeringError, Variant, orthogonalize
from steering.added_checkpoint import add_to_weights
from steering.checkpoints import Checkpoint
from steering.export_check import QUESTIONS, compare, equality
from steering.lora_adapter import adapter_pairs, write_adapter

ROOT = Path(__file__).resolve().parent.parent
POETIC = ROOT / "presets" / "directions" / "poetic.safetensors"
MLP_BIAS = ("llama3", "granite")


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


# --- the comparison itself ------------------------------------------------------------------------------------------


def test_the_questions_are_thirty_two_different_ones() -> None:
    assert len(set(QUESTIONS)) == len(QUESTIONS) == 32


def test_the_comparison_against_plain_arithmetic() -> None:
    generator = torch.Generator().manual_seed(0)
    hooked = [torch.randn(n, 11, generator=generator) for n in (3, 5)]
    other = [one + 0.3 * torch.randn(one.shape, generator=generator) for one in hooked]
    other[0] = hooked[0].clone()
    found = equality(hooked, other, torch.float32)
    one, two = torch.cat(hooked).double().softmax(-1), torch.cat(other).double().softmax(-1)
    assert found.mean_kl == pytest.approx(float((one * (one / two).log()).sum(-1).mean()), rel=1e-9)
    assert found.largest_logit_difference == pytest.approx(float((hooked[1] - other[1]).abs().max()))
    same = one.argmax(-1) == two.argmax(-1)
    assert found.equal_tokens == pytest.approx(float(same.double().mean()))
    assert (found.equal_texts, found.n_answers, found.n_tokens) == (1 + bool(same[3:].all()), 2, 8)


@pytest.mark.parametrize("name", EXACT)
def test_the_edited_model_writes_what_the_ablated_variant_writes(
    name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    direction = oracle.make_direction(tiny(name), 1)
    out = orthogonalize(str(family_folder(name)), direction, tmp_path / "edited")
    found = compare(str(family_folder(name)), out, Variant.ablated(direction))
    assert found.n_answers == 32
    assert found.equal_texts == 32
    assert found.largest_logit_difference <= 1e-3
    assert found.mean_kl < 1e-6
    assert f"Beside the hooked model: {found.sentence()}" in card(out)
    unlike = compare(str(family_folder(name)), out, Variant.baseline())
    assert unlike.largest_logit_difference > 0.01, "the comparison sees no difference where there is one"


@pytest.mark.parametrize("name", NORMED)
def test_behind_norms_the_card_says_how_far_it_is(name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    direction = oracle.make_direction(tiny(name), 1)
    out = orthogonalize(str(family_folder(name)), direction, tmp_path / "edited")
    found = compare(str(family_folder(name)), out, Variant.ablated(direction))
    unlike = compare(str(family_folder(name)), out, Variant.baseline())
    assert 1e-9 < found.mean_kl < 0.5 * unlike.mean_kl
    assert found.sentence() in card(out)


def test_a_model_without_a_tokenizer_is_written_and_says_that_it_was_not_compared(
    tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(family_folder("llama3"), tmp_path / "source"))
    for file in source.glob("*token*"):
        file.unlink()
    out = orthogonalize(str(source), oracle.make_direction(tiny("llama3")), tmp_path / "edited")
    assert "It could not be compared with the hooked model: " in card(out)


# --- turned up, in the weights --------------------------------------------------------------------------------------


@pytest.fixture
def granite(tiny: Tiny, tmp_path: Path) -> Path:
    """A tiny model that scales what it adds to the stream; its biases as they are by default, none."""
    settings = OTHERS["granite"] | {"mlp_bias": False, "embedding_multiplier": 1.0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["granite"](**SIZES, **settings), dtype=torch.float32)
    model.save_pretrained(tmp_path / "granite")
    tiny("llama3").tokenizer.save_pretrained(tmp_path / "granite")
    return tmp_path / "granite"


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", ["llama3", "gpt-neox", "granite"])
def test_the_added_model_writes_what_the_added_variant_writes(
    name: str, layer: int, tiny: Tiny, family_folder: Folder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue("granite") if name == "granite" else family_folder(name)
    chat = plainly(source)
    if layer >= chat.n_layers:
        pytest.skip("it has two blocks")
    direction = oracle.make_direction(chat, layer=layer)
    before = digests(source)
    if name == "granite" and layer == 0:
        with pytest.raises(SteeringError, match="multiplies its embedding"):
            add_to_weights(str(source), direction, 3.0, tmp_path / "added")
        return
    out = add_to_weights(str(source), direction, 3.0, tmp_path / "added")
    edited = plainly(out)
    variant = Variant.added(direction, 3.0)
    for ids in prompts(chat):
        torch.testing.assert_close(logits(edited, ids), logits(chat, ids, variant), atol=1e-4, rtol=0)
        assert (logits(chat, ids) - logits(edited, ids)).abs().max() > 0.1
    found = compare(str(source), out, variant)
    assert found.equal_texts == 32
    assert found.largest_logit_difference <= 1e-3
    assert found.sentence() in card(out)
    assert "turned up" in card(out)
    assert digests(source) == before


def test_every_other_bias_is_zero_and_all_else_is_as_it_was(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    direction = oracle.make_direction(tiny("llama3"), layer=2)
    before = read(family_folder("llama3"))
    after = read(add_to_weights(str(family_folder("llama3")), direction, -2.0, tmp_path / "added", check=False))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    new = {name: tensor for name, tensor in after.items() if name not in before}
    assert len(new) == 3 * tiny("llama3").n_layers
    torch.testing.assert_close(new.pop("model.layers.1.mlp.down_proj.bias"), -2.0 * direction.vector)
    assert all(not tensor.any() for tensor in new.values())
    config = json.loads((tmp_path / "added" / "config.json").read_text())
    assert config["mlp_bias"] is True


def test_a_bias_that_is_there_is_added_to(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    first = oracle.make_direction(tiny("llama3"), layer=2)
    second = oracle.make_direction(tiny("llama3"), 5, layer=2)
    once = add_to_weights(str(family_folder("llama3")), first, 1.0, tmp_path / "once", check=False)
    twice = add_to_weights(str(once), second, 2.0, tmp_path / "twice", check=False)
    bias = read(twice)["model.layers.1.mlp.down_proj.bias"]
    torch.testing.assert_close(bias, first.vector + 2.0 * second.vector)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "mixtral", "smollm3"])
def test_where_engines_would_ignore_the_bias_it_is_refused_with_the_alternatives(
    name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    direction = oracle.make_direction(tiny(name), 1)
    with pytest.raises(SteeringError, match=r"would ignore one in the files without a word.*control vector.*ortho"):
        add_to_weights(str(family_folder(name)), direction, 1.0, tmp_path / "added")
    assert not list(tmp_path.iterdir())


def test_layer_0_goes_into_the_embedding_and_leaves_a_tied_output(
    tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    direction = oracle.make_direction(tiny("qwen3"), layer=0)
    before = read(family_folder("qwen3"))["model.embed_tokens.weight"]
    after = read(add_to_weights(str(family_folder("qwen3")), direction, 2.0, tmp_path / "added", check=False))
    torch.testing.assert_close(after["model.embed_tokens.weight"], before + 2.0 * direction.vector)
    assert torch.equal(after["lm_head.weight"], before)


@pytest.mark.parametrize("coefficient", [0.0, float("nan"), float("inf")])
def test_a_coefficient_that_is_none_gets_a_sentence(
    coefficient: float, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(SteeringError, match="must be a finite number other than 0"):
        add_to_weights(
            str(family_folder("llama3")), oracle.make_direction(tiny("llama3")), coefficient, tmp_path / "added"
        )


# --- a LoRA adapter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3", "gemma", "gpt-neox", "gemma2"])
def test_peft_loads_the_adapter_and_it_is_the_edit_of_the_projections(
    name: str, rank: int, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    from peft import PeftModel

    chat = tiny(name)
    direction = oracle.make_direction(chat, 1, rank=rank)
    folder = write_adapter(str(family_folder(name)), direction, tmp_path / "adapter", check=False)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family_folder(name)).eval(), str(folder))
    edited = plainly(orthogonalize(str(family_folder(name)), direction, tmp_path / "edited", check=False))
    with torch.no_grad():  # what an adapter leaves as it was
        edited.model.get_input_embeddings().weight.copy_(chat.model.get_input_embeddings().weight)
        plain = dict(chat.model.named_parameters())
        for path, parameter in edited.model.named_parameters():
            if path.endswith(".bias"):
                parameter.copy_(plain[path])
    for ids in prompts(chat):
        ids_tensor = torch.tensor([ids])
        with torch.inference_mode():
            found = model(input_ids=ids_tensor).logits[0]
        torch.testing.assert_close(found, logits(edited, ids), atol=1e-3, rtol=0)
        assert (found - logits(chat, ids)).abs().max() > 0.05
    assert len(load_file(folder / "adapter_model.safetensors")) == 4 * chat.n_layers


def test_the_adapters_card_says_what_it_lacks_and_how_near_it_comes(
    tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    direction = oracle.make_direction(tiny("llama3"), 1)
    folder = write_adapter(str(family_folder("llama3")), direction, tmp_path / "adapter")
    assert "what the token embedding itself writes along the direction" in card(folder)
    assert "Beside the hooked model: " in card(folder)
    assert "library_name: peft" in card(folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_adapter_for_experts_is_refused(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=r"has experts.*orthogonalize"):
        write_adapter(str(family_folder("mixtral")), oracle.make_direction(tiny("mixtral")), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_do_not_become_an_adapter(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(family_folder("llama3"), tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = torch.nan
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SteeringError, match=r"down_proj\.weight in .* holds numbers that are none"):
        adapter_pairs(Checkpoint.read(source, "source"), oracle.make_direction(tiny("llama3")))


# --- what ends an edit, and strangers' folders ----------------------------------------------------------------------

EDIT = """
import sys
from steering import Direction, orthogonalize
orthogonalize(sys.argv[1], Direction.load(sys.argv[2]), sys.argv[3], check=False)
"""


def start_edit(source: Path, direction: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", EDIT, str(source), str(direction), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_killed_at_twenty_moments_no_part_is_ever_taken_for_the_whole(tmp_path: Path) -> None:
    """Moments of the writing itself, found by what lies on the disk, and at random after it began."""
    from steering.weights import bundled_folder

    source, place = bundled_folder(), tmp_path / "place"
    place.mkdir()
    before, out = digests(source), place / "edited"
    chance = random.Random(0)
    moments = set()
    for _ in range(20):
        process = start_edit(source, POETIC, out)
        while not any(place.glob("edited.part-*/*")) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.add("whole" if out.exists() else "part")
        assert len(list(place.glob("edited.part-*"))) <= 1, "what the last kill left is still there"
        if out.exists():
            assert compare_files(out, source)
            shutil.rmtree(out)
    assert "part" in moments
    assert start_edit(source, POETIC, out).wait() == 0
    assert [path.name for path in place.iterdir()] == ["edited"]
    assert compare_files(out, source)
    assert digests(source) == before


def compare_files(out: Path, source: Path) -> bool:
    """Whether an edited folder is whole: every tensor, and the untouched ones bit by bit."""
    before, after = read(source), read(out)
    before = {name: tensor for name, tensor in before.items() if name in after}
    same = sum(torch.equal(after[name], tensor) for name, tensor in before.items())
    return set(after) == {*before, "lm_head.weight"} and same == len(before) - 1 - 2 * 30


def test_two_at_once_do_not_remove_each_others_work(tmp_path: Path, tiny: Tiny, family_folder: Folder) -> None:
    """Only what nobody holds is removed: an edit that is under way is left alone."""
    direction = oracle.make_direction(tiny("llama3"))
    seen: list[int] = []

    def second(what: str, done: float, total: float) -> None:
        if not seen:
            seen.append(len(list(tmp_path.glob("edited.part-*"))))
            orthogonalize(str(family_folder("llama3")), direction, tmp_path / "edited", check=False)
            seen.append(len(list(tmp_path.glob("edited.part-*"))))

    with pytest.raises(SteeringError, match="edited cannot be written"):  # the other one was first
        orthogonalize(str(family_folder("llama3")), direction, tmp_path / "edited", check=False, progress=second)
    assert seen == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]


def test_a_link_out_of_the_folder_does_not_come_along(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine alone")
    source = Path(shutil.copytree(family_folder("llama3"), tmp_path / "source"))
    (source / "LICENSE").symlink_to(secret)
    (source / "NOTICE").write_text("anyone's")
    (source / "COPYING").symlink_to(source / "NOTICE")
    out = orthogonalize(str(source), oracle.make_direction(tiny("llama3")), tmp_path / "edited", check=False)
    assert not (out / "LICENSE").exists()
    assert (out / "COPYING").read_text() == "anyone's"


def test_the_hubs_own_links_come_along(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    """The hub's cache keeps files as blobs and names them by links."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(family_folder("llama3"), snapshot)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        shutil.move(file, blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    out = orthogonalize(str(snapshot), oracle.make_direction(tiny("llama3")), tmp_path / "edited", check=False)
    assert (out / "tokenizer.json").is_file()


HEADERS: dict[str, Callable[[Path], Any]] = {
    "two billion bytes of header": lambda file: file.write_bytes((2 * 10**9).to_bytes(8, "little") + b"{}"),
    "a header of brackets": lambda file: file.write_bytes((10**6).to_bytes(8, "little") + b"[" * 10**6),
    "offsets that overlap": lambda file: damage_offsets(file, lambda begin, end: [0, end]),
    "offsets behind the end": lambda file: damage_offsets(file, lambda begin, end: [begin, end + 10**12]),
    "offsets backwards": lambda file: damage_offsets(file, lambda begin, end: [end, begin]),
}


def damage_offsets(file: Path, change: Callable[[int, int], list[int]]) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = "model.layers.1.mlp.down_proj.weight"
    header[name]["data_offsets"] = change(*header[name]["data_offsets"])
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])


@pytest.mark.parametrize("damage", HEADERS)
def test_weights_that_lie_about_themselves_get_a_sentence(
    damage: str, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(family_folder("llama3"), tmp_path / "source"))
    HEADERS[damage](source / "model.safetensors")
    with pytest.raises(SteeringError, match=r"model\.safetensors cannot be read: .*\. Fetch the model again\."):
        orthogonalize(str(source), oracle.make_direction(tiny("llama3")), tmp_path / "edited", check=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_tests_know_every_family() -> None:
    assert {*EXACT, *NORMED} == set(FAMILIES)


def test_the_bundled_model_turned_up_writes_what_the_added_variant_writes(tmp_path: Path) -> None:
    direction = Direction.load(POETIC)
    out = add_to_weights("bundled", direction, 1.13, tmp_path / "added")
    sentence = next(line for line in card(out).splitlines() if line.startswith("Beside the hooked model"))
    assert sentence.startswith("Beside the hooked model: 32 of 32 greedy answers"), sentence
