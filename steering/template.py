"""What a chat template puts around the user's text, found from the template itself, not from a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

# How families mark the end of a thought, and what then is its beginning: </think>, [/THINK], <|END_THINKING|>.
_WORD = r"(?i:think|thought|reason)\w*"
_ENDS_OF_THOUGHT = (
    (re.compile(rf"</(?:\w+:)?{_WORD}>"), "</", "<"),
    (re.compile(rf"\[/{_WORD}\]"), "[/", "["),
    (re.compile(rf"<\|END_{_WORD}\|>"), "END", "START"),
    (re.compile(rf"<\|end_of_{_WORD}\|>"), "end", "begin"),
)

# Texts that end in different kinds of characters: a tokenizer that merges the user's last character with what
# follows merges differently for each, so only tokens that come after any merge are common to all of them.
_PROBES = (
    "Name a colour",
    "What is this?",
    "Stop.",
    "1 + 2 =",
    "(see above)",
    "Ça va, c'est là é",
    "a\tb: c",
    "…and “so”",
)


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], thinking: bool) -> str:
    """The prompt for the assistant's next reply, as one string.

    Raises:
        ModelError: if the template refuses the conversation (for instance a system message, or two user turns).
    """
    try:
        # A template that knows no such switch ignores it.
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
    except Exception as error:  # jinja raises many kinds; each is the template's own sentence
        if messages and messages[0]["role"] == "system" and len(messages) > 1:
            return render(tokenizer, _fold_system(messages), thinking)
        raise ModelError(f"This model's chat template does not take this conversation: {error}") from error


def _fold_system(messages: list[Message]) -> list[Message]:
    """Put the system prompt before the first user text, as Gemma's users do: its template knows no system role."""
    system, first, *rest = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a rendered prompt; the template has written every special token, so none is added."""
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def post_instruction_tokens(tokenizer: PreTrainedTokenizerBase, thinking: bool) -> list[int]:
    """Token ids the template places after the user's text (section 2.3 of the paper; its table 5 lists them per model).

    They are the longest run of final tokens that is the same for every user text and stands wholly in the template's
    own text. A token that a tokenizer builds from the user's last character and the template's first one is left out.

    Raises:
        ModelError: if the template does not contain the user's text, or nothing follows it.
    """
    prompts = [render(tokenizer, [{"role": "user", "content": probe}], thinking) for probe in _PROBES]
    endings = []
    for probe, prompt in zip(_PROBES, prompts, strict=True):
        start = prompt.rfind(probe)
        if start < 0:
            raise ModelError("This model's chat template does not repeat the user's text, so no position follows it.")
        endings.append(prompt[start + len(probe) :])
    sequences = [encode(tokenizer, prompt) for prompt in prompts]
    longest = min(len(sequence) for sequence in sequences)
    count = 0
    while count < longest and len({sequence[-count - 1] for sequence in sequences}) == 1:
        count += 1
    # The probes might share a last character's token by accident; the text of the run must fit into the ending.
    shortest_ending = min(endings, key=len)
    while count and len(_text(tokenizer, sequences[0], count)) > len(shortest_ending):
        count -= 1
    if count == 0:
        raise ModelError(
            "This model's chat template puts nothing after the user's text, so there is no position to read a "
            "direction at. Use a model whose template ends the user's turn with a token of its own."
        )
    return sequences[0][-count:]


def _text(tokenizer: PreTrainedTokenizerBase, sequence: list[int], count: int) -> str:
    """The text of the last ``count`` tokens, special ones included.

    Decoded as a difference, for some tokenizers drop a leading space from whatever they decode first.
    """
    whole = tokenizer.decode(sequence, skip_special_tokens=False)
    before = tokenizer.decode(sequence[:-count], skip_special_tokens=False)
    return whole[len(before) :]


def knows_thinking(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template has a switch for thinking aloud before the answer."""
    template = tokenizer.chat_template
    return isinstance(template, str) and "enable_thinking" in template


@dataclass(frozen=True)
class ThoughtMarks:
    """What a thinking model puts around its thought, as text and as token ids."""

    start: str
    end: str
    start_tokens: list[int]
    end_tokens: list[int]


def thought_marks(tokenizer: PreTrainedTokenizerBase) -> ThoughtMarks | None:
    """The marks around a thought that the template names, or, where it names none, the vocabulary; None if neither."""
    template = tokenizer.chat_template
    for text in (template if isinstance(template, str) else "", "\n".join(tokenizer.get_added_vocab())):
        for pattern, ending, beginning in _ENDS_OF_THOUGHT:
            if found := pattern.search(text):
                end = found.group()
                start = end.replace(ending, beginning, 1)
                return ThoughtMarks(start, end, _tokens(tokenizer, start), _tokens(tokenizer, end))
    return None


def _tokens(tokenizer: PreTrainedTokenizerBase, mark: str) -> list[int]:
    """A mark's token ids: where it is a token of its own, that one, for some tokenizers put a space in front."""
    own = tokenizer.get_vocab().get(mark)
    return encode(tokenizer, mark) if own is None else [own]


def open_thought(tokenizer: PreTrainedTokenizerBase, marks: ThoughtMarks, thinking: bool) -> bool | None:
    """Whether a prompt ends within a thought (True) or behind one (False); None if it leaves that to the model.

    Told by what the template writes after the user's text, for a text may name the marks as well.
    """
    ending = tokenizer.decode(post_instruction_tokens(tokenizer, thinking), skip_special_tokens=False)
    start, end = ending.rfind(marks.start), ending.rfind(marks.end)
    return None if start == end == -1 else start > end
