"""What each tiny model of the zoo is made of: config class and settings, tokenizer, template, special tokens.

Each keeps its family's quirks: where norms stand, tied or untied embeddings, biases, query and key norms, sliding
windows, soft caps, scaled embeddings, missing pad tokens, vocabularies padded beyond the tokenizer. Two are there to
catch a caller out, as the real models do: the generation config of Qwen2 asks for sampling and a repetition penalty,
and the tokenizers of Llama, Gemma, Mistral and Cohere add a BOS that their templates write as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import family_templates as templates
import transformers
from family_tokenizers import byte_level, metaspace
from tokenizers import Tokenizer
from transformers import PretrainedConfig

NARROW_WINDOW = 16  # tokens: less than any prompt, so that attention really forgets
WIDE_WINDOW = 4096  # more than any prompt


@dataclass(frozen=True)
class Family:
    """How one tiny model is made: its config class and settings, its tokenizer, its template."""

    config_class: type[PretrainedConfig]
    tokenizer: Callable[[], Tokenizer]
    template: str | None
    eos: tuple[str, ...]  # the first is the tokenizer's own, all of them end a reply
    bos: str | None = None
    pad: str | None = None
    settings: dict = field(default_factory=dict)  # what differs from SIZES
    generation: dict = field(default_factory=dict)  # further entries of generation_config.json
    embedding_std: float | None = None  # None: large enough to matter, small where it is tied
    final_norm: float | None = None  # mean of the last norm's factors; None: what gives the logits a spread of about 3
    vocabulary_multiple: int = 1  # rows beyond the tokenizer's last token, as many families have them
    template_in_own_file: bool = False
    seed: int = 0  # chosen so that greedy replies vary, and do not end within 24 tokens (test_families.py holds it)


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINKING_TOKENS = (*_CHATML_TOKENS, "<think>", "</think>")
_LLAMA_3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_PHI_3_TOKENS = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
_COHERE_TOKENS = (
    *("<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
)
_GPT_NEOX_TOKENS = ("<|endoftext|>", "<|padding|>", "<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>")

_QWEN_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
_GEMMA_2_SETTINGS = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,  # not the head's width, as in the 27B model
    "attn_logit_softcapping": 2.0,  # low enough to bend these models' logits
    "final_logit_softcapping": 10.0,
    "tie_word_embeddings": True,
}


def _gemma_tokenizer() -> Tokenizer:
    return metaspace(_GEMMA_TOKENS, bos="<bos>", prepend=None, own_newline=True)


def _gemma(config_class: type[PretrainedConfig], template: str, settings: dict, seed: int = 0) -> Family:
    return Family(
        config_class=config_class,
        tokenizer=_gemma_tokenizer,
        template=template,
        eos=("<eos>", "<end_of_turn>"),
        bos="<bos>",
        pad="<pad>",
        settings=settings,
        embedding_std=0.3 / math.sqrt(SIZES["hidden_size"]),  # these models multiply it by the root of the width
        seed=seed,
    )


def _qwen(config_class: type[PretrainedConfig], template: str, settings: dict, **more: object) -> Family:
    tokens = _THINKING_TOKENS if template == templates.CHATML_THINKING else _CHATML_TOKENS
    return Family(
        config_class=config_class,
        tokenizer=lambda: byte_level(tokens),
        template=template,
        eos=("<|im_end|>", "<|endoftext|>"),
        pad="<|endoftext|>",
        settings=settings,
        vocabulary_multiple=64,
        **more,
    )


ALL: dict[str, Family] = {
    "llama2": Family(
        config_class=transformers.LlamaConfig,
        tokenizer=lambda: metaspace(("<unk>", "<s>", "</s>"), bos="<s>", prepend="always"),
        template=templates.LLAMA_2,
        eos=("</s>",),
        bos="<s>",
        settings={"num_key_value_heads": 4},
    ),
    "llama3": Family(
        config_class=transformers.LlamaConfig,
        tokenizer=lambda: byte_level(_LLAMA_3_TOKENS, bos="<|begin_of_text|>"),
        template=templates.LLAMA_3,
        eos=("<|eot_id|>", "<|end_of_text|>"),
        bos="<|begin_of_text|>",
        settings={
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,  # short, so that the scaling reaches these prompts
            }
        },
        seed=6,
    ),
    "qwen1.5": _qwen(
        transformers.Qwen2Config, templates.CHATML_WITH_DEFAULT_SYSTEM, settings={"num_key_value_heads": 4}, seed=4
    ),
    "qwen2": _qwen(
        transformers.Qwen2Config,
        templates.CHATML_WITH_DEFAULT_SYSTEM,
        settings={"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        generation=_QWEN_SAMPLING,
        seed=15,
    ),
    "qwen3": _qwen(
        transformers.Qwen3Config,
        templates.CHATML_THINKING,
        settings={"head_dim": 32, "tie_word_embeddings": True},
        seed=17,
    ),
    "yi": Family(
        config_class=transformers.LlamaConfig,
        tokenizer=lambda: metaspace(("<unk>", "<|startoftext|>", *_CHATML_TOKENS), prepend=None, own_newline=True),
        template=templates.CHATML,
        eos=("<|im_end|>",),
        bos="<|startoftext|>",
        pad="<unk>",
        settings={"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
        seed=1,
    ),
    "gemma": _gemma(
        transformers.GemmaConfig,
        templates.GEMMA,
        settings={"num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": True},
        seed=6,
    ),
    "gemma2": _gemma(
        transformers.Gemma2Config, templates.GEMMA, {**_GEMMA_2_SETTINGS, "sliding_window": WIDE_WINDOW}, seed=12
    ),
    "gemma2-narrow": _gemma(
        transformers.Gemma2Config, templates.GEMMA, {**_GEMMA_2_SETTINGS, "sliding_window": NARROW_WINDOW}, seed=28
    ),
    "gemma3": _gemma(
        transformers.Gemma3TextConfig,
        templates.GEMMA_3,
        settings={
            "num_hidden_layers": 4,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": NARROW_WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
            },
            "tie_word_embeddings": True,
        },
        seed=1,
    ),
    "mistral": Family(
        config_class=transformers.MistralConfig,
        tokenizer=lambda: metaspace(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), bos="<s>"),
        template=templates.MISTRAL,
        eos=("</s>",),
        bos="<s>",
        settings={"sliding_window": NARROW_WINDOW},  # on every layer, as in the first version
        seed=3,
    ),
    "phi3": Family(
        config_class=transformers.Phi3Config,
        tokenizer=lambda: metaspace(_PHI_3_TOKENS, strip_after=("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")),
        template=templates.PHI_3,
        eos=("<|endoftext|>", "<|end|>", "<|assistant|>"),
        bos="<s>",
        pad="<|endoftext|>",
        settings={"sliding_window": 2047},
        vocabulary_multiple=64,
        seed=4,
    ),
    "smollm3": Family(
        config_class=transformers.SmolLM3Config,
        tokenizer=lambda: byte_level(_THINKING_TOKENS),
        template=templates.SMOLLM3,
        eos=("<|im_end|>",),
        bos="<|endoftext|>",
        pad="<|im_end|>",  # one token for both, as in the family: padding must go by the mask, not by the id
        settings={"num_hidden_layers": 4, "no_rope_layer_interval": 2, "tie_word_embeddings": True},
        template_in_own_file=True,
        seed=9,
    ),
    "olmo2": Family(
        config_class=transformers.Olmo2Config,
        tokenizer=lambda: byte_level(("<|endoftext|>", "<|pad|>")),
        template=templates.OLMO_2,
        eos=("<|endoftext|>",),
        bos="<|endoftext|>",
        pad="<|pad|>",
        vocabulary_multiple=64,
    ),
    "cohere": Family(
        config_class=transformers.CohereConfig,
        tokenizer=lambda: byte_level(_COHERE_TOKENS, bos="<BOS_TOKEN>"),
        template=templates.COHERE,
        eos=("<|END_OF_TURN_TOKEN|>",),
        bos="<BOS_TOKEN>",
        pad="<PAD>",
        settings={"logit_scale": 0.25, "use_qk_norm": True, "tie_word_embeddings": True},
        final_norm=6.0,
        seed=5,
    ),
    "gpt-neox": Family(
        config_class=transformers.GPTNeoXConfig,
        tokenizer=lambda: byte_level(_GPT_NEOX_TOKENS),
        template=templates.GPT_NEOX,
        eos=("<|endoftext|>",),
        bos="<|endoftext|>",
        settings={
            "use_parallel_residual": True,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25},
        },
        vocabulary_multiple=64,
        seed=108,
    ),
    "qwen3-moe": _qwen(
        transformers.Qwen3MoeConfig,
        templates.CHATML_THINKING,
        settings={
            "head_dim": 32,
            "moe_intermediate_size": 48,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],  # one plain MLP among the mixtures
        },
    ),
    "mixtral": Family(
        config_class=transformers.MixtralConfig,
        tokenizer=lambda: metaspace(("<unk>", "<s>", "</s>"), bos="<s>"),
        template=templates.MIXTRAL,
        eos=("</s>",),
        bos="<s>",
        settings={"intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "llama-merging": Family(
        config_class=transformers.LlamaConfig,
        tokenizer=lambda: byte_level(("<|endoftext|>",)),
        template=templates.PLAIN_HEADINGS,
        eos=("<|endoftext|>",),
        settings={"attention_bias": True, "mlp_bias": True},
        seed=4,
    ),
    "unknown": Family(
        config_class=transformers.MambaConfig,
        tokenizer=lambda: byte_level(_CHATML_TOKENS),
        template=templates.CHATML,
        eos=("<|im_end|>",),
        pad="<|endoftext|>",
        settings={"state_size": 8},
        seed=25,
    ),
    "no-template": Family(
        config_class=transformers.LlamaConfig,
        tokenizer=lambda: byte_level(("<|endoftext|>",)),
        template=None,
        eos=("<|endoftext|>",),
        seed=3,
    ),
}
