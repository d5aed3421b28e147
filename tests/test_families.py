"""The zoo of tiny models is sound: what other tests conclude from it would hold for a real model of the family."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from families import FAMILIES, REFUSED, build
from jinja2 import TemplateError
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

QUESTIONS = ("Write a poem about the moon.", "Why is the sky blue?")
TIED = {"qwen2", "qwen3", "gemma", "gemma2", "gemma2-narrow", "gemma3", "smollm3", "cohere"}
THINKING = {"qwen3", "qwen3-moe", "smollm3"}

ROPE_10K = {"rope_type": "default", "rope_theta": 10_000.0}

# A setting of the family, changed: if the reply's logits stay the same, the tiny model does not exercise the setting.
QUIRKS = [
    ("llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 32}),
    ("gemma2-narrow", {"sliding_window": 4096}),
    ("gemma3", {"sliding_window": 4096}),
    ("gemma3", {"rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), ROPE_10K)}),
    ("mistral", {"sliding_window": None}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
    ("cohere", {"logit_scale": 1.0}),
    ("gpt-neox", {"use_parallel_residual": False}),
    ("qwen3-moe", {"num_experts_per_tok": 1}),
    ("mixtral", {"num_experts_per_tok": 1}),
]

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def load(family_folder: Callable[[str], Path]) -> Callable[[str], Loaded]:
    @cache
    def loaded(name: str) -> Loaded:
        folder = family_folder(name)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return loaded


def prompt(tokenizer: PreTrainedTokenizerBase, question: str, **options: bool) -> str:
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    return tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids


@torch.no_grad()
def next_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits[0, -1]


@pytest.mark.parametrize("name", FAMILIES + REFUSED)
def test_folder_is_complete_and_small(name: str, family_folder: Callable[[str], Path], load: Callable) -> None:
    folder = family_folder(name)
    written = {file.name for file in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    } <= written
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2 * 2**20
    model, tokenizer = load(name)
    assert model.dtype == torch.float32
    assert 300 <= len(tokenizer) <= model.config.vocab_size <= 600
    assert model.get_input_embeddings().weight.shape == (model.config.vocab_size, model.config.hidden_size)
    assert model.generation_config.eos_token_id is not None


@pytest.mark.parametrize("name", ["llama2", "gemma3", "qwen3-moe"])
def test_building_twice_gives_the_same_bytes(name: str, family_folder: Callable, tmp_path: Path) -> None:
    again = build(name, tmp_path / name)
    for file in family_folder(name).iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_replies_vary_and_have_no_near_ties(name: str, load: Callable) -> None:
    model, tokenizer = load(name)
    beginnings = set()
    for question in QUESTIONS:
        ids = encode(tokenizer, prompt(tokenizer, question))
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=1.0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        reply = output.sequences[0, ids.shape[1] :].tolist()
        assert len(reply) == 24, "ended early"
        assert len(set(reply[:12])) >= 5, f"keeps repeating itself: {reply}"
        assert max(reply) < len(tokenizer), "a padding row won"
        best = torch.stack(output.logits)[:, 0].topk(2, dim=-1).values
        assert (best[:, 0] - best[:, 1]).min() > 0.01, "a near-tie: rounding could turn the reply"
        beginnings.add(tuple(reply[:3]))
    assert len(beginnings) == len(QUESTIONS)


@pytest.mark.parametrize("name", FAMILIES)
def test_stream_and_logits_are_of_a_sensible_size(name: str, load: Callable) -> None:
    model, tokenizer = load(name)
    first, second = (encode(tokenizer, prompt(tokenizer, question)) for question in QUESTIONS[:2])
    with torch.no_grad():
        output = model(first, output_hidden_states=True)
    for entering in output.hidden_states[:-1]:  # the last one is behind the final norm
        assert 0.2 < entering.pow(2).mean().sqrt() < 6
    logits = output.logits[0, -1]
    assert 1 < logits.std() < 5
    assert (logits - next_logits(model, second)).abs().max() > 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_matters(name: str, load: Callable) -> None:
    """A hook or a weight edit that forgot one of them must be able to show."""
    model, tokenizer = load(name)
    ids = encode(tokenizer, prompt(tokenizer, QUESTIONS[0]))
    logits = model(ids).logits[0].log_softmax(-1)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]].mean(), parameters.values())
    dead = [path for path, gradient in zip(parameters, gradients, strict=True) if gradient.abs().max() < 1e-5]
    assert not dead
    norms = [weight for path, weight in parameters.items() if "norm" in path and weight.ndim == 1]
    assert norms
    assert all(weight.std() > 0.1 for weight in norms)
    biases = [weight for path, weight in parameters.items() if path.endswith(".bias")]
    assert bool(biases) == (name in {"qwen1.5", "qwen2", "gpt-neox", "llama-merging"})
    assert all(weight.abs().mean() > 0.1 for weight in biases)


@pytest.mark.parametrize(("name", "setting"), QUIRKS)
def test_quirk_changes_the_reply(name: str, setting: dict, load: Callable, family_folder: Callable) -> None:
    model, tokenizer = load(name)
    changed = AutoModelForCausalLM.from_pretrained(family_folder(name), local_files_only=True, **setting).eval()
    ids = encode(tokenizer, prompt(tokenizer, " ".join(QUESTIONS)))
    assert (next_logits(model, ids) - next_logits(changed, ids)).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES + REFUSED)
def test_embeddings_are_tied_as_in_the_family(name: str, family_folder: Callable, load: Callable) -> None:
    model, _ = load(name)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with safe_open(family_folder(name) / "model.safetensors", "pt") as stored:
        stored_head = any(key.startswith(("lm_head", "embed_out")) for key in stored.keys())  # noqa: SIM118
    assert tied == (name in TIED)
    assert stored_head != tied


@pytest.mark.parametrize("name", FAMILIES)
def test_template_renders(name: str, load: Callable) -> None:
    _, tokenizer = load(name)
    text = prompt(tokenizer, "What is a reed?")
    assert text.count("What is a reed?") == 1
    assert not text.endswith("What is a reed?"), "nothing stands between the question and the reply"
    history = [
        {"role": "user", "content": "What is a reed?"},
        {"role": "assistant", "content": "A tall grass."},
        {"role": "user", "content": "Where does it grow?"},
    ]
    longer = tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
    assert longer.index("What is a reed?") < longer.index("A tall grass.") < longer.index("Where does it grow?")
    for token in tokenizer.all_special_tokens:
        if token in text:
            assert tokenizer.convert_tokens_to_ids(token) in encode(tokenizer, text)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_system_message_goes_where_the_family_puts_it(name: str, load: Callable) -> None:
    _, tokenizer = load(name)
    conversation = [
        {"role": "system", "content": "Speak like a sailor."},
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": "Aye."},
        {"role": "user", "content": "Should I go out?"},
    ]
    if name in {"gemma", "gemma2", "gemma2-narrow", "mixtral"}:
        with pytest.raises(TemplateError):
            tokenizer.apply_chat_template(conversation, tokenize=False)
        return
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert text.count("Speak like a sailor.") == 1
    late = name == "mistral"  # it moves into the newest question
    assert (text.index("Speak like a sailor.") > text.index("Is it raining?")) == late


@pytest.mark.parametrize("name", FAMILIES)
def test_thinking_switch(name: str, load: Callable) -> None:
    _, tokenizer = load(name)
    on = prompt(tokenizer, QUESTIONS[0], enable_thinking=True)
    off = prompt(tokenizer, QUESTIONS[0], enable_thinking=False)
    assert ("</think>" in off) == (name in THINKING)
    assert (on != off) == (name in THINKING)
    assert prompt(tokenizer, QUESTIONS[0]) == on, "thinking is the model's own default"


@pytest.mark.parametrize(("name", "merged"), [("llama-merging", ".\n\n"), ("olmo2", ".\n"), ("qwen2", None)])
def test_last_character_merges_with_the_template(name: str, merged: str | None, load: Callable) -> None:
    _, tokenizer = load(name)
    text = prompt(tokenizer, QUESTIONS[0])
    end = text.index(QUESTIONS[0]) + len(QUESTIONS[0])
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    across = [text[start:stop] for start, stop in spans if start < end < stop]
    assert across == ([merged] if merged else [])


def test_chat_template_is_stored_in_either_place(family_folder: Callable) -> None:
    def in_config(name: str) -> bool:
        return "chat_template" in json.loads((family_folder(name) / "tokenizer_config.json").read_text())

    assert in_config("llama3")
    assert (family_folder("smollm3") / "chat_template.jinja").exists()
    assert not in_config("smollm3")
    assert not in_config("no-template")
    assert not (family_folder("no-template") / "chat_template.jinja").exists()


@pytest.mark.parametrize("name", ["llama2", "llama3", "gemma", "mistral", "mixtral", "cohere"])
def test_encoding_a_rendered_template_carelessly_doubles_the_bos(name: str, load: Callable) -> None:
    _, tokenizer = load(name)
    text = prompt(tokenizer, QUESTIONS[0])
    assert tokenizer(text).input_ids[:2] == [tokenizer.bos_token_id] * 2
    assert encode(tokenizer, text)[0, :2].tolist().count(tokenizer.bos_token_id) == 1


def test_unknown_is_a_class_without_attention(load: Callable) -> None:
    model, _ = load("unknown")
    assert type(model).__name__ == "MambaForCausalLM"
    ids = torch.tensor([[5, 6, 7]])
    assert next_logits(model, ids).isfinite().all()
