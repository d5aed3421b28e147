"""The catalogue of models: what is listed, what fits, and what a broken file is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from steering.architectures import LAYOUTS
from steering.catalogue import CatalogueEntry, fits, free_memory, load_catalogue
from steering.errors import SteeringError

# Arditi et al. 2024, table 1.
PAPER = {
    *("Qwen/Qwen-1_8B-Chat", "Qwen/Qwen-7B-Chat", "Qwen/Qwen-14B-Chat", "Qwen/Qwen-72B-Chat"),
    *("01-ai/Yi-6B-Chat", "01-ai/Yi-34B-Chat", "google/gemma-2b-it", "google/gemma-7b-it"),
    *("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-13b-chat-hf", "meta-llama/Llama-2-70b-chat-hf"),
    *("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-70B-Instruct"),
}

ENTRY = CatalogueEntry(
    id="someone/small-chat",
    download_bytes=14_000_000_000,
    memory_bytes=15_000_000_000,
    parameters=7_000_000_000,
    unquantized_parameters=1_000_000_000,
    gated=False,
    licence="MIT",
    family="llama",
    good_for="Tests.",
)

BUNDLED_TABLE = """
[[model]]
id = "bundled"
download_bytes = 93_000_000
memory_bytes = 1_000_000_000
parameters = 135_000_000
unquantized_parameters = 28_000_000
gated = false
licence = "Apache-2.0"
family = "llama"
good_for = "A start."
"""
OTHER_TABLE = BUNDLED_TABLE.replace("bundled", "someone/small-chat")


@pytest.fixture(scope="module")
def catalogue() -> list[CatalogueEntry]:
    return load_catalogue()


def test_the_bundled_model_comes_first(catalogue: list[CatalogueEntry]) -> None:
    assert catalogue[0].id == "bundled"
    assert catalogue[0].label == "SmolLM2-135M-Instruct"


def test_the_papers_thirteen_are_marked(catalogue: list[CatalogueEntry]) -> None:
    assert {entry.id for entry in catalogue if entry.paper} == PAPER


def test_each_model_with_its_own_code_has_a_stand_in_of_the_same_size(catalogue: list[CatalogueEntry]) -> None:
    by_id = {entry.id: entry for entry in catalogue}
    unsupported = [entry for entry in catalogue if entry.unsupported]
    assert {entry.family for entry in unsupported} == {"qwen"}
    for entry in unsupported:
        assert entry.stand_in in by_id
        assert by_id[entry.stand_in].parameters == entry.parameters
        assert entry.stand_in.split("/")[1] in entry.unsupported


def test_every_usable_family_is_known_here(catalogue: list[CatalogueEntry]) -> None:
    assert {entry.family for entry in catalogue if not entry.unsupported} <= set(LAYOUTS)


def test_what_is_good_for_a_person_to_read_is_one_sentence(catalogue: list[CatalogueEntry]) -> None:
    for entry in catalogue:
        assert re.fullmatch(r"[A-Z][^.]*(\.\d[^.]*)*\.", entry.good_for), entry.good_for


def test_bundled_figures_are_those_of_the_model(catalogue: list[CatalogueEntry]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    in_blocks = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n
    )
    assert catalogue[0].parameters == model.num_parameters()
    assert catalogue[0].unquantized_parameters == model.num_parameters() - in_blocks


@pytest.mark.parametrize(
    ("free", "quantization", "fit", "sentence"),
    [
        (9_000_000_000, None, False, "Needs 15 GB of memory; 9 GB are free. In 4 bits it would need 6.4 GB."),
        (5_950_000_000, None, False, "Needs 15 GB of memory; 5.9 GB are free."),
        (9_000_000_000, "4bit", True, "Downloads 14 GB once; needs 6.4 GB of memory."),
        (8_999_999_999, "8bit", False, "Needs 9 GB of memory; 8.9 GB are free."),
        (9_000_000_000, "8bit", True, "Downloads 14 GB once; needs 9 GB of memory."),
        (15_000_000_000, None, True, "Downloads 14 GB once; needs 15 GB of memory."),
        (640_000_000, None, False, "Needs 15 GB of memory; 640 MB are free."),
    ],
)
def test_what_fits_is_told_in_a_sentence(free: int, quantization: str | None, fit: bool, sentence: str) -> None:
    assert fits(ENTRY, free, quantization) == (fit, sentence)


def test_a_shortage_shows_in_the_rounded_figures() -> None:
    _, sentence = fits(replace(ENTRY, memory_bytes=15_010_000_000), 15_000_000_001)
    assert sentence.startswith("Needs 15.1 GB of memory; 15 GB are free.")


def test_an_unsupported_model_never_fits() -> None:
    assert fits(replace(ENTRY, unsupported="It cannot run here."), 10**15) == (False, "It cannot run here.")


def test_a_gated_model_needs_a_token_or_to_be_here_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    gated = replace(ENTRY, gated=True)
    assert fits(gated, 10**12) == (False, "Gated: accept its licence on its page and set HF_TOKEN.")
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert fits(gated, 10**12)[0]


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(SteeringError, match="“8bit” or “4bit”, not “2bit”"):
        fits(ENTRY, 10**12, "2bit")


def test_free_memory_on_the_cpu_is_what_the_system_says() -> None:
    assert free_memory("cpu") == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(BUNDLED_TABLE + OTHER_TABLE, encoding="utf-8")
    assert [entry.id for entry in load_catalogue(path)] == ["bundled", "someone/small-chat"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "lists no model"),
        ("model = 3", "lists no model"),
        ("model = [3]", "Model 1 .* is not a table"),
        ("[[model]\nid = 3", "is not valid TOML: .*line 1"),
        (OTHER_TABLE, "starts with someone/small-chat"),
        (BUNDLED_TABLE * 2, "Model 2 .* repeats bundled"),
        (BUNDLED_TABLE.replace("licence", "license"), r"Model 1 .*\(bundled\) has an unknown field “license”"),
        (BUNDLED_TABLE.replace("gated = false\n", ""), r"\(bundled\) has no “gated”"),
        (BUNDLED_TABLE.replace("gated = false", "gated = 0"), "“gated” is true or false, not 0"),
        (BUNDLED_TABLE.replace("93_000_000", "true"), "“download_bytes” is a whole number, not True"),
        (BUNDLED_TABLE.replace("93_000_000", "93e6"), "“download_bytes” is a whole number"),
        (BUNDLED_TABLE.replace("93_000_000", "0"), "“download_bytes” is empty or not above zero"),
        (BUNDLED_TABLE.replace('"A start."', '""'), "“good_for” is empty"),
        (BUNDLED_TABLE.replace('"A start."', "3"), "“good_for” is text in quotes, not 3"),
        (BUNDLED_TABLE.replace("28_000_000", "280_000_000"), "more parameters unquantized than it has"),
        (BUNDLED_TABLE.replace("1_000_000_000", "1_000_000"), "less than 2 bytes a parameter"),
        (BUNDLED_TABLE + 'revision = "main"', "revision main is not a commit"),
        (BUNDLED_TABLE + 'stand_in = "a/b"', "no “unsupported” sentence"),
        (BUNDLED_TABLE + 'unsupported = "No."\nstand_in = "a/b"', "gives a/b as a stand-in for bundled"),
        (BUNDLED_TABLE + OTHER_TABLE.replace("someone/small-chat", "just-a-name"), "neither “bundled” nor a hub id"),
    ],
)
def test_a_broken_file_is_told_what_is_wrong_and_where(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SteeringError, match=complaint) as raised:
        load_catalogue(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="cannot be read"):
        load_catalogue(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(SteeringError, match="not a text file in UTF-8"):
        load_catalogue(tmp_path / "binary.toml")
