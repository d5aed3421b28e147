"""Means and residuals against one prompt at a time through the float64 model, on every family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import oracle
import pytest
import torch
from families import FAMILIES
from torch import Tensor

from steering.activations import RESPONSE, class_means, residuals
from steering.contrast import Example
from steering.errors import Cancelled, ContrastSetError, OutOfMemoryError
from steering.models import ChatModel
from steering.out_of_memory import is_out_of_memory

Tiny = Callable[[str], ChatModel]
OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000 bytes."


def asked(text: str, *, system: str | None = None, response: str | None = None, row: int | None = None) -> Example:
    told = ({"role": "system", "content": system},) if system else ()
    return Example((*told, {"role": "user", "content": text}), response, row)


PROMPTS = [
    asked("Why is the sky blue?"),
    asked("Hi"),
    asked("Tell me about the sea, and about boats with red sails in the harbour, in the morning, in the city."),
    asked("Write a poem about the moon."),
    asked("1 + 2 ="),
    asked("Write a poem about the river."),
    asked("Où est la mer? 今日は"),
]
MORE_PROMPTS = [asked("Explain how to make tea."), asked("Stop"), asked("What should I cook tonight? " * 4)]
# With nothing in common at the beginning, where the template has nothing there either.
SYSTEMS = [asked("Why?", system="Be brief."), asked("Why is it so?", system="You are a sailor."), asked("Hm")]
RESPONSES = [
    asked("Why is the sky blue?", response="Because air scatters blue light more than red light."),
    asked("Hi", response="Hm"),
    asked("Tell me about the sea.", response="It is wide and cold, and it is never still. " * 3),
    asked("Tell me about the sea.", response="No."),
    asked("Is it going to rain? " * 5, response="I cannot see the sky.\n\nBut où?"),
]
SETS = {"prompts": PROMPTS, "systems": SYSTEMS, "responses": RESPONSES}


def one_by_one(chat: ChatModel, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """float64 residuals ``[n, positions, layers, d_model]`` and norms ``[n, positions, layers]``, the slow way."""
    read, norms = [], []
    n_after = len(chat.post_instruction_tokens)
    for example in examples:
        prompt = chat.encode(list(example.messages))
        if example.response is None:
            stream = oracle.hidden_states(chat, prompt)[:, -n_after:]  # [layers, positions, d_model]
            read.append(stream.transpose(0, 1))
            norms.append(stream.norm(dim=-1).T)
        else:
            reply = chat.tokenizer(example.response, add_special_tokens=False)["input_ids"]
            stream = oracle.hidden_states(chat, prompt + reply)[:, len(prompt) :]
            read.append(stream.mean(dim=1)[None])
            norms.append(stream.norm(dim=-1).mean(dim=1)[None])
    return torch.stack(read), torch.stack(norms)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_residuals_equal_one_prompt_at_a_time(name: str, kind: str, tiny: Tiny) -> None:
    chat = tiny(name)
    expected, _ = one_by_one(chat, SETS[kind])
    found = residuals(chat, SETS[kind], batch_size=4)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_batch_size_does_not_matter(name: str, batch_size: int, tiny: Tiny) -> None:
    chat = tiny(name)
    for examples in SETS.values():
        expected = residuals(chat, examples, batch_size=4)
        torch.testing.assert_close(residuals(chat, examples, batch_size=batch_size), expected, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_means_and_norms_of_both_sides(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    for sides in ([PROMPTS, MORE_PROMPTS], [RESPONSES[:2], RESPONSES[2:]]):
        found = class_means(chat, sides, batch_size=3)
        for side, means in zip(sides, found, strict=True):
            expected, norms = one_by_one(chat, side)
            assert means.count == len(side)
            assert means.sums.dtype == means.norm_sums.dtype == torch.float64
            assert means.means.dtype == means.norms.dtype == torch.float32
            torch.testing.assert_close(means.sums, expected.sum(dim=0), atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(means.means.double(), expected.mean(dim=0), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(means.norms.double(), norms.mean(dim=0), atol=1e-4, rtol=1e-4)
            after = len(chat.post_instruction_tokens)
            assert means.positions == ([RESPONSE] if sides[0] is not PROMPTS else list(range(-after, 0)))
            assert means.notes == ()


def test_sums_do_not_round_away(tiny: Tiny) -> None:
    """A hundred times the same example has the same mean, to the last digit that float32 shows."""
    chat = tiny("llama3")
    once = class_means(chat, [PROMPTS[:1]])[0]
    often = class_means(chat, [PROMPTS[:1] * 100], batch_size=7)[0]
    torch.testing.assert_close(often.means, once.means, atol=2e-5, rtol=1e-5)
    assert often.count == 100


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_identical_and_single_examples(name: str, tiny: Tiny) -> None:
    """Where prompts are equal, all of the prompt but what is read is shared."""
    chat = tiny(name)
    one, _ = one_by_one(chat, PROMPTS[:1])
    torch.testing.assert_close(residuals(chat, PROMPTS[:1]).double(), one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        residuals(chat, PROMPTS[:1] * 3).double(), one.expand(3, -1, -1, -1), atol=1e-4, rtol=1e-4
    )
    assert residuals(chat, []).shape == (0, *one.shape[1:])
    same = [asked("Hi", response="A long reply"), asked("Hi", response="A")]
    torch.testing.assert_close(residuals(chat, same).double(), one_by_one(chat, same)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", SETS)
def test_residuals_of_a_thinking_model_end_where_its_prompt_ends(kind: str, family_folder: Callable) -> None:
    from steering.models import load_model

    chat = load_model(str(family_folder("qwen3")), device="cpu", dtype=torch.float32, thinking=True)
    expected, _ = one_by_one(chat, SETS[kind])
    torch.testing.assert_close(residuals(chat, SETS[kind]).double(), expected, atol=1e-4, rtol=1e-4)


def test_what_is_read_is_an_ordinary_tensor(tiny: Tiny) -> None:
    chat = tiny("llama3")
    assert not residuals(chat, PROMPTS).is_inference()
    means = class_means(chat, [PROMPTS])[0]
    assert not any(tensor.is_inference() for tensor in (means.sums, means.norm_sums, means.means))
    assert not torch.is_inference_mode_enabled()


def test_the_bundled_model_reads_as_one_by_one(bundled_float32: ChatModel) -> None:
    chat = bundled_float32
    for examples in (PROMPTS[:3], RESPONSES[:3]):
        found = residuals(chat, examples, batch_size=2)
        expected = one_by_one(chat, examples)[0]
        error = (found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert error.max() < 1e-4


class TestMemory:
    """Memory runs out for real as far as the library can tell: a module raises torch's own error above some size."""

    @staticmethod
    def fail(chat: ChatModel, times: float, error: BaseException | None = None) -> tuple[Callable[[], None], list[int]]:
        """Let block 1 fail ``times`` times; also gives how many tokens each pass had."""
        tried: list[int] = []

        def check(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            tried.append(hidden.shape[1])
            if len(tried) <= times:
                raise error or RuntimeError(OUT_OF_MEMORY)

        handle = oracle.parts(chat.model).blocks[1].register_forward_pre_hook(check, with_kwargs=True)
        return handle.remove, tried

    @pytest.mark.parametrize("error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
    def test_the_batch_is_halved_and_all_is_read(self, error: BaseException | None, tiny: Tiny) -> None:
        chat = tiny("llama3")
        expected = class_means(chat, [PROMPTS, MORE_PROMPTS], batch_size=2)
        restore, tried = self.fail(chat, 2, error)
        reports: list[tuple[float, float]] = []
        try:
            found = class_means(
                chat,
                [PROMPTS, MORE_PROMPTS],
                batch_size=8,
                progress=lambda _, done, total: reports.append((done, total)),
            )
        finally:
            restore()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.sums, other.sums, atol=1e-4, rtol=1e-5)
        assert tried[0] > tried[1] > tried[2]
        assert len(tried) == 2 + 10 / 2  # two tries in vain
        assert list(found[0].notes) == [
            "Memory ran out, so examples were read 4 at a time.",
            "Memory ran out, so examples were read 2 at a time.",
        ]
        assert reports[-1] == (10, 10)
        assert oracle.count_hooks(chat.model) == 0

    def test_not_even_one_fits(self, tiny: Tiny) -> None:
        chat = tiny("llama3")
        restore, tried = self.fail(chat, math.inf)
        try:
            with pytest.raises(OutOfMemoryError, match="not enough memory to read even one example"):
                residuals(chat, PROMPTS, batch_size=4)
        finally:
            restore()
        assert len(tried) == 3
        assert oracle.count_hooks(chat.model) == 0

    def test_other_errors_are_not_taken_for_it(self, tiny: Tiny) -> None:
        chat = tiny("llama3")
        restore, _ = self.fail(chat, 1, RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
        try:
            with pytest.raises(RuntimeError, match="size of tensor"):
                residuals(chat, PROMPTS, batch_size=4)
        finally:
            restore()
        assert oracle.count_hooks(chat.model) == 0
        assert chat.lock.acquire(blocking=False)
        chat.lock.release()

    def test_torchs_own_sentence_is_known(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60, dtype=torch.uint8)
        assert is_out_of_memory(caught.value)
        assert not is_out_of_memory(RuntimeError("shapes"))


@pytest.mark.parametrize("cancel_at", range(9))
def test_cancel_works_at_every_report(cancel_at: int, tiny: Tiny) -> None:
    """Also in the middle of a pass, which ends there."""
    chat = tiny("llama3")
    seen: list[float] = []

    def progress(what: str, done: float, total: float) -> None:
        seen.append(done)
        if len(seen) > cancel_at:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        class_means(chat, [PROMPTS, MORE_PROMPTS], batch_size=2, progress=progress)
    assert len(seen) == cancel_at + 1
    assert oracle.count_hooks(chat.model) == 0
    assert not chat.lock.is_held


def test_progress_comes_before_every_block_and_after_every_batch(tiny: Tiny) -> None:
    chat = tiny("llama3")
    reports: list[tuple[str, float, float]] = []
    held: list[bool] = []

    def progress(what: str, done: float, total: float) -> None:
        reports.append((what, done, total))
        held.append(chat.lock.is_held)

    residuals(chat, PROMPTS, batch_size=3, progress=progress)
    n = chat.n_layers
    expected = [0.0]
    for start, end in ((0, 3), (3, 6), (6, 7)):
        expected += [start + (end - start) * layer / n for layer in range(n)] + [end]
    assert [done for _, done, _ in reports] == pytest.approx(expected)
    assert {(what, total) for what, _, total in reports} == {("Reading examples", 7)}
    assert held == [False, *([True] * n + [False]) * 3]  # whoever is told in the middle of a pass can know it


def test_examples_that_begin_alike_come_together_and_long_ones_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are packed, and however little fits, what is read is the same."""
    chat = tiny("llama3")
    expected = residuals(chat, RESPONSES)
    passes: list[int] = []
    handle = (
        oracle.parts(chat.model).blocks[0].register_forward_pre_hook(lambda _, args: passes.append(args[0].shape[1]))
    )
    try:
        for most in (1, 40, 90):
            monkeypatch.setattr("steering.activations.NODES_A_BATCH", most)
            passes.clear()
            torch.testing.assert_close(residuals(chat, RESPONSES), expected, atol=5e-5, rtol=5e-5)
            assert len(passes) == (len(RESPONSES) if most == 1 else len(passes)) <= len(RESPONSES)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["llama3", "gemma2-narrow", "gpt-neox"])
def test_the_model_is_left_as_it_was(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    before = oracle.fingerprint(chat.model)
    residuals(chat, PROMPTS)
    residuals(chat, RESPONSES)
    assert oracle.count_hooks(chat.model) == 0
    assert oracle.fingerprint(chat.model) == before


def test_an_empty_response_is_named_by_its_row(tiny: Tiny) -> None:
    examples = [RESPONSES[0], asked("Hi", response="", row=17)]
    with pytest.raises(ContrastSetError, match="Row 17 has an empty response"):
        residuals(tiny("llama3"), examples)


@pytest.mark.parametrize("response", [None, "sea " * 2000])
def test_an_example_too_long_is_named_by_its_row(response: str | None, tiny: Tiny) -> None:
    chat = tiny("llama3")
    text = "sea " * 2000 if response is None else "Hi"
    n_tokens = len(chat.encode([{"role": "user", "content": text}]))
    if response:
        n_tokens += len(chat.tokenizer(response, add_special_tokens=False)["input_ids"])
    with pytest.raises(ContrastSetError, match=rf"Row 9 has {n_tokens} tokens; llama3 reads at most 2048"):
        residuals(chat, [asked(text, response=response, row=9)])
