"""Tiny random chat models, one of every architecture family that must work, and some that must be refused.

``build(name, folder)`` writes a complete model folder as a hub repository has it: config, safetensors, tokenizer, chat
template, generation config. ``family_specs.py`` says what each is made of. The weights are random but not degenerate:
every norm and bias matters, the residual stream is of order 1, and greedy decoding has no near-ties.
"""

import math
import zlib
from pathlib import Path

import torch
from family_specs import ALL, SIZES, Family
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

REFUSED: tuple[str, ...] = ("unknown", "no-template")
FAMILIES: tuple[str, ...] = tuple(name for name in ALL if name not in REFUSED)


def build(name: str, folder: Path) -> Path:
    """Write the tiny model ``name`` (one of ``FAMILIES`` or ``REFUSED``) into ``folder``, the same bytes every time."""
    family = ALL[name]
    folder.mkdir(parents=True, exist_ok=True)
    backend = family.tokenizer()
    _write_tokenizer(family, backend, folder)

    rows = math.ceil(backend.get_vocab_size() / family.vocabulary_multiple) * family.vocabulary_multiple
    eos = [backend.token_to_id(token) for token in family.eos]
    special = {
        "bos_token_id": backend.token_to_id(family.bos) if family.bos else None,
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "pad_token_id": backend.token_to_id(family.pad) if family.pad else None,
    }
    config = family.config_class(**{**SIZES, **family.settings, **special, "vocab_size": rows})
    seed = zlib.crc32(name.encode()) + family.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _fill(model, family, torch.Generator().manual_seed(seed), used_rows=backend.get_vocab_size())
    model.generation_config = GenerationConfig(**special, **family.generation)
    model.save_pretrained(folder)
    return folder


def _write_tokenizer(family: Family, backend: Tokenizer, folder: Path) -> None:
    named = {"bos_token": family.bos, "eos_token": family.eos[0], "pad_token": family.pad}
    if "<unk>" in backend.get_vocab():
        named["unk_token"] = "<unk>"
    if family.template is not None:
        named["chat_template"] = family.template
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.save_pretrained(folder, save_jinja_files=family.template_in_own_file)


# How far each kind of matrix spreads what it reads: queries and keys sharpen attention, and what is written to the
# stream outweighs the embedding, which would otherwise make a model with tied weights repeat its last token.
_GAINS = {
    "q_proj": 1.5,
    "k_proj": 1.5,
    "o_proj": 2.0,
    "dense": 2.0,
    "out_proj": 8.0,
    "down_proj": 2.5,
    "dense_4h_to_h": 2.5,
}
_FINAL_NORMS = ("norm", "final_layer_norm", "norm_f")


@torch.no_grad()
def _fill(model: nn.Module, family: Family, generator: torch.Generator, used_rows: int) -> None:
    """Draw every weight. Norm factors lie between 0.5 and 1.5 times their mean, biases are of order 0.3."""

    def draw(parameter: torch.Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    output = model.get_output_embeddings()
    tied = output.weight is model.get_input_embeddings().weight
    embedding_std = family.embedding_std or (0.25 if tied else 0.5)
    output_std = embedding_std if tied else 3 / math.sqrt(output.in_features)
    final_norm = family.final_norm or 3 / (output_std * math.sqrt(output.in_features))
    for path, module in model.named_modules():
        kind, own_name = type(module).__name__, path.rpartition(".")[2]
        if isinstance(module, nn.Embedding):
            draw(module.weight, embedding_std)
        elif kind.endswith("Experts"):
            draw(module.gate_up_proj, 1 / math.sqrt(module.gate_up_proj.shape[-1]))
            draw(module.down_proj, 2.5 / math.sqrt(module.down_proj.shape[-1]))
        elif kind.endswith("Router"):
            draw(module.weight, 2 / math.sqrt(module.weight.shape[-1]))
        elif module is output:
            if not tied:
                draw(module.weight, output_std)
        elif isinstance(module, nn.Linear):
            draw(module.weight, _GAINS.get(own_name, 1.0) / math.sqrt(module.in_features))
        elif kind.endswith("Norm"):
            mean = final_norm if own_name in _FINAL_NORMS else 1.0
            factors = mean * (0.5 + torch.rand(module.weight.shape, generator=generator))
            # Gemma's norms multiply by one plus their weight.
            module.weight.copy_(factors - 1 if kind.startswith("Gemma") else factors)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            draw(module.bias, 0.3)
    # Padding rows stand for no token: their logit is 0, far below the largest.
    for embedding in {model.get_input_embeddings(), output}:
        embedding.weight[used_rows:] = 0
