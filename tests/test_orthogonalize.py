"""The weight edit: the edited folder, loaded by plain transformers, against the hooked model it stands for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from steering import Direction, SteeringError, Variant, load_model, stream_side_by_side
from steering import orthogonalize as orthogonalize_and_compare
from steering.architectures import LAYOUTS
from steering.errors import Cancelled, DirectionError, ModelError
from steering.interventions import Steering
from steering.models import ChatModel

Tiny = Callable[[str], ChatModel]
Folder = Callable[[str], Path]
ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ("Why is the sky blue?", "Write a poem about the moon.")
POETIC = ROOT / "presets" / "directions" / "poetic.safetensors"

# What compares a whole model with the hooked one has tests of its own below.
orthogonalize = partial(orthogonalize_and_compare, check=False)

NORMED = ("gemma2", "gemma2-narrow", "gemma3", "olmo2")
EXACT = tuple(name for name in FAMILIES if name not in NORMED)
TIED = ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "smollm3", "cohere")
# The architectures of the table of which the zoo has no model, and the settings that make one small.
SIZES = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 391},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1},
}
OTHERS: dict[str, dict[str, Any]] = {
    "ministral": {"head_dim": 16},
    "qwen2_moe": {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
        **{"shared_expert_intermediate_size": 40},
    },
    "olmo": {},
    "olmo3": {},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
    "granite": {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "attention_bias": True, "mlp_bias": True},
}


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder that transformers reads."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")
    }


def plainly(folder: Path) -> ChatModel:
    """The folder as plain transformers loads it, float32, in the shell that the oracle asks for."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]
    return ChatModel(model.eval(), AutoTokenizer.from_pretrained(folder), str(folder), folder.name)


@torch.inference_mode()
def logits(chat: ChatModel, ids: Sequence[int], variant: Variant | None = None) -> Tensor:
    with Steering(chat, [variant or Variant.baseline()]).applied():
        return chat.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def prompts(chat: ChatModel) -> list[list[int]]:
    return [chat.encode([{"role": "user", "content": question}]) for question in QUESTIONS]


def resaved(source: Path, target: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The model of ``source`` saved anew: in another type, in several shards, or with experts as they are loaded."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(source, dtype=dtype).save_pretrained(target, **options)
    return target


# --- the edited model is the ablated one ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_the_edited_model_is_the_ablated_one(
    name: str, rank: int, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    chat = tiny(name)
    first, *_ = prompts(chat)
    direction = oracle.strong_direction(chat, first) if rank == 1 else oracle.make_direction(chat, 1, rank=rank)
    out = orthogonalize(str(family_folder(name)), direction, tmp_path / "edited")
    assert out == tmp_path / "edited"
    edited = plainly(out)
    for ids, question in zip(prompts(chat), QUESTIONS, strict=True):
        expected = logits(chat, ids, Variant.ablated(direction))
        torch.testing.assert_close(logits(edited, ids), expected, atol=1e-3, rtol=0)
        assert (logits(chat, ids) - expected).abs().max() > 0.1, "the ablation does nothing here"
        *_, last = stream_side_by_side(
            chat, [{"role": "user", "content": question}], [Variant.ablated(direction)], max_new_tokens=12
        )
        assert oracle.plain_greedy(edited, ids, 12) == last.token_ids[0]


@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_of_the_table(name: str, tiny: Tiny, tmp_path: Path) -> None:
    config = CONFIG_MAPPING[name](**SIZES, **OTHERS[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(".bias") or parameter.ndim > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path / "source")
    chat = ChatModel(model, tiny("llama3").tokenizer, name, name)
    direction = oracle.make_direction(chat, 1, rank=2)
    out = orthogonalize(str(tmp_path / "source"), direction, tmp_path / "edited")
    edited = ChatModel(AutoModelForCausalLM.from_pretrained(out).eval(), chat.tokenizer, name, name)
    ids = list(range(3, 60, 3))
    expected = logits(chat, ids, Variant.ablated(direction))
    difference = float((logits(edited, ids) - expected).abs().max())
    assert float((logits(chat, ids) - expected).abs().max()) > 0.01
    assert difference < 1e-4 or name == "olmo3"
    assert left_in_the_stream(edited, ids, direction) < 1e-5


def test_the_tests_leave_no_architecture_out(tiny: Tiny) -> None:
    assert {tiny(name).config.model_type for name in FAMILIES} | set(OTHERS) == set(LAYOUTS)


def left_in_the_stream(chat: ChatModel, ids: Sequence[int], direction: Direction) -> float:
    """The largest share of the direction's span in the stream at any layer and token."""
    with torch.inference_mode(), oracle.watched(chat.model) as seen:
        chat.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    unit_streams = torch.nn.functional.normalize(torch.cat(seen).double(), dim=-1)
    return float((unit_streams @ direction.ablation_basis.double().T).norm(dim=-1).max())


@torch.no_grad()
def naively_edited(folder: Path, direction: Direction) -> ChatModel:
    """The paper's formula on the projections, as if no norm stood behind them; the unembedding as it was."""
    chat = plainly(folder)
    rows = direction.ablation_basis
    weight = chat.architecture.embedding.weight
    if chat.model.get_output_embeddings().weight is weight:
        chat.model.get_output_embeddings().weight = torch.nn.Parameter(weight.clone())
    weight -= (weight @ rows.T) @ rows
    for block in chat.architecture.blocks:
        for projection in (block.self_attn.o_proj, block.mlp.down_proj):
            projection.weight -= rows.T @ (rows @ projection.weight)
    return chat


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", NORMED)
def test_behind_a_norm_nothing_is_left_and_the_rest_is_close(
    name: str, rank: int, tiny: Tiny, family_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = tiny(name)
    direction = oracle.make_direction(chat, 1, rank=rank)
    with caplog.at_level(logging.WARNING, "steering.orthogonalize"):
        out = orthogonalize(str(family_folder(name)), direction, tmp_path / "edited")
    assert "close to the ablated one and not equal to it" in caplog.text
    assert "close to the ablated one and not equal to it" in (out / "README.md").read_text()
    edited, naive = plainly(out), naively_edited(family_folder(name), direction)
    for ids in prompts(chat):
        expected = logits(chat, ids, Variant.ablated(direction))
        effect = float((logits(chat, ids) - expected).square().mean().sqrt())
        difference = float((logits(edited, ids) - expected).square().mean().sqrt())
        naive_difference = float((logits(naive, ids) - expected).square().mean().sqrt())
        print(f"{name}, k = {rank}: ablation {effect:.3f}, edit {difference:.3f}, naive edit {naive_difference:.3f}")
        assert 1e-4 < difference < 0.5 * effect
        assert difference < 0.7 * naive_difference
        assert left_in_the_stream(edited, ids, direction) < 1e-5
        assert left_in_the_stream(naive, ids, direction) > 1e-2


def test_factors_near_zero_do_not_blow_the_edit_up(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    """A norm that shuts a coordinate out: undoing its factor there would make what the norm divides by very long."""
    source = Path(shutil.copytree(family_folder("olmo2"), tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if "post_" in name:
            tensor[::16] = 1e-5
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    chat = plainly(source)
    direction = oracle.make_direction(chat, 1)
    edited = plainly(orthogonalize(str(source), direction, tmp_path / "edited"))
    for ids in prompts(chat):
        expected = logits(chat, ids, Variant.ablated(direction))
        effect = (logits(chat, ids) - expected).square().mean().sqrt()
        assert (logits(edited, ids) - expected).square().mean().sqrt() < 0.5 * effect
        assert left_in_the_stream(edited, ids, direction) < 1e-4


CODE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, questions = sys.argv[1], sys.argv[2:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
replies = []
for question in questions:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=24, do_sample=False, repetition_penalty=1.0)
    replies.append(tokenizer.decode(output[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
assert "steering" not in sys.modules
print(json.dumps(replies))
"""


def test_the_bundled_model_edited_writes_what_the_ablated_variant_writes(
    bundled_float32: ChatModel, tmp_path: Path
) -> None:
    direction = Direction.load(POETIC, bundled_float32)
    out = orthogonalize("bundled", direction, tmp_path / "edited")
    assert not {"packed.safetensors", "source.json"} & {file.name for file in out.iterdir()}
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(out), *QUESTIONS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"},
    )
    replies = json.loads(process.stdout)
    variants = [Variant.ablated(direction), Variant.baseline()]
    for question, reply in zip(QUESTIONS, replies, strict=True):
        conversation = [{"role": "user", "content": question}]
        *_, last = stream_side_by_side(bundled_float32, conversation, variants, max_new_tokens=24)
        assert reply == last.texts[0]
        assert reply != last.texts[1]
    assert "HuggingFaceTB/SmolLM2-135M-Instruct (SmolLM2-135M-Instruct.Q4_1.gguf, SHA-256 b179" in card(out)


# --- what is in the files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIED)
def test_a_tied_unembedding_keeps_every_bit(name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    before = read(family_folder(name))
    out = orthogonalize(str(family_folder(name)), oracle.make_direction(tiny(name), 1), tmp_path / "edited")
    after = read(out)
    assert set(after) == {*before, "lm_head.weight"}
    assert torch.equal(after["lm_head.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_a_tied_model_of_another_naming_gets_the_familys_own_name(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("gpt-neox").config.to_dict() | {"tie_word_embeddings": True}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt_neox"](**config)).eval()
    model.save_pretrained(tmp_path / "source")
    before = read(tmp_path / "source")
    assert "embed_out.weight" not in before
    chat = ChatModel(model, tiny("gpt-neox").tokenizer, "neox", "neox")
    direction = oracle.make_direction(chat, 1)
    out = orthogonalize(str(tmp_path / "source"), direction, tmp_path / "edited")
    assert torch.equal(read(out)["embed_out.weight"], before["gpt_neox.embed_in.weight"])
    edited = ChatModel(AutoModelForCausalLM.from_pretrained(out).eval(), chat.tokenizer, "neox", "neox")
    ids = prompts(chat)[0]
    torch.testing.assert_close(logits(edited, ids), logits(chat, ids, Variant.ablated(direction)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("equal", [True, False])
def test_an_output_matrix_in_the_files_of_a_tied_model_stays(
    equal: bool, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    """Some checkpoints name it beside the embedding; where it differs, transformers does not tie it."""
    source = Path(shutil.copytree(family_folder("qwen3"), tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone() if equal else tensors["model.embed_tokens.weight"] * 0.5
    save_file({**tensors, "lm_head.weight": head}, source / "model.safetensors", metadata={"format": "pt"})
    direction = oracle.make_direction(tiny("qwen3"), 1)
    out = orthogonalize(str(source), direction, tmp_path / "edited")
    assert torch.equal(read(out)["lm_head.weight"], head)
    ids = prompts(tiny("qwen3"))[0]
    expected = logits(plainly(source), ids, Variant.ablated(direction))
    torch.testing.assert_close(logits(plainly(out), ids), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_writes_to_the_stream_changes(name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    direction = oracle.make_direction(tiny(name), 1)
    before = read(family_folder(name))
    after = read(orthogonalize(str(family_folder(name)), direction, tmp_path / "edited"))
    writers = ("embed_tokens.", "embed_in.", "o_proj.", "down_proj.", ".w2.", "attention.dense.", "dense_4h_to_h.")
    for tensor_name, tensor in before.items():
        assert after[tensor_name].dtype == tensor.dtype
        assert torch.equal(after[tensor_name], tensor) != any(writer in tensor_name for writer in writers), tensor_name


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt-neox", "qwen3-moe"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_of_the_source_is_kept(
    name: str, dtype: torch.dtype, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    source = resaved(family_folder(name), tmp_path / "source", dtype)
    direction = oracle.make_direction(tiny(name), 1)
    out = orthogonalize(str(source), direction, tmp_path / "edited")
    assert {tensor.dtype for tensor in read(out).values()} == {dtype}
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == dtype
    again = orthogonalize(
        str(out), direction, tmp_path / "again"
    )  # there is nothing left to take out, and that is fine
    exact = orthogonalize(str(family_folder(name)), direction, tmp_path / "exact")
    for folder in (out, again):
        for tensor_name, tensor in read(exact).items():
            error = (read(folder)[tensor_name].float() - tensor).norm()
            assert error < 2 * torch.finfo(dtype).eps * tensor.norm(), tensor_name


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt-neox", "mixtral"])
def test_shards_keep_their_names(name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    source = resaved(family_folder(name), tmp_path / "source", max_shard_size="60KB")
    direction = oracle.make_direction(tiny(name), 1)
    whole = read(orthogonalize(str(family_folder(name)), direction, tmp_path / "whole"))
    out = orthogonalize(str(source), direction, tmp_path / "edited")
    shards = sorted(file.name for file in source.glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(file.name for file in out.glob("*.safetensors")) == shards
    after = read(out)
    assert set(after) == set(whole)
    for tensor_name, tensor in whole.items():  # where a tensor lies in its file may change the order of a sum
        torch.testing.assert_close(after[tensor_name], tensor, atol=1e-6, rtol=0)

    index = json.loads((out / "model.safetensors.index.json").read_text())
    for shard in shards:
        with safe_open(out / shard, "pt") as file:
            assert {key for key, place in index["weight_map"].items() if place == shard} == set(file.keys())
            assert file.metadata() == {"format": "pt"}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values())
    ids = prompts(tiny(name))[0]
    difference = (logits(plainly(out), ids) - logits(tiny(name), ids, Variant.ablated(direction))).abs().max()
    assert difference < 1e-3 or name == "gemma3"


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_experts_in_one_tensor(name: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    source = resaved(family_folder(name), tmp_path / "source", save_original_format=False)
    assert read(source)["model.layers.0.mlp.experts.down_proj"].ndim == 3
    direction = oracle.make_direction(tiny(name), 1, rank=2)
    out = orthogonalize(str(source), direction, tmp_path / "edited")
    ids = prompts(tiny(name))[0]
    expected = logits(tiny(name), ids, Variant.ablated(direction))
    torch.testing.assert_close(logits(plainly(out), ids), expected, atol=1e-3, rtol=0)


def test_what_belongs_to_the_model_comes_along(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(family_folder("smollm3"), tmp_path / "source"))
    (source / "LICENSE").write_text("Do as you like.")
    (source / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\nThe first card.")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    stale = ["source.json", "consolidated.safetensors", "packed.safetensors", ".gitattributes", "pytorch_model.bin"]
    for name in [*stale, "pytorch_model.bin.index.json"]:
        (source / name).write_text("{}")
    before = digests(source)
    direction = oracle.make_direction(tiny("smollm3"), 1)
    out = orthogonalize(str(source), direction, str(tmp_path / "edited"))
    assert digests(source) == before
    new = {"README.md", "README.base.md", "model.safetensors", "config.json"}
    copied = {"LICENSE", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    copied |= {"additional_chat_templates/tool.jinja"}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == new | copied
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in copied)
    assert (out / "README.base.md").read_bytes() == (source / "README.md").read_bytes()
    assert card(out).startswith("---\nlanguage:\n- en\nlibrary_name: transformers\nlicense: apache-2.0\n")
    assert out.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o044 for path in out.iterdir()} == {0o044}  # others may read all of it

    chat = load_model(str(out), device="cpu", dtype=torch.float32)
    assert chat.revision == ""
    assert chat.encode([{"role": "user", "content": "Hello"}]) == tiny("smollm3").encode(
        [{"role": "user", "content": "Hello"}]
    )
    both = orthogonalize(str(out), oracle.make_direction(chat, 2), tmp_path / "both")  # no card is lost on the way
    assert (both / "README.base.md").read_bytes() == (out / "README.md").read_bytes()
    assert (both / "README.base.base.md").read_bytes() == (source / "README.md").read_bytes()


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_was_done(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    about = {"n_layers": 3, "data": "refusal", "data_sha256": "0123abcd", "model_label": "Tiny"}
    direction = replace(oracle.make_direction(tiny("llama3"), 1, rank=2), name="no | more\n# tables", card=about)
    text = card(orthogonalize(str(family_folder("llama3")), direction, tmp_path / "edited"))
    for fact in ("| Base model | llama3 |", "| Layer | 1 |", "| Position | -1 |", "| Data | refusal |", "0123abcd"):
        assert fact in text
    assert "| Direction | no \\| more # tables |" in text
    assert "| Rank k | 2 |" in text
    assert "`W ← W − R̂ᵀ R̂ W`" in text
    assert "so the edit is exact" in text
    assert "arXiv 2406.11717" in text
    assert "steering-playground 0." in text
    assert str(tmp_path) not in text
    assert str(family_folder("llama3")) not in text
    assert "base_model" not in text  # which is for the hub's names only


def test_a_basis_that_is_only_nearly_orthonormal_is_taken_out_whole(
    tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    direction = oracle.make_direction(tiny("llama3"), 1, rank=2)
    skewed = direction.ablation_basis * 1.0004
    skewed[1] += 4e-4 * skewed[0]
    out = orthogonalize(str(family_folder("llama3")), replace(direction, ablation_basis=skewed), tmp_path / "edited")
    assert left_in_the_stream(plainly(out), prompts(tiny("llama3"))[0], direction) < 1e-6


# --- what ends it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Cancelled("Stopped."), KeyboardInterrupt()])
def test_a_stop_at_any_report_leaves_nothing(
    error: BaseException, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    source = resaved(family_folder("qwen3"), tmp_path / "source", max_shard_size="200KB")
    before = digests(source)
    direction = oracle.make_direction(tiny("qwen3"), 1)
    reports: list[tuple[str, float, float]] = []
    orthogonalize(str(source), direction, tmp_path / "whole", progress=lambda *report: reports.append(report))
    assert [report[0] for report in reports if report[1] == report[2]] == [
        "Editing the weights",
        "Checking the weights",
    ]
    assert all(0 <= done <= total for _, done, total in reports)
    place = tmp_path / "place"
    place.mkdir()
    for last in range(len(reports)):
        seen = 0

        def stop(what: str, done: float, total: float, last: int = last) -> None:
            nonlocal seen
            seen += 1
            if seen == last + 1:
                raise error

        with pytest.raises(type(error)):
            orthogonalize(str(source), direction, place / "edited", progress=stop)
        assert list(place.iterdir()) == []
    assert digests(source) == before


def refused(source: Path | str, direction: Direction, out: Path, kind: type[SteeringError], match: str) -> None:
    """Nothing is written, and the sentence matches."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind, match=match) as caught:
        orthogonalize(str(source), direction, out)
    assert str(caught.value).endswith(".")
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_a_target_that_exists_is_left_alone(kind: str, tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "edited"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    refused(family_folder("llama3"), oracle.make_direction(tiny("llama3")), out, SteeringError, "edited exists already")


def test_a_target_in_new_folders(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    out = orthogonalize(str(family_folder("llama3")), oracle.make_direction(tiny("llama3")), tmp_path / "a" / "b" / "c")
    assert sorted(path.name for path in out.parent.iterdir()) == ["c"]


def test_a_target_below_a_file_gets_a_sentence(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SteeringError, match="cannot be written"):
        orthogonalize(str(family_folder("llama3")), oracle.make_direction(tiny("llama3")), tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_target_that_appears_meanwhile_is_left_alone(tiny: Tiny, family_folder: Folder, tmp_path: Path) -> None:
    def interfere(what: str, done: float, total: float) -> None:
        (tmp_path / "edited").mkdir(exist_ok=True)
        (tmp_path / "edited" / "mine").touch()

    with pytest.raises(SteeringError, match="edited cannot be written"):
        orthogonalize(
            str(family_folder("llama3")), oracle.make_direction(tiny("llama3")), tmp_path / "edited", progress=interfere
        )
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["edited", "edited/mine"]


def test_a_full_disk_is_said_before_anything_is_written(
    tiny: Tiny, family_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(file.stat().st_size for file in family_folder("qwen3").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))  # but not for the output matrix
    direction = oracle.make_direction(tiny("qwen3"))
    refused(family_folder("qwen3"), direction, tmp_path / "edited", SteeringError, r"needs 0\.0 GB and .* GB free")
    refused(family_folder("qwen3"), direction, tmp_path / "edited", SteeringError, "make room")


@pytest.mark.parametrize(
    ("width", "layers", "layer"),
    [(32, 3, 1), (64, 4, 1), (64, 3, 3), (64, 3, -1)],
)
def test_a_direction_that_does_not_fit_is_refused_with_both_numbers(
    width: int, layers: int, layer: int, family_folder: Folder, tmp_path: Path
) -> None:
    vector = torch.ones(width)
    direction = Direction(vector, (vector / vector.norm())[None], layer, -1, 1.0, "odd", {"n_layers": layers})
    sentence = rf"“odd” was made for a model of width {width} with {layers} layers.*llama3 has width 64 and 3 layers"
    refused(family_folder("llama3"), direction, tmp_path / "edited", DirectionError, sentence)


def test_without_direction_or_folder_there_is_a_sentence(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="Say which direction"):
        orthogonalize(out=tmp_path / "edited")
    with pytest.raises(SteeringError, match="which folder to write"):
        orthogonalize(direction=oracle.make_direction(tiny("llama3")))


def changed(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def without(folder: Path, *names: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensors[name] for name in tensors if name not in names}, folder / "model.safetensors")


def with_tensor(folder: Path, name: str, tensor: Tensor) -> None:
    save_file({**load_file(folder / "model.safetensors"), name: tensor}, folder / "model.safetensors")


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def indexed(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


O_PROJ, DOWN_PROJ = "model.layers.2.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "quantised": (
        lambda folder: changed(folder, quantization_config={"quant_method": "awq"}),
        r"are quantised \(awq\).*Choose the model they were made from",
    ),
    "eight bits": (
        lambda folder: with_tensor(folder, O_PROJ, torch.zeros(64, 64, dtype=torch.float8_e4m3fn)),
        r"are quantised \(F8_E4M3\)",
    ),
    "unknown": (lambda folder: changed(folder, model_type="banana"), "The architecture “banana” is not known here"),
    "no config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json in .* cannot be read"),
    "no attention": (lambda folder: without(folder, O_PROJ), "lack what layer 2 writes, or have it under an unknown"),
    "no MLP": (lambda folder: without(folder, DOWN_PROJ), "lack what layer 1 writes"),
    "no embedding": (lambda folder: without(folder, "model.embed_tokens.weight"), "lack model.embed_tokens.weight"),
    "no output": (lambda folder: without(folder, "lm_head.weight"), "lack lm_head.weight"),
    "misshapen": (
        lambda folder: with_tensor(folder, DOWN_PROJ, torch.zeros(128, 64)),
        r"has the shape \[128, 64\], which does not fit the width 64",
    ),
    "not finite": (
        lambda folder: with_tensor(folder, DOWN_PROJ, torch.full((64, 128), torch.nan)),
        "did not pass its check: model.layers.1.mlp.down_proj.weight still writes along the direction, or holds",
    ),
    "cut": (cut, r"model\.safetensors cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors weights"),
    "broken index": (lambda folder: indexed(folder, "{}"), r"index\.json in .* cannot be read"),
    "index of nothing": (lambda folder: indexed(folder, '{"weight_map": {"a": "b.safetensors"}}'), "b.safetensors are"),
    "index that leads out": (
        lambda folder: indexed(folder, '{"weight_map": {"a": "../source/config.json"}}'),
        "The weights ../source/config.json are not in",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_source_that_cannot_be_edited_gets_a_sentence(
    damage: str, tiny: Tiny, family_folder: Folder, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(family_folder("llama3"), tmp_path / "source"))
    apply, sentence = DAMAGES[damage]
    apply(source)
    kind = SteeringError if damage == "not finite" else ModelError
    refused(source, oracle.make_direction(tiny("llama3")), tmp_path / "edited", kind, sentence)


def test_a_source_that_is_nowhere_gets_the_loaders_sentence(tiny: Tiny, tmp_path: Path) -> None:
    direction = oracle.make_direction(tiny("llama3"))
    with pytest.raises(ModelError, match="There is no file"):
        orthogonalize(str(tmp_path / "absent.gguf"), direction, tmp_path / "edited")
    with pytest.raises(ModelError, match="neither a folder nor"):
        orthogonalize("nonsense", direction, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []
