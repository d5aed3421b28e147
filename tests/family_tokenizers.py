"""Two kinds of small tokenizer, trained on the text below: byte-level BPE, and BPE on metaspaces with byte fallback."""

import json
import string
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

CORPUS = (
    "The harbour was quiet in the morning.\n\nA boat with a red sail came in.\n",
    "What should I cook tonight?\n\nTry a soup with beans, onions and a little lemon.\n",
    "How does a bicycle stay upright?\n\nIt steers into the fall, again and again.\n",
    "Write a poem about the moon.\n\nThe moon is a coin in the pocket of the night.\n",
    "Why is the sky blue?\n\nBecause air scatters blue light more than red light.\n",
    "Tell me about the sea.\n\nThe sea is wide and cold, and it is never still.\n",
    "Please help me with a letter to my landlord.\n\nOf course. What is it about?\n",
    "You are a helpful assistant. You answer the user in short and simple words.\n",
    "Explain how to make tea.\n\nBoil the water, wait a minute, then pour it over the leaves.\n",
    "Is it going to rain?\n\nI cannot see the sky from here, but the clouds look heavy.\n",
    "My brother and my sister work in the city; their mother lives near the river.\n",
    "Give me three ideas for a birthday present: a book, a walk, a song.\n",
    "I am sorry, but I cannot help with that. I can help you with something else.\n",
    "Grüße aus Köln, où il fait beau. 今日は海が青い。 42 ducks, 7 geese, 1999 reeds.\n",
)

# Letters, single digits, punctuation with the newlines after it, and spaces: newer families let a full stop take the
# newlines that follow it, which is how a user's last character merges with a template.
_WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(special: Sequence[str], bos: str | None = None, merges: int = 130) -> Tokenizer:
    """BPE over bytes, as GPT-2, Llama 3, Qwen and their kin have it.

    ``special`` come after the learned tokens, as in those families. With ``bos``, ``encode`` puts it in front unless
    told not to, so that a template which also writes it gets two: the mistake a caller must not make.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    _add_bos(tokenizer, bos)
    return tokenizer


def metaspace(
    special: Sequence[str],
    bos: str | None = None,
    prepend: str | None = "first",
    own_newline: bool = False,
    strip_after: Sequence[str] = (),
    merges: int = 130,
) -> Tokenizer:
    """BPE where a space is a letter and an unknown letter its bytes, as SentencePiece gives Llama 2, Gemma, Mistral.

    ``special`` come first. ``prepend`` says where a space is put in front that nobody wrote: at the "first" word,
    "always" (after every special token too) or nowhere (None). ``own_newline`` gives newlines tokens of their own
    instead of the byte. The tokens in ``strip_after`` swallow the white space that follows them (Phi-3's do).
    """
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    text = [line.replace("\n", " ") for line in CORPUS]
    alphabet = [*string.ascii_letters, *string.digits, *string.punctuation, "▁"]
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + merges,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),  # other letters stay unknown, so that they are written as bytes
        show_progress=False,
    )
    learner.train_from_iterator(text, trainer)
    learned = json.loads(learner.to_str())["model"]

    newlines = ["\n", "\n\n"] if own_newline else []
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *byte_tokens, *newlines, *sorted(learned["vocab"], key=learned["vocab"].get)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [("\n", "\n")] * own_newline + [(left, right) for left, right in learned["merges"]]
    tokenizer = Tokenizer(BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepend is None:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False, rstrip=text in strip_after) for text in special]
    )
    _add_bos(tokenizer, bos)
    return tokenizer


def _add_bos(tokenizer: Tokenizer, bos: str | None) -> None:
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
