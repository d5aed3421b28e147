"""Post-instruction tokens, found again from where the user's text ends, and the templates' special wishes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from families import FAMILIES

from steering import template
from steering.errors import ModelError
from steering.models import ChatModel, load_model

Tiny = Callable[[str], ChatModel]
THINKING = ("qwen3", "qwen3-moe", "smollm3")
QUESTIONS = (
    "Write a poem about the moon.",
    "Why is the sky blue?",
    "Tell me about ducks",
    "a list:\n- one\n- two",
    "f(x) = 3",
    "Où est la mer",
    "今日は海が青い",
    "Stop!!!",
    "“Quoted”",
    "🌊",
)

# What each family's own template writes after the user's text, copied from the templates by hand.
ENDINGS = {
    "llama2": " [/INST]",
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen1.5": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen2": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "yi": "<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma2": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma2-narrow": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma3": "<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "[/INST]",
    "phi3": "<|end|>\n<|assistant|>\n",
    "smollm3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
    "olmo2": "\n<|assistant|>\n",
    "cohere": "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "gpt-neox": "<|ASSISTANT|>",
    "qwen3-moe": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "mixtral": " [/INST]",
    "llama-merging": "\n\n### Assistant:\n",
}
# These tokenizers can build one token from the user's last character and the newlines after it.
MERGED = {"olmo2": "\n", "llama-merging": "\n\n"}


@pytest.mark.parametrize("name", FAMILIES)
def test_post_instruction_tokens_are_those_that_start_behind_the_users_text(name: str, tiny: Tiny) -> None:
    """Found by character offsets, which the library does not use."""
    chat = tiny(name)
    expected = None
    for question in QUESTIONS:
        prompt = chat.format([{"role": "user", "content": question}])
        end = prompt.index(question) + len(question)
        assert prompt[end:] == ENDINGS[name]
        encoded = chat.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        # A token counts if all its characters lie behind the text, and, where a merge is possible, behind the merge.
        first_free = end + len(MERGED.get(name, ""))
        behind = [
            token
            for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if start >= first_free
        ]
        expected = expected or behind
        assert behind == expected
    assert chat.post_instruction_tokens == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_prompt_ends_in_them(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    tokens = chat.post_instruction_tokens
    for question in QUESTIONS:
        for before in ([], [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]):
            assert chat.encode([*before, {"role": "user", "content": question}])[-len(tokens) :] == tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_their_text_is_the_templates_ending(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    text = chat.tokenizer.decode(chat.post_instruction_tokens, skip_special_tokens=False)
    squeezed = "".join(text.split())
    assert squeezed == "".join(ENDINGS[name].split())


@pytest.mark.parametrize("name", FAMILIES)
def test_encoding_puts_no_token_that_the_template_did_not_write(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    prompt = chat.format([{"role": "user", "content": "Hi."}])
    ids = chat.encode([{"role": "user", "content": "Hi."}])
    if chat.tokenizer.bos_token and prompt.startswith(chat.tokenizer.bos_token):
        assert ids.count(chat.tokenizer.bos_token_id) == 1
    # (The tokenizer of Phi-3 drops what follows its markers.)
    assert "".join(chat.tokenizer.decode(ids).split()) == "".join(prompt.split())


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_off_unless_switched_on(name: str, tiny: Tiny, family_folder: Callable[[str], Path]) -> None:
    off, on = tiny(name), load_model(str(family_folder(name)), device="cpu", dtype="float32", thinking=True)
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    assert off.can_think
    assert on.can_think
    assert off.format(question).endswith(ENDINGS[name])
    assert on.format(question).endswith("<|im_end|>\n<|im_start|>assistant\n")
    ending = on.tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert on.post_instruction_tokens == ending
    assert len(off.post_instruction_tokens) > len(ending)


def test_the_switch_may_be_turned_on_a_loaded_model(family_folder: Callable[[str], Path]) -> None:
    chat = load_model(str(family_folder("qwen3")), device="cpu", dtype="float32")
    off = chat.post_instruction_tokens
    chat.thinking = True
    on = chat.post_instruction_tokens
    assert len(on) < len(off)
    chat.thinking = False
    assert chat.post_instruction_tokens == off


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(THINKING)))
def test_other_models_have_no_switch(name: str, tiny: Tiny) -> None:
    assert not tiny(name).can_think


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_prompt_reaches_every_model(name: str, tiny: Tiny) -> None:
    """Where the template takes no system role, it stands before the user's first text."""
    told = [
        {"role": "system", "content": "Speak like a sailor."},
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": "Aye."},
        {"role": "user", "content": "Should I go out?"},
    ]
    prompt = tiny(name).format(told)
    assert prompt.count("Speak like a sailor.") == 1
    assert prompt.endswith(ENDINGS[name])
    if name in {"gemma", "gemma2", "gemma2-narrow", "mixtral"}:
        assert "Speak like a sailor.\n\nIs it raining?" in prompt
    assert told[0]["role"] == "system"


@pytest.mark.parametrize("name", THINKING)
def test_the_marks_of_a_thought_are_tokens_of_their_own(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    marks = chat.thought_marks
    assert marks is not None
    assert (marks.start, marks.end) == ("<think>", "</think>")
    assert marks.start_tokens == [chat.tokenizer.convert_tokens_to_ids("<think>")]
    assert chat.thought_end == [chat.tokenizer.convert_tokens_to_ids("</think>")]
    assert chat.open_thought is False  # the prompt brings an empty thought
    twin = ChatModel(chat.model, chat.tokenizer, chat.name, chat.label, thinking=True)
    assert twin.open_thought is None
    twin.thinking = False
    assert twin.open_thought is False


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(THINKING)))
def test_other_models_have_no_thought(name: str, tiny: Tiny) -> None:
    assert tiny(name).thought_end is None
    assert tiny(name).open_thought is False


@pytest.mark.parametrize(
    ("ending", "start", "end", "is_open"),
    [
        ("<think>\n", "<think>", "</think>", True),
        ("<think>\n</think>", "<think>", "</think>", False),
        ("[THINK]", "[THINK]", "[/THINK]", True),
        ("<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>", True),
        ("<|begin_of_thought|>", "<|begin_of_thought|>", "<|end_of_thought|>", True),
        ("", "<seed:think>", "</seed:think>", None),
    ],
)
def test_a_thought_that_the_prompt_begins(ending: str, start: str, end: str, is_open: bool | None, tiny: Tiny) -> None:
    tokenizer = copy.deepcopy(tiny("llama3").tokenizer)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'].split('" + end + "')[-1] + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + ending + "' }}{% endif %}"
    )
    marks = template.thought_marks(tokenizer)
    assert marks is not None
    assert (marks.start, marks.end) == (start, end)
    assert tokenizer.decode(marks.end_tokens) == end
    assert template.open_thought(tokenizer, marks, thinking=True) is is_open


class TestOddTemplates:
    """Templates that the method cannot use are refused; the tokenizer is a real one with another template."""

    def tokens(self, chat: ChatModel, written: str) -> list[int]:
        before = chat.tokenizer.chat_template
        chat.tokenizer.chat_template = written
        try:
            return template.post_instruction_tokens(chat.tokenizer, thinking=False)
        finally:
            chat.tokenizer.chat_template = before

    def test_nothing_after_the_users_text(self, tiny: Tiny) -> None:
        with pytest.raises(ModelError, match="nothing after the user's text"):
            self.tokens(tiny("llama3"), "{{ bos_token }}{{ messages[0]['content'] }}")

    def test_the_users_text_is_not_there(self, tiny: Tiny) -> None:
        with pytest.raises(ModelError, match="does not repeat the user's text"):
            self.tokens(tiny("llama3"), "{{ bos_token }}<|eot_id|>")

    def test_only_a_newline_that_merges(self, tiny: Tiny) -> None:
        with pytest.raises(ModelError, match="nothing after the user's text"):
            self.tokens(tiny("llama-merging"), "{{ messages[0]['content'] + '\n' }}")

    def test_a_broken_template(self, tiny: Tiny) -> None:
        with pytest.raises(ModelError, match="does not take this conversation"):
            self.tokens(tiny("llama3"), "{% for x in %}")

    def test_the_users_text_said_twice_counts_from_the_last(self, tiny: Tiny) -> None:
        chat = tiny("llama3")
        twice = "{{ messages[0]['content'] + '<|eot_id|>' + messages[0]['content'] + '<|end_header_id|>' }}"
        assert self.tokens(chat, twice) == [chat.tokenizer.convert_tokens_to_ids("<|end_header_id|>")]
