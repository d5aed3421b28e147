"""Loading: what works on every family, and a sentence for everything that does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file, save_file

from steering.architectures import LAYOUTS
from steering.errors import OutOfMemoryError, SteeringError
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.models import ChatModel, load_model, weight_bytes

Tiny = Callable[[str], ChatModel]
Folder = Callable[[str], Path]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def load(folder: Path, **options: object) -> ChatModel:
    return load_model(str(folder), **{"device": "cpu", "dtype": torch.float32, **options})


@pytest.fixture
def copied(family_folder: Folder, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tiny model's folder, to be broken."""
    return lambda name: Path(shutil.copytree(family_folder(name), tmp_path / name))


# --- what a loaded model is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loaded_model_knows_its_parts(name: str, tiny: Tiny, family_folder: Folder) -> None:
    chat = tiny(name)
    config = json.loads((family_folder(name) / "config.json").read_text())
    assert chat.n_layers == config["num_hidden_layers"]
    assert chat.d_model == config["hidden_size"]
    assert chat.max_length == config["max_position_embeddings"]
    assert chat.dtype == torch.float32
    assert chat.device == torch.device("cpu")
    assert (chat.name, chat.label, chat.revision) == (str(family_folder(name)), name, "")
    found = oracle.parts(chat.model)
    assert list(chat.architecture.blocks) == list(found.blocks)
    assert chat.architecture.embedding is found.embedding
    assert chat.architecture.final_norm is found.final_norm
    assert all(len(writes) == 2 for writes in chat.architecture.writes)
    assert not chat.model.training
    assert not any(parameter.requires_grad for parameter in chat.model.parameters())
    assert oracle.count_hooks(chat.model) == 0
    assert 0 <= chat.pad_token < config["vocab_size"]


@pytest.mark.parametrize("name", FAMILIES)
def test_end_tokens_are_those_generate_stops_at(name: str, tiny: Tiny, family_folder: Folder) -> None:
    written = json.loads((family_folder(name) / "generation_config.json").read_text())["eos_token_id"]
    expected = set(written if isinstance(written, list) else [written])
    assert tiny(name).end_tokens == expected | {tiny(name).tokenizer.eos_token_id}


def test_every_family_of_the_zoo_has_a_layout(tiny: Tiny) -> None:
    assert {tiny(name).config.model_type for name in FAMILIES} <= set(LAYOUTS)


@pytest.mark.parametrize(("name", "dtype"), [("llama3", "bfloat16"), ("gemma3", torch.float16), ("qwen2", "float32")])
def test_the_number_type_asked_for(name: str, dtype: str | torch.dtype, family_folder: Folder) -> None:
    chat = load(family_folder(name), dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert chat.dtype == expected
    assert {parameter.dtype for parameter in chat.model.parameters()} == {expected}


def test_by_default_the_number_type_is_the_measured_one(family_folder: Folder) -> None:
    from steering.machine import preferred_dtype

    chat = load_model(str(family_folder("llama3")), device="cpu")
    assert chat.dtype == preferred_dtype(torch.device("cpu"))
    assert chat.dtype in (torch.bfloat16, torch.float32)


def test_device_auto_places_the_model(family_folder: Folder, tiny: Tiny) -> None:
    chat = load(family_folder("llama3"), device="auto")
    last = list(stream_side_by_side(chat, QUESTION, [Variant.baseline()], max_new_tokens=4))[-1]
    if not torch.cuda.is_available():
        assert last.token_ids[0] == oracle.plain_greedy(tiny("llama3"), tiny("llama3").encode(QUESTION), 4)


def test_progress_is_reported_to_the_end(family_folder: Folder) -> None:
    reports: list[tuple[str, float, float]] = []
    load(family_folder("llama3"), progress=lambda *report: reports.append(report))
    assert reports[0] == ("Loading the model", 0, 10)
    assert reports[-1] == ("Loading the model", 10, 10)
    done = [report[1] for report in reports]
    assert done == sorted(done)


def test_a_tokenizer_without_pad_token_gets_a_harmless_one(tiny: Tiny) -> None:
    assert tiny("llama2").tokenizer.pad_token_id is None
    assert tiny("llama2").pad_token in tiny("llama2").end_tokens


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt-neox"])
def test_quantised_models_answer_and_are_steered(
    name: str, quantization: str, tiny: Tiny, family_folder: Folder
) -> None:
    pytest.importorskip("bitsandbytes")
    exact, chat = tiny(name), load(family_folder(name), quantization=quantization)
    kinds = {type(module).__name__ for module in chat.model.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}
    ids = torch.tensor([exact.encode(QUESTION)])
    with torch.inference_mode():
        found, expected = (model.model(input_ids=ids).logits[0] for model in (chat, exact))
    likeness = torch.nn.functional.cosine_similarity(found.float(), expected, dim=-1)
    assert likeness.mean() > {"8bit": 0.99, "4bit": 0.8}[quantization]
    direction = oracle.strong_direction(exact, exact.encode(QUESTION))
    steps = list(
        stream_side_by_side(chat, QUESTION, [Variant.baseline(), Variant.ablated(direction)], max_new_tokens=6)
    )
    assert len(steps) == 6
    assert steps[-1].token_ids[0] != steps[-1].token_ids[1]
    assert max(float(step.cosines[1].abs().max()) for step in steps) < 2**-8
    assert oracle.count_hooks(chat.model) == 0


def test_the_bundled_model(bundled_float32: ChatModel) -> None:
    chat = bundled_float32
    assert (chat.n_layers, chat.d_model, chat.dtype) == (30, 576, torch.float32)
    assert (chat.name, chat.label) == ("bundled", "SmolLM2-135M-Instruct")
    assert len(chat.revision) == 64
    text = chat.tokenizer.decode(chat.post_instruction_tokens, skip_special_tokens=False)
    assert text == "<|im_end|>\n<|im_start|>assistant\n"
    last = list(stream_side_by_side(chat, [{"role": "user", "content": "What is the capital of France?"}],
                                    [Variant.baseline()], max_new_tokens=12))[-1]  # fmt: skip
    assert "Paris" in last.texts[0]


# --- what cannot be loaded ------------------------------------------------------------------------------------------


def refused(folder: Path | str, match: str, **options: object) -> str:
    """The sentence; it is one line of plain text, and short."""
    with pytest.raises(SteeringError, match=match) as caught:
        load(Path(folder), **options) if isinstance(folder, Path) else load_model(folder, **options)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "Traceback" not in sentence
    assert len(sentence) < 900
    return sentence


def test_an_unknown_architecture(family_folder: Folder) -> None:
    sentence = refused(family_folder("unknown"), "architecture “mamba” is not known here")
    assert "gemma2" in sentence


def test_no_chat_template(family_folder: Folder) -> None:
    refused(family_folder("no-template"), "no chat template, so it is not a chat model")


def test_a_known_type_with_its_blocks_elsewhere(tmp_path: Path, family_folder: Folder) -> None:
    """A model that also sees pictures has its language model inside another: its text says gemma3_text."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = json.loads((family_folder("gemma3") / "config.json").read_text())
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    for file in family_folder("gemma3").glob("*token*"):
        shutil.copy(file, tmp_path)
    refused(tmp_path, "Gemma3ForConditionalGeneration does not keep its blocks where.*gemma3_text.*text only")


def test_a_missing_folder_and_an_impossible_name(tmp_path: Path) -> None:
    refused(str(tmp_path / "missing"), "neither a folder nor a .gguf file")
    refused("no such model", "neither a folder nor a .gguf file")
    refused("", "neither|has no config.json")
    refused("a/b/c", "neither a folder nor a .gguf file")
    refused(str(tmp_path / "missing.gguf"), "There is no file")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path, "has no config.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"auto_map"', b"7", b"null", b"\xff\xfe\x00", b'{"model_type": 7}', b"{}"]
)
def test_a_broken_config(content: bytes, copied: Folder) -> None:
    folder = copied("llama3")
    (folder / "config.json").write_bytes(content)
    refused(folder, str(folder))


def test_code_brought_along_is_not_run(copied: Folder) -> None:
    folder = copied("llama3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text("raise SystemExit('run')")
    for model_type in ("qwen", "llama"):
        config |= {"model_type": model_type, "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.C"}}
        (folder / "config.json").write_text(json.dumps(config))
        if model_type == "qwen":
            refused(folder, "brings its own program code, which is not run here")
        else:
            assert load(folder).n_layers == 3  # a known family needs none of it


@pytest.mark.parametrize("kept", [0, 5, 100, 100_000, -1])
def test_weights_cut_short(kept: int, copied: Folder) -> None:
    folder = copied("llama3")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    refused(folder, "cannot be loaded")


def test_weights_that_are_not_there(copied: Folder) -> None:
    folder = copied("llama3")
    (folder / "model.safetensors").unlink()
    refused(folder, "cannot be loaded")


def test_only_safetensors_are_read(copied: Folder) -> None:
    folder = copied("llama3")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "cannot be loaded")


@pytest.mark.parametrize(
    "lost", ["model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight", "lm_head.weight"]
)
def test_a_lost_tensor_is_not_made_up(lost: str, copied: Folder) -> None:
    """transformers fills a hole with random numbers; the replies would then be noise, and nobody would know why."""
    folder = copied("llama3")
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert lost in refused(folder, "lacks 1 of its tensors")


def test_a_tensor_of_another_shape(copied: Folder) -> None:
    folder = copied("llama3")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] = torch.zeros(64, 100)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "cannot be loaded")


def test_a_missing_or_broken_tokenizer(copied: Folder) -> None:
    folder = copied("llama3")
    (folder / "tokenizer.json").write_text("{")
    refused(folder, f"tokenizer in {folder} cannot be read")
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer|chat template")


@pytest.mark.parametrize("dtype", ["float8", "int8", "banana", "", 7, torch.int64, torch.bool])
def test_a_number_type_that_cannot_be(dtype: object, family_folder: Folder) -> None:
    refused(family_folder("llama3"), "number type is one of float32, bfloat16, float16", dtype=dtype)


@pytest.mark.parametrize("device", ["banana", "", "cpu:x", "cuda:999", "mps:7"])
def test_a_device_that_is_not_there(device: str, family_folder: Folder) -> None:
    refused(family_folder("llama3"), f"no device “{device}” here", device=device)


@pytest.mark.parametrize("quantization", ["2bit", "", "8", 8])
def test_a_quantization_that_does_not_exist(quantization: object, family_folder: Folder) -> None:
    refused(family_folder("llama3"), "“8bit” or “4bit”", quantization=quantization)


def test_a_model_larger_than_memory_is_refused_before_it_is_read(
    copied: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("llama3")
    with (folder / "more.safetensors").open("wb") as file:
        file.truncate(2**42)  # a hole: it takes no space on the disk
    monkeypatch.setattr("steering.models.load_weights", lambda *_: pytest.fail("its weights were read"))
    sentence = refused(folder, r"needs \d+\.\d GB of memory and \d+\.\d GB are free")
    assert "--quantization 4bit" in sentence


def test_weight_bytes_follow_the_number_type(family_folder: Folder, tiny: Tiny) -> None:
    folder = family_folder("llama3")
    config = json.loads((folder / "config.json").read_text())
    exact = sum(parameter.numel() for parameter in tiny("llama3").model.parameters())
    assert weight_bytes(folder, config, torch.float32, None) == pytest.approx(4 * exact, rel=0.05)
    assert weight_bytes(folder, config, torch.bfloat16, None) == pytest.approx(2 * exact, rel=0.05)
    assert weight_bytes(folder, config, torch.float32, "4bit") < exact


def test_out_of_memory_is_a_steering_error() -> None:
    assert issubclass(OutOfMemoryError, SteeringError)


UNREACHABLE = """
import sys, time, torch
from steering.errors import SteeringError
from steering.models import load_model
start = time.monotonic()
try:
    load_model("nobody/nothing-at-all", device="cpu")
except SteeringError as error:
    print(round(time.monotonic() - start), type(error).__name__, error)
"""


def test_a_hub_out_of_reach_is_said_quickly(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", UNREACHABLE],
        capture_output=True, text=True, timeout=90, env=environment, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    seconds, kind, sentence = result.stdout.split(" ", 2)
    assert kind == "ModelError"
    assert "nobody/nothing-at-all is not on this machine and the hub cannot be reached" in sentence
    assert "Traceback" not in result.stderr
    assert int(seconds) < 30
