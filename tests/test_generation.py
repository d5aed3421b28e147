"""The side-by-side engine against plain ``generate`` and against one row at a time, on every family."""

from __future__ import annotations

import copy
import itertools
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import oracle
import pytest
import torch
from families import FAMILIES

from steering.calibration import mean_negative_log_likelihoods
from steering.decoder_choice import takes_fused
from steering.directions import Direction
from steering.errors import OutOfMemoryError, SteeringError
from steering.generation import Reply, Step, stream_side_by_side
from steering.interventions import Ablation, Addition, Dial, Variant
from steering.models import ChatModel, Message
from steering.stream_edits import StreamEdits

Tiny = Callable[[str], ChatModel]
QUESTION: list[Message] = [{"role": "user", "content": "Why is the sky blue?"}]
N_TOKENS = 16


def run(chat: ChatModel, conversation: list, variants: Sequence[Variant], **options: object) -> list[Step]:
    return list(stream_side_by_side(chat, conversation, variants, **{"max_new_tokens": N_TOKENS, **options}))


def histories(chat: ChatModel) -> list[list[Message]]:
    """The second turn of three conversations with replies of different lengths, as after a first side-by-side."""
    replies = (
        "Air scatters blue light.",
        "No.",
        "The sea is wide and cold, and it is never still. It is blue as well.",
    )
    follow_up = {"role": "user", "content": "Tell me more about the sea."}
    return [[*QUESTION, {"role": "assistant", "content": reply}, follow_up] for reply in replies]


def steered_variants(chat: ChatModel) -> list[Variant]:
    """Two that write something else than the baseline."""
    ablated = oracle.strong_direction(chat, chat.encode(QUESTION))
    return [Variant.ablated(ablated), Variant.added(oracle.make_direction(chat, 1, length=6.0), 1.5)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_baseline_is_plain_greedy_generation(name: str, tiny: Tiny) -> None:
    """Alone, beside steered rows, and on a second turn, where rows of other lengths bring padding on the left."""
    chat = tiny(name)
    expected = oracle.plain_greedy(chat, chat.encode(QUESTION), N_TOKENS)
    assert run(chat, QUESTION, [Variant.baseline()])[-1].token_ids == [expected]

    steered = steered_variants(chat)
    beside = run(chat, QUESTION, [steered[0], Variant.baseline(), steered[1]])[-1].token_ids
    assert beside[1] == expected
    assert beside[0] != expected
    assert beside[2] != expected

    conversations = histories(chat)
    prompts = [chat.encode(conversation) for conversation in conversations]
    assert len({len(prompt) for prompt in prompts}) == 3
    for row in range(3):  # the baseline as the longest, the shortest and the middle row
        variants = [*steered]
        variants.insert(row, Variant.baseline())
        expected = oracle.plain_greedy(chat, prompts[row], N_TOKENS)
        assert run(chat, conversations, variants)[-1].token_ids[row] == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_baselines_are_all_plain(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    conversations = histories(chat)
    found = run(chat, conversations, [Variant.baseline()] * 3)[-1].token_ids
    assert found == [oracle.plain_greedy(chat, chat.encode(c), N_TOKENS) for c in conversations]


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gpt-neox"])
def test_the_head_is_given_no_view_with_gaps(name: str, tiny: Tiny) -> None:
    """It would be multiplied row by row, which takes most of the time of reading a batch of prompts."""
    chat = tiny(name)
    seen: list[bool] = []
    head = chat.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].is_contiguous()))
    try:
        run(chat, histories(chat), [Variant.baseline()] * 3, max_new_tokens=2)
        mean_negative_log_likelihoods(chat, QUESTION, [[5, 6, 7], [8, 9]])
    finally:
        hook.remove()
    assert seen == [True] * 3  # the prompts, a step, the replies


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_what_it_would_be_alone(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    conversations = histories(chat)
    variants = [*steered_variants(chat), Variant.baseline()]
    direction = variants[0].directions[0]
    together = run(chat, conversations, variants, probe=direction)
    for row, variant in enumerate(variants):
        alone = run(chat, conversations[row], [variant], probe=direction)
        assert [step.token_ids[0] for step in alone] == [step.token_ids[row] for step in together]
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one.cosines[0], all_rows.cosines[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_coefficient_zero_is_the_baseline(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    direction = oracle.make_direction(chat, 1)
    variants = [Variant.baseline(), Variant.added(direction, 0.0), Variant.added(direction, Dial(0.0))]
    for temperature in (0.0, 1.0):
        for step in run(chat, QUESTION, variants, temperature=temperature, seed=3):
            assert step.token_ids[0] == step.token_ids[1] == step.token_ids[2]
            # The rows of one product may differ in their last bit.
            torch.testing.assert_close(step.cosines[1:], step.cosines[:1].expand(2, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_cosines_are_those_of_the_stream_of_each_row_alone(name: str, tiny: Tiny) -> None:
    """At every step: run prompt and reply so far through the float64 model, and look at the last token."""
    chat = tiny(name)
    conversations = histories(chat)
    direction = oracle.make_direction(chat, 2)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.5)]
    steps = run(chat, conversations, variants, max_new_tokens=6)
    twin = oracle.float64_twin(chat.model)
    done = [({}, None), ({}, direction.vector[None]), ({1: 1.5 * direction.vector}, None)]
    unit = direction.unit.double()
    for row, (added, removed) in enumerate(done):
        prompt = chat.encode(conversations[row])
        ids = prompt + steps[-1].token_ids[row]
        with torch.no_grad(), oracle.by_hand(twin, name, added, removed), oracle.watched(twin) as seen:
            twin(input_ids=torch.tensor([ids]), use_cache=False)
        stream = torch.cat(seen[:-1])  # [n_layers, tokens, d_model]
        cosines = stream @ unit / stream.norm(dim=-1)
        for place, step in enumerate(steps):
            expected = cosines[:, len(prompt) - 1 + place]
            torch.testing.assert_close(step.cosines[row].double(), expected, atol=1e-4, rtol=0)
    assert steps[0].cosines.dtype == torch.float32
    assert max(float(step.cosines[1].abs().max()) for step in steps) < 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_steered_tokens_are_the_oracles_choice(name: str, tiny: Tiny) -> None:
    """Every token a steered row wrote is the likeliest one of the float64 oracle, given what came before."""
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    strong, wide = oracle.strong_direction(chat, ids), oracle.make_direction(chat, 3, rank=3)
    added = oracle.make_direction(chat, 1, layer=chat.n_layers - 1)
    cases = [
        (Variant.ablated(wide), {}, wide.ablation_basis),
        (Variant.added(added, -1.5), {chat.n_layers - 1: -1.5 * added.vector}, None),
        (
            Variant("mixed", [Ablation(strong), Ablation(wide), Addition(added)]),
            {chat.n_layers - 1: added.vector},
            torch.cat([strong.vector[None], wide.ablation_basis]),
        ),
    ]
    last = run(chat, QUESTION, [variant for variant, _, _ in cases])[-1]
    twin = oracle.float64_twin(chat.model)
    for row, (_, additions, removed) in enumerate(cases):
        reply = last.token_ids[row]
        with torch.no_grad(), oracle.by_hand(twin, name, additions, removed):
            logits = twin(input_ids=torch.tensor([ids + reply]), use_cache=False).logits[0, len(ids) - 1 : -1]
        written = logits.gather(1, torch.tensor(reply)[:, None])[:, 0]
        assert (logits.max(dim=-1).values - written).max() < 1e-3


def test_baseline_of_the_bundled_model(bundled_float32: ChatModel) -> None:
    chat = bundled_float32
    conversation = [{"role": "user", "content": "Write a poem about the moon."}]
    direction = oracle.make_direction(chat, 1, layer=12, length=40.0)
    steps = run(chat, conversation, [Variant.baseline(), Variant.ablated(direction), Variant.added(direction)])
    assert steps[-1].token_ids[0] == oracle.plain_greedy(chat, chat.encode(conversation), N_TOKENS)
    assert steps[-1].texts[2] != steps[-1].texts[0]
    for row in range(3):
        assert steps[-1].texts[row] == "".join(step.tokens[row] or "" for step in steps)
        assert steps[-1].texts[row] == chat.tokenizer.decode(steps[-1].token_ids[row], skip_special_tokens=True)
    assert max(float(step.cosines[1].abs().max()) for step in steps) < 1e-3

    longer = [
        *conversation,
        {"role": "assistant", "content": steps[-1].texts[0]},
        {"role": "user", "content": "Go on."},
    ]
    last = run(chat, [longer, conversation], [Variant.baseline(), Variant.ablated(direction)], max_new_tokens=8)[-1]
    assert last.token_ids[0] == oracle.plain_greedy(chat, chat.encode(longer), 8)


def test_coefficient_zero_on_the_bundled_model_as_loaded(bundled: ChatModel) -> None:
    direction = oracle.make_direction(bundled, 1, layer=12, length=40.0)
    variants = [Variant.baseline(), Variant.added(direction, 0.0), Variant.ablated(direction)]
    steps = run(bundled, QUESTION, variants, max_new_tokens=8)
    assert steps[-1].token_ids[0] == steps[-1].token_ids[1]
    assert max(float(step.cosines[2].abs().max()) for step in steps) < 1e-3


# --- ends of replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "gemma3", "gpt-neox"])
def test_rows_end_one_by_one_and_stay_ended(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    variants = [Variant.baseline(), *steered_variants(chat)]
    free = run(chat, QUESTION, variants)[-1].token_ids
    # End the baseline at its sixth new kind of token, and a steered row elsewhere.
    stops = [free[0][5], free[1][9]]
    brief = oracle.ending_early(chat, stops)
    steps = run(brief, QUESTION, variants)
    expected = [list(itertools.takewhile(lambda token: token not in brief.end_tokens, reply)) for reply in free]
    assert steps[-1].token_ids == expected
    assert expected[0] == oracle.plain_greedy(brief, brief.encode(QUESTION), N_TOKENS)
    assert [len(reply) for reply in expected] == steps[-1].n_tokens
    assert len(expected[0]) < N_TOKENS
    for row, reply in enumerate(expected):
        for place, step in enumerate(steps):
            assert step.finished[row] == (place >= len(reply) and len(reply) < N_TOKENS)
            assert step.n_tokens[row] == min(place + 1, len(reply))
            assert (step.tokens[row] is None) == (place >= len(reply))
            if place > len(reply):  # a finished variant keeps its last cosines
                assert torch.equal(step.cosines[row], steps[len(reply)].cosines[row])
    longest = max(len(reply) for reply in expected)
    assert len(steps) == (longest + 1 if longest < N_TOKENS else N_TOKENS)


def test_all_rows_ended_ends_the_stream(tiny: Tiny) -> None:
    chat = tiny("llama3")
    reply = run(chat, QUESTION, [Variant.baseline()])[-1].token_ids[0]
    steps = run(oracle.ending_early(chat, [reply[0]]), QUESTION, [Variant.baseline(), Variant.baseline("again")])
    assert len(steps) == 1
    assert steps[0].finished == [True, True]
    assert steps[0].texts == ["", ""]
    assert steps[0].tokens == [None, None]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reply_grows_by_whole_characters(name: str, tiny: Tiny) -> None:
    text = "Grüße: où 今日は,\n\n🌊 fin.\n- 1\n"
    reply = Reply(tiny(name).tokenizer)
    reply.ids = tiny(name).tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = [reply.text(n) for n in range(len(reply.ids) + 1)]
    assert texts[0] == ""
    assert texts[-1].strip() == text.strip()  # some tokenizers put a space in front
    assert all("\ufffd" not in grown for grown in texts)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert len(set(texts)) < len(texts)  # a part of a character brings nothing yet
    assert "".join(reply.brought(n) for n in range(1, len(reply.ids) + 1)) == texts[-1]


def test_a_step_keeps_its_texts_when_read_late(tiny: Tiny) -> None:
    chat = tiny("llama3")
    late = run(chat, QUESTION, [Variant.baseline()])
    at_once = [
        step.texts for step in stream_side_by_side(chat, QUESTION, [Variant.baseline()], max_new_tokens=N_TOKENS)
    ]
    assert [step.texts for step in reversed(late)] == at_once[::-1]


# --- the same dice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "gemma2-narrow", "mixtral"])
def test_identical_variants_draw_the_same(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    direction = oracle.make_direction(chat, 1)
    added = Variant.added(direction, 1.5)
    options = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1}
    first = run(chat, QUESTION, [added, Variant.baseline(), replace(added, name="twin")], seed=1, **options)
    assert first[-1].texts[0] == first[-1].texts[2]
    assert first[-1].texts[0] != first[-1].texts[1]
    again = run(chat, QUESTION, [added, Variant.baseline(), added], seed=1, **options)
    other = run(chat, QUESTION, [added, Variant.baseline(), added], seed=2, **options)
    assert first[-1].token_ids == again[-1].token_ids
    assert other[-1].token_ids != first[-1].token_ids
    alone = run(chat, QUESTION, [Variant.baseline()], seed=1, **options)
    assert alone[-1].token_ids[0] == first[-1].token_ids[1]  # neighbours take none of a row's dice


# --- torch's modes and threads --------------------------------------------------------------------------------------


def test_no_torch_mode_is_held_between_steps(tiny: Tiny) -> None:
    chat = tiny("llama3")
    weight = torch.ones(3, requires_grad=True)
    for step in stream_side_by_side(chat, QUESTION, steered_variants(chat), max_new_tokens=4):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        (weight * 2).sum().backward()
        step.cosines.mul_(2)  # an ordinary tensor, which its owner may change
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3,), 8.0))


def test_a_generator_may_move_between_threads(tiny: Tiny) -> None:
    chat = tiny("gemma3")
    variants = [Variant.baseline(), *steered_variants(chat)]
    expected = run(chat, histories(chat), variants, temperature=1.0)[-1].token_ids
    stream = stream_side_by_side(chat, histories(chat), variants, max_new_tokens=N_TOKENS, temperature=1.0)
    modes = []

    def one_step() -> Step:
        step = next(stream)
        modes.append(torch.is_inference_mode_enabled())
        return step

    for _ in range(N_TOKENS):
        with ThreadPoolExecutor(1) as fresh_thread:
            last = fresh_thread.submit(one_step).result()
    assert last.token_ids == expected
    assert not any(modes)


def test_four_conversations_at_once_are_what_they_are_alone(tiny: Tiny) -> None:
    chat = tiny("qwen3")
    jobs = []
    for seed in range(4):
        direction = oracle.make_direction(chat, seed, layer=seed % chat.n_layers, length=6.0)
        variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.0 + seed)]
        jobs.append({"variants": variants, "seed": seed, "temperature": 0.8 * (seed % 2), "max_new_tokens": 24})

    def results(job: dict) -> list[tuple[list[list[int]], list[list[float]]]]:
        steps = stream_side_by_side(
            chat, histories(chat), job["variants"], **{k: job[k] for k in job if k != "variants"}
        )
        return [(step.token_ids, step.cosines.tolist()) for step in steps]

    alone = [results(job) for job in jobs]
    together = threading.Barrier(4)

    def after_the_others(job: dict) -> list:
        together.wait(timeout=60)
        return results(job)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(after_the_others, jobs))
    assert found == alone
    assert len({str(tokens[-1][0]) for tokens in alone}) == 4
    assert oracle.count_hooks(chat.model) == 0


# --- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "gemma2-narrow", "cohere", "gpt-neox", "mixtral"])
def test_a_hundred_runs_stopped_or_failed_leave_the_model_as_it_was(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    before = oracle.fingerprint(chat.model)
    expected = oracle.plain_greedy(chat, chat.encode(QUESTION), 8)
    direction = oracle.make_direction(chat, 1)
    modules = modules_called(chat)
    dice = random.Random(0)
    outcomes = set()
    for _ in range(100):
        ending = dice.choice(["closed", "dropped", "thrown into", "overflow", "memory", "interrupt", "broken", "bad"])
        outcomes.add(ending)
        stop_run(chat, direction, ending, dice, modules)
        assert oracle.count_hooks(chat.model) == 0
        assert not torch.is_inference_mode_enabled()
    assert len(outcomes) == 8
    assert chat.lock.acquire(blocking=False)
    chat.lock.release()
    assert oracle.fingerprint(chat.model) == before
    assert run(chat, QUESTION, [Variant.baseline()], max_new_tokens=8)[-1].token_ids[0] == expected


def stop_run(
    chat: ChatModel, direction: Direction, ending: str, dice: random.Random, modules: list[torch.nn.Module]
) -> None:
    """Start a side-by-side and end it in the way named, at a random place."""
    dial = Dial(1.0)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, dial)]
    stream = stream_side_by_side(chat, QUESTION, variants, max_new_tokens=8, temperature=dice.choice([0.0, 1.0]))
    if ending == "bad":
        with pytest.raises(SteeringError):
            next(stream_side_by_side(chat, QUESTION, variants, max_new_tokens=0))
        return
    has_ended = False
    for _ in range(dice.randrange(4)):
        has_ended = next(stream).finished[2]
    if ending == "closed":
        stream.close()
    elif ending == "dropped":
        del stream
    elif ending == "thrown into":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
    elif ending == "overflow":
        dial.value = 1e39
        if has_ended:  # a reply that has ended reads no more
            list(stream)
            return
        with pytest.raises(SteeringError, match="Lower the strength"):
            list(stream)
    else:
        raised, seen = {
            "memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), OutOfMemoryError),
            "interrupt": (KeyboardInterrupt(), KeyboardInterrupt),
            "broken": (RuntimeError("shapes do not fit"), RuntimeError),
        }[ending]

        def fail(*_: object) -> None:
            raise raised

        with ExitStack() as stack:
            if takes_fused(chat):  # our own pass calls no module; it fails where the interventions act
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(StreamEdits, "written", fail)
            else:
                stack.callback(dice.choice(modules).register_forward_hook(fail).remove)
            with pytest.raises(seen):
                list(stream)


def modules_called(chat: ChatModel) -> list[torch.nn.Module]:
    """The modules whose own hooks a forward pass runs; a part of a mixture may run inside a fused call."""
    called: list[torch.nn.Module] = []
    with ExitStack() as stack, torch.inference_mode():
        for module in chat.model.modules():
            stack.callback(module.register_forward_pre_hook(lambda module, _: called.append(module)).remove)
        chat.model(input_ids=torch.tensor([[5, 6]]))
    return called


# --- what a variant and a conversation may be -----------------------------------------------------------------------


def test_a_system_prompt_for_one_variant_only(tiny: Tiny) -> None:
    for name in ("llama3", "mixtral"):  # the second one's template takes no system role
        chat = tiny(name)
        found = run(chat, QUESTION, [Variant.baseline(), Variant("sailor", system="Speak like a sailor.")])[-1]
        assert found.token_ids[0] == oracle.plain_greedy(chat, chat.encode(QUESTION), N_TOKENS)
        told = [{"role": "system", "content": "Speak like a sailor."}, *QUESTION]
        assert found.token_ids[1] == oracle.plain_greedy(chat, chat.encode(told), N_TOKENS)
        assert found.token_ids[0] != found.token_ids[1]


def test_many_variants_of_every_kind_at_once(tiny: Tiny) -> None:
    chat = tiny("llama2")
    first, second = oracle.make_direction(chat, 1), oracle.make_direction(chat, 2, layer=2, rank=2)
    variants = [
        Variant.baseline(),
        Variant.ablated(first),
        Variant.added(first, -2.0),
        Variant("both", [Ablation(first), Ablation(second)]),
        Variant("mixed", [Ablation(second), Addition(first, 2.0), Addition(second, 1.0)]),
    ]
    together = run(chat, QUESTION, variants)[-1].token_ids
    assert together == [run(chat, QUESTION, [variant])[-1].token_ids[0] for variant in variants]
    assert len({tuple(reply) for reply in together}) >= 4


def test_the_conversation_given_is_not_changed(tiny: Tiny) -> None:
    chat = tiny("llama3")
    conversation = histories(chat)[0]
    before = copy.deepcopy(conversation)
    run(chat, conversation, [Variant("x", system="Be brief."), Variant.baseline()], max_new_tokens=2)
    assert conversation == before


def test_a_dial_turned_between_steps_acts_from_then_on(tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction, dial = oracle.make_direction(chat, 1, length=6.0), Dial(0.0)
    variants = [Variant.baseline(), Variant.added(direction, dial)]
    found = []
    for place, step in enumerate(stream_side_by_side(chat, QUESTION, variants, max_new_tokens=N_TOKENS)):
        found.append(step)
        dial.value = 0.0 if place < 5 else 3.0
    assert found[5].token_ids[0] == found[5].token_ids[1]
    assert found[-1].token_ids[0] != found[-1].token_ids[1]
    assert found[6].cosines[1, 1] > found[6].cosines[0, 1] + 0.3
    torch.testing.assert_close(found[5].cosines[0], found[5].cosines[1], atol=1e-6, rtol=0)


def test_a_conversation_too_long_loses_its_oldest_turns_and_says_so(tiny: Tiny) -> None:
    chat = tiny("llama3")
    turn = [{"role": "user", "content": "sea " * 400}, {"role": "assistant", "content": "Yes."}]
    long, short = [*turn * 6, *QUESTION], QUESTION
    assert len(chat.encode(long)) > chat.max_length
    last = run(chat, [long, short], [Variant.baseline(), Variant.baseline("b")], max_new_tokens=3)[-1]
    assert last.left_out[0] > 0
    assert last.left_out[1] == 0
    assert last.token_ids[0] == oracle.plain_greedy(chat, chat.encode(long[last.left_out[0] :]), 3)


@pytest.mark.parametrize(
    ("conversation", "n_variants", "options", "sentence"),
    [
        (QUESTION, 0, {}, "no variant"),
        (QUESTION, 1, {"max_new_tokens": 0}, "at least one token"),
        ([QUESTION], 2, {}, "1 conversations for 2 variants"),
        ([QUESTION] * 3, 2, {}, "3 conversations for 2 variants"),
        ([], 1, {}, "0 conversations"),
        ([{"role": "user", "content": "  \n"}], 1, {}, "Write a message"),
        ([*QUESTION, {"role": "assistant", "content": "Hm."}], 1, {}, "Write a message"),
        ([{"role": "user", "content": "sea " * 3000}], 1, {}, "Shorten it"),
        (QUESTION, 1, {"max_new_tokens": 5000}, "fewer new tokens"),
        (QUESTION, 1, {"temperature": -0.1}, "temperature"),
        (QUESTION, 1, {"top_p": 0.0}, "top-p"),
        (QUESTION, 1, {"repetition_penalty": 0.0}, "repetition penalty"),
        (QUESTION, 1, {"temperature": float("nan")}, "temperature"),
    ],
)
def test_mistakes_get_a_sentence(conversation: list, n_variants: int, options: dict, sentence: str, tiny: Tiny) -> None:
    with pytest.raises(SteeringError, match=sentence):
        run(tiny("llama3"), conversation, [Variant.baseline()] * n_variants, **options)


@pytest.mark.parametrize("coefficient", [1e39, -1e39, float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_coefficient_far_too_large_gets_a_sentence(coefficient: float, temperature: float, tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = oracle.make_direction(chat, 1)
    with pytest.raises(SteeringError, match="Lower the strength"):
        run(chat, QUESTION, [Variant.baseline(), Variant.added(direction, coefficient)], temperature=temperature)
