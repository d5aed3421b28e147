"""A reply goes into the next turn as the tokens it was written in, wherever its text stays what it is."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import pytest
from families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steering import template
from steering.models import ChatModel, Message
from steering.own_words import Written, encode
from steering.ui.conversations import Conversation, Turn
from steering.variants import Variant

Tiny = Callable[[str], ChatModel]


def talk(*texts: str) -> list[Message]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def letters(chat: ChatModel, text: str) -> list[int]:
    """A text in other tokens than the tokenizer has for it: word by word letter by letter."""
    whole = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    for token in whole:
        piece = chat.tokenizer.convert_ids_to_tokens(token)
        single = [chat.tokenizer.convert_tokens_to_ids(letter) for letter in piece]
        unknown = chat.tokenizer.unk_token_id
        ids += [token] if any(i is None or i == unknown for i in single) else single
    return ids


def position(ids: list[int], part: list[int]) -> int:
    return next((at for at in range(len(ids)) if ids[at : at + len(part)] == part), -1)


def test_the_bundled_model_reads_the_tokens_it_wrote(bundled: ChatModel) -> None:
    texts = "The moon, a poem.", "It ends here:\n\n1. So."
    written = [Written(text, letters(bundled, text)) for text in texts]
    plain = bundled.encode(talk("A poem?", texts[0], "How does it end?", texts[1], "Why?"))
    own = bundled.encode(talk("A poem?", written[0], "How does it end?", written[1], "Why?"))
    assert own != plain
    assert bundled.tokenizer.decode(own) == bundled.tokenizer.decode(plain)
    assert 0 < position(own, list(written[0].ids)) < position(own, list(written[1].ids))
    assert own[-len(bundled.post_instruction_tokens) :] == bundled.post_instruction_tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_family_the_text_stays_and_the_tokens_are_its_own_or_the_tokenizers(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    text = "The sea is wide"
    plain = chat.encode(talk("Hi.", text, "More."))
    own = chat.encode(talk("Hi.", Written(text, letters(chat, text)), "More."))
    assert chat.tokenizer.decode(own) == chat.tokenizer.decode(plain)
    assert own == plain or position(own, letters(chat, text)) > 0


@pytest.mark.parametrize("name", ["llama3", "qwen2", "gemma2"])
def test_both_kinds_of_tokenizer_let_other_tokens_stand(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = letters(chat, "The sea")
    assert position(chat.encode(talk("Hi.", Written("The sea", ids), "More.")), ids) > 0


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tokens_keep_the_prompts_text(bundled: ChatModel, seed: int) -> None:
    dice = random.Random(seed)
    ids = [dice.randrange(len(bundled.tokenizer)) for _ in range(dice.randint(1, 12))]
    text = bundled.tokenizer.decode(ids, skip_special_tokens=True)
    plain = bundled.encode(talk("Hi.", text, "More."))
    own = bundled.encode(talk("Hi.", Written(text, ids), "More."))
    assert bundled.tokenizer.decode(own) == bundled.tokenizer.decode(plain)
    assert own == plain or position(own, ids) > 0


@pytest.mark.parametrize(
    "ids",
    [
        (),
        (10**7,),  # of a model with more tokens
        (504, 504),  # of other words
    ],
)
def test_ids_that_are_not_those_of_the_text_do_not_count(bundled: ChatModel, ids: tuple[int, ...]) -> None:
    plain = bundled.encode(talk("Hi.", "The moon", "More."))
    assert bundled.encode(talk("Hi.", Written("The moon", ids), "More.")) == plain


def test_a_template_that_rewrites_its_history_counts(bundled: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    render = template.render

    def shorter(tokenizer: object, messages: list[Message], thinking: bool) -> str:
        cut = [{**message, "content": message["content"][:5]} for message in messages]
        return render(tokenizer, cut, thinking)  # type: ignore[arg-type]

    written = Written("The moon", letters(bundled, "The moon"))
    monkeypatch.setattr(template, "render", shorter)
    plain = template.encode(bundled.tokenizer, shorter(bundled.tokenizer, talk("Hi.", "The moon", "More."), False))
    assert encode(bundled.tokenizer, talk("Hi.", written, "More."), False) == plain


def test_a_written_text_is_a_text_and_travels_with_its_tokens() -> None:
    written = Written("The moon", [1, 2])
    assert written == "The moon"
    again = pickle.loads(pickle.dumps(written))
    assert again == written
    assert again.ids == (1, 2)
    assert Written("plain").ids == ()


def test_a_conversation_hands_them_on() -> None:
    conversation = Conversation()
    conversation.append(Turn("Hi.", ("baseline", "added"), [Written("One", [1]), Written("Two", [2])], ""))
    histories = conversation.histories(("baseline", "added"))
    assert [history[1]["content"].ids for history in histories] == [(1,), (2,)]  # type: ignore[attr-defined]


def test_the_next_turn_goes_on_from_all_that_was_kept(bundled: ChatModel) -> None:
    """Sampled replies, which the tokenizer would often have cut otherwise."""
    from steering.reply_batch import ReplyBatch, ReplyRequest
    from steering.sampling import SamplingSettings

    differs = 0
    for seed in range(6):
        batch = ReplyBatch(bundled)
        question = talk("Tell me a story.")
        sampling = SamplingSettings(temperature=1.3, seed=seed)
        replies = batch.join(ReplyRequest([question], [Variant.baseline()], sampling, max_new_tokens=30))
        while not replies.finished:
            batch.step()
        batch.leave(replies)
        [kept], [ids], [text] = replies.keep(), replies.newest.token_ids, replies.newest.answers
        assert kept is not None
        later = [*question, {"role": "assistant", "content": Written(text, ids)}, {"role": "user", "content": "And?"}]
        plain = [*question, {"role": "assistant", "content": text}, {"role": "user", "content": "And?"}]
        prompt = bundled.encode(later)
        if bundled.tokenizer.decode(ids) == text:  # else the model wrote half a character, which no text can hold
            assert kept.reusable(prompt) == len(kept.tokens)
        differs += kept.common(bundled.encode(plain)) < len(kept.tokens)
    assert differs  # or this test could not fail
