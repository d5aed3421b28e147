"""Turns that share a batch against the same turns alone, and turns that fail beside others."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import oracle
import pytest
import torch
from families import FAMILIES

from steering.decoders import NewRow
from steering.errors import DirectionError, OutOfMemoryError, SteeringError
from steering.kept_rows import ready_for
from steering.models import ChatModel, Message
from steering.module_decoder import ModuleDecoder
from steering.replies import Replies, ReplyRequest, Step
from steering.reply_batch import ReplyBatch
from steering.sampling import SamplingSettings
from steering.template import ThoughtMarks
from steering.variants import Dial, Variant

Tiny = Callable[[str], ChatModel]
QUESTION: list[Message] = [{"role": "user", "content": "Why is the sky blue?"}]
OTHER: list[Message] = [{"role": "user", "content": "Tell me about the sea, the tides in it and the boats on it."}]
LONG: list[Message] = [
    *QUESTION,
    {"role": "assistant", "content": "Air scatters blue light. The sea is wide and cold."},
    {"role": "user", "content": "Go on."},
]


def three_ways(chat: ChatModel, seed: int = 1) -> list[Variant]:
    direction = oracle.make_direction(chat, seed, length=6.0)
    return [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.5)]


def asked(messages: list[Message], variants: list[Variant], **options: object) -> ReplyRequest:
    return ReplyRequest([messages] * len(variants), variants, **{"max_new_tokens": 10, **options})


def alone(chat: ChatModel, request: ReplyRequest) -> list[Step]:
    """Every step of a turn that has a batch for itself and goes on from nothing."""
    batch = ReplyBatch(chat)
    replies = batch.join(replace(request, kept=None))
    steps = [replies.newest]
    while not replies.finished:
        batch.step()
        assert replies.error is None
        steps.append(replies.newest)
    assert batch.n_rows == 0
    return steps


def run_to_end(batch: ReplyBatch) -> None:
    while batch.n_rows:
        batch.step()


def same_steps(found: list[Step], expected: list[Step]) -> None:
    assert [step.token_ids for step in found] == [step.token_ids for step in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cosines, other.cosines, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_that_come_and_go_write_what_they_write_alone(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    variants = three_ways(chat)
    chosen = SamplingSettings(temperature=1.0, top_p=0.95, repetition_penalty=1.2, seed=5)
    requests = {
        0: asked(QUESTION, variants, likeliest=3),
        2: asked(OTHER, variants[1:], settings=chosen, max_new_tokens=12),
        3: asked(LONG, [Variant.baseline()]),
        7: asked(QUESTION, three_ways(chat, seed=2)[1:], max_new_tokens=4),
    }
    batch = ReplyBatch(chat)
    turns: dict[int, Replies] = {}
    steps: dict[int, list[Step]] = {}
    for place in itertools.count():
        advanced = batch.step() if batch.n_rows else []
        for number, replies in turns.items():
            if replies in advanced:
                steps[number].append(replies.newest)
        if place in requests:
            turns[place] = batch.join(requests[place])
            steps[place] = [turns[place].newest]
        if place == 6:
            batch.leave(turns[3])
        if place > 7 and not batch.n_rows:
            break
    expected = {number: alone(chat, request) for number, request in requests.items()}
    assert len(steps[3]) == 4
    expected[3] = expected[3][:4]
    for number in requests:
        same_steps(steps[number], expected[number])
        assert turns[number].error is None
    assert oracle.count_hooks(chat.model) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_goes_on_from_what_its_last_one_read(name: str, tiny: Tiny) -> None:
    """Three replies of different lengths, then a turn on each; beside another visitor's, and asked a second time."""
    chat = tiny(name)
    variants = three_ways(chat)
    batch = ReplyBatch(chat)
    first = batch.join(asked(QUESTION, variants))
    batch.join(asked(OTHER, variants[2:], max_new_tokens=30))
    while not first.finished:
        batch.step()
    texts = [text[: 8 * (row + 1)] for row, text in enumerate(first.newest.texts)]
    follow_up = {"role": "user", "content": "Tell me more about the sea."}
    conversations = [[*QUESTION, {"role": "assistant", "content": text}, follow_up] for text in texts]
    request = ReplyRequest(conversations, variants, max_new_tokens=8, kept=first.keep())
    prompts = [chat.encode(conversation) for conversation in conversations]
    for row, prompt in zip(first.keep(), prompts, strict=True):
        assert row is not None
        assert 0 < ready_for(row, prompt, chat.post_instruction_tokens).reusable(prompt) < len(prompt)
    expected = alone(chat, request)
    second = batch.join(request)
    steps = [second.newest]
    while not second.finished:
        batch.step()
        steps.append(second.newest)
    same_steps(steps, expected)
    again = batch.join(replace(request, kept=second.keep()))
    run_to_end(batch)
    assert again.newest.token_ids == expected[-1].token_ids
    assert [row.pieces for row in again.keep()] == [row.pieces for row in second.keep()]


def test_a_question_asked_again_repeats_itself_in_bfloat16(bundled: ChatModel) -> None:
    direction = oracle.make_direction(bundled, 1, layer=12, length=40.0)
    variants = [Variant.baseline(), Variant.added(direction)]
    settings = SamplingSettings(temperature=1.0, seed=3)
    batch = ReplyBatch(bundled)
    first = batch.join(asked(QUESTION, variants, max_new_tokens=6))
    run_to_end(batch)
    answers = [[*QUESTION, {"role": "assistant", "content": text}, *OTHER] for text in first.newest.texts]
    request = ReplyRequest(answers, variants, settings, max_new_tokens=12, kept=first.keep())
    second = batch.join(request)
    run_to_end(batch)
    again = batch.join(replace(request, kept=second.keep()))
    run_to_end(batch)
    assert again.newest.token_ids == second.newest.token_ids
    assert torch.equal(again.newest.cosines, second.newest.cosines)
    for one, other in zip(again.keep(), second.keep(), strict=True):
        assert one.pieces == other.pieces
        assert one.pieces[1] > 1  # the reply was gone on from
        assert all(torch.equal(a, b) for a, b in zip(one.keys, other.keys, strict=True))


def test_the_likeliest_tokens_are_those_of_the_models_own_distribution(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    settings = SamplingSettings(temperature=2.0, repetition_penalty=1.5, seed=1)
    steps = alone(chat, asked(QUESTION, [Variant.baseline()], settings=settings, likeliest=4, max_new_tokens=4))
    ids = chat.encode(QUESTION)
    written = steps[-1].token_ids[0]
    with torch.no_grad():
        logits = chat.model(input_ids=torch.tensor([ids + written])).logits[0, len(ids) - 1 :]
    for place, step in enumerate(steps):
        expected = logits[place].softmax(dim=-1).topk(4)
        found = step.likeliest[0]
        assert found is not None
        assert found[0] == expected.indices.tolist()
        torch.testing.assert_close(torch.tensor(found[1]), expected.values, atol=1e-5, rtol=0)
    assert alone(chat, asked(QUESTION, [Variant.baseline()], max_new_tokens=2))[0].likeliest == [None]


def test_a_reply_that_has_ended_gives_its_row_back(tiny: Tiny) -> None:
    chat = tiny("llama3")
    variants = three_ways(chat)
    free = alone(chat, asked(QUESTION, variants))[-1].token_ids
    brief = oracle.ending_early(chat, [free[0][3]])
    n_tokens = [next((i for i, token in enumerate(ids) if token in brief.end_tokens), 10) for ids in free]
    assert n_tokens[0] == 3
    batch = ReplyBatch(brief)
    replies = batch.join(asked(QUESTION, variants, likeliest=2))
    for place in range(1, 10):
        assert batch.n_rows == sum(place <= n for n in n_tokens)
        assert [row is not None for row in replies.keep()] == [place > n for n in n_tokens]
        if place == 4:
            assert replies.newest.finished[0]
            assert replies.newest.likeliest[0] is None
        batch.step()
    assert batch.n_rows == 0
    kept = replies.keep()
    assert kept[0].tokens == brief.encode(QUESTION) + free[0][:3]  # all that was written has been read
    assert kept[2].tokens == brief.encode(QUESTION) + free[2][:9]  # the last token has not
    assert batch.step() == []


# --- faults ---------------------------------------------------------------------------------------------------------


def test_numbers_that_overflow_end_their_own_turn_only(tiny: Tiny) -> None:
    chat = tiny("gemma2")
    direction, dial = oracle.make_direction(chat, 3), Dial(1.0)
    request = asked(QUESTION, three_ways(chat))
    batch = ReplyBatch(chat)
    poisoned = batch.join(asked(OTHER, [Variant.baseline(), Variant.added(direction, dial)]))
    well = batch.join(request)
    batch.step()
    dial.value = float("nan")
    assert poisoned in batch.step()
    assert poisoned.finished
    assert "Lower the strength" in str(poisoned.error)
    assert poisoned.fault is None
    assert poisoned.newest.n_tokens == [2, 2]  # what it had stays
    assert poisoned.keep() == [None, None]
    assert batch.n_rows == 3
    with pytest.raises(SteeringError, match="Lower the strength"):
        batch.join(asked(OTHER, [Variant.added(direction, dial)]))
    assert batch.n_rows == 3
    run_to_end(batch)
    assert well.error is None
    assert well.newest.token_ids == alone(chat, request)[-1].token_ids


@contextmanager
def failing_for(chat: ChatModel, token: int, error: Exception) -> Iterator[None]:
    """A model that raises whenever it reads ``token`` in a step."""

    def hook(module: torch.nn.Module, args: tuple) -> None:
        if args[0].shape[1] == 1 and bool((args[0] == token).any()):
            raise error

    handle = chat.model.get_input_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")


@pytest.mark.parametrize(
    ("raised", "seen", "sentence"),
    [
        (OUT_OF_MEMORY, OutOfMemoryError, "ran out of memory"),
        (RuntimeError("shapes do not fit"), SteeringError, "Something went wrong"),
        (ValueError("a token out of range"), SteeringError, "Something went wrong"),
    ],
)
def test_a_turn_whose_step_raises_ends_and_the_others_go_on(
    raised: Exception, seen: type, sentence: str, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    chat = tiny("mistral")
    requests = [asked(QUESTION, three_ways(chat)), asked(OTHER, three_ways(chat, 2)), asked(LONG, three_ways(chat)[:1])]
    expected = [alone(chat, request)[-1].token_ids for request in requests]
    # A token that the second turn alone writes, not at its beginning.
    others = {token for turn in (expected[0], expected[2]) for ids in turn for token in ids}
    own = {token: place for ids in expected[1] for place, token in reversed([*enumerate(ids)]) if token not in others}
    token, place = max(own.items(), key=lambda item: item[1] if item[1] < 8 else -1)
    batch = ReplyBatch(chat)
    with caplog.at_level(logging.WARNING), failing_for(chat, token, raised):
        first, second, third = (batch.join(request) for request in requests)
        run_to_end(batch)
    assert second.finished
    assert type(second.error) is seen
    assert sentence in str(second.error)
    assert second.error.__cause__ is raised
    assert (second.fault is raised) == (seen is SteeringError)
    assert max(second.newest.n_tokens) <= place + 1
    assert second.newest.token_ids == [ids[:n] for ids, n in zip(expected[1], second.newest.n_tokens, strict=True)]
    assert [first.newest.token_ids, third.newest.token_ids] == [expected[0], expected[2]]
    assert first.error is None
    assert all(row is not None for row in first.keep())
    assert any(record.exc_info and record.exc_info[1] is raised for record in caplog.records)
    assert oracle.count_hooks(chat.model) == 0
    later = batch.join(requests[1])  # the batch takes new turns
    run_to_end(batch)
    assert later.newest.token_ids == expected[1]


def test_a_fault_of_the_whole_batch_is_borne_by_each_turn_alone(tiny: Tiny) -> None:
    """What fails for many rows and not for few: nobody ends, and a turn may still leave, or come."""
    chat = tiny("llama3")
    requests = [asked(QUESTION, three_ways(chat)), asked(OTHER, three_ways(chat)[:2])]
    expected = [alone(chat, request)[-1].token_ids for request in requests]

    def hook(module: torch.nn.Module, args: tuple) -> None:
        if args[0].shape[0] > 3:
            raise OUT_OF_MEMORY

    batch = ReplyBatch(chat)
    handle = oracle.parts(chat.model).blocks[1].register_forward_pre_hook(hook)
    try:
        first, second = map(batch.join, requests)
        assert batch.n_rows == 5
        assert batch.step() == [first, second]
        third = batch.join(requests[0])
        batch.step()
        batch.leave(third)
        assert batch.n_rows == 5
        run_to_end(batch)
    finally:
        handle.remove()
    assert [first.newest.token_ids, second.newest.token_ids] == expected
    assert third.newest.token_ids == [ids[:2] for ids in expected[0]]
    assert third.error is None


def test_a_turn_that_is_refused_changes_nothing(tiny: Tiny) -> None:
    chat = tiny("llama3")
    request = asked(QUESTION, three_ways(chat))
    batch = ReplyBatch(chat)
    running = batch.join(request)
    foreign = oracle.make_direction(tiny("gemma2"), 1)
    for refused, error, sentence in (
        (asked([], [Variant.baseline()]), SteeringError, "Write a message"),
        (asked(QUESTION, [Variant.baseline()], max_new_tokens=5000), SteeringError, "fewer new tokens"),
        (asked(QUESTION, [Variant.ablated(foreign)]), DirectionError, "was made for a model"),
        (asked(QUESTION, [Variant.baseline()], probe=foreign), DirectionError, "was made for a model"),
    ):
        with pytest.raises(error, match=sentence):
            batch.join(refused)
        assert batch.n_rows == 3
    run_to_end(batch)
    assert running.newest.token_ids == alone(chat, request)[-1].token_ids


# --- what a turn may change meanwhile -------------------------------------------------------------------------------


def test_a_dial_turned_meanwhile_acts_on_its_row_and_keeps_it_from_being_kept(tiny: Tiny) -> None:
    chat = tiny("qwen3")
    direction, dial = oracle.make_direction(chat, 1, length=6.0), Dial(0.0)
    request = asked(OTHER, three_ways(chat, 2))
    batch = ReplyBatch(chat)
    turned = batch.join(asked(QUESTION, [Variant.baseline(), Variant.added(direction, dial)]))
    beside = batch.join(request)
    batch.step()
    assert turned.newest.token_ids[0] == turned.newest.token_ids[1]
    dial.value = 4.0
    batch.step()
    assert turned.newest.cosines[1, 1] > turned.newest.cosines[0, 1] + 0.3
    run_to_end(batch)
    assert turned.newest.token_ids[0] != turned.newest.token_ids[1]
    kept = turned.keep()
    assert kept[0] is not None
    assert kept[1] is None
    assert beside.newest.token_ids == alone(chat, request)[-1].token_ids


def thinker(chat: ChatModel, end: int) -> ChatModel:
    """The same model, which begins each reply within a thought that ``end`` ends."""
    twin = ChatModel(chat.model, chat.tokenizer, chat.name, chat.label, thinking=True)
    text = chat.tokenizer.decode(chat.post_instruction_tokens, skip_special_tokens=False)
    twin.thought_marks = ThoughtMarks(text, chat.tokenizer.decode([end]), chat.post_instruction_tokens, [end])
    return twin


def test_a_variant_acts_on_its_side_of_the_thought(tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = oracle.make_direction(chat, 1, length=6.0)
    added = Variant.added(direction, 1.5)
    ids = chat.encode(QUESTION)
    plain = alone(chat, asked(QUESTION, [Variant.baseline()]))[-1].token_ids[0]
    steered = alone(chat, asked(QUESTION, [added]))[-1].token_ids[0]
    # Both write the token that ends the thought at some place, each for itself.
    for tokens, acts in ((plain, "answer"), (steered, "thought")):
        end = next(place for place in range(2, 8) if tokens[place] not in tokens[:place])
        twin = thinker(chat, tokens[end])
        assert twin.thought_end == [tokens[end]]
        assert twin.open_thought is True
        batch = ReplyBatch(twin)
        acting = replace(added, acts=acts)
        replies = batch.join(asked(QUESTION, [Variant.baseline(), acting]))
        beside = batch.join(asked(OTHER, [added]))
        run_to_end(batch)
        found, step = replies.newest.token_ids[1], replies.newest
        assert found[: end + 1] == tokens[: end + 1]
        assert step.n_thought[1] == end + 1
        assert found != plain
        assert found != steered
        # What comes behind is written the other way, with the thought as it was read.
        before, after = (Variant.baseline(), added) if acts == "answer" else (added, Variant.baseline())
        assert found[end + 1 :] == written_by_hand(chat, ids, found[: end + 1], before, after, 9 - end)
        assert step.thoughts[1]
        assert step.answers[1]
        assert step.texts[1].endswith(step.answers[1])
        kept = replies.keep()[1]
        assert kept.tokens == ids + found[:end]  # read before anything changed
        assert beside.newest.token_ids == alone(twin, asked(OTHER, [added]))[-1].token_ids
        # A model that does not think is acted on everywhere.
        assert alone(chat, asked(QUESTION, [acting]))[-1].token_ids[0] == steered
        assert alone(chat, asked(QUESTION, [acting]))[-1].n_thought == [0]


def written_by_hand(
    chat: ChatModel, prompt: list[int], thought: list[int], before: Variant, after: Variant, n: int
) -> list[int]:
    """``n`` tokens behind a thought whose end is read after ``before`` has given way to ``after``."""
    decoder = ModuleDecoder(chat)
    decoder.join([NewRow([*prompt, *thought[:-1]], before)])
    decoder.change(0, after)
    found, token = [], thought[-1]
    for _ in range(n):
        token = int(decoder.step(torch.tensor([token])).argmax(dim=-1))
        found.append(token)
    return found


def test_a_model_that_may_think_and_does_not_is_acted_on_in_its_answer(tiny: Tiny) -> None:
    chat = tiny("qwen3")
    direction = oracle.make_direction(chat, 1, length=6.0)
    twin = ChatModel(chat.model, chat.tokenizer, chat.name, chat.label, thinking=True)
    assert twin.open_thought is None
    assert chat.open_thought is False
    acting = [replace(Variant.added(direction, 1.5), acts=acts) for acts in ("both", "thought", "answer")]
    step = alone(twin, asked(QUESTION, acting))[-1]
    assert step.n_thought == [0, 0, 0]
    assert step.thoughts == ["", "", ""]
    assert step.answers == step.texts
    assert len({tuple(ids) for ids in step.token_ids}) == 3
    assert step.token_ids[1][0] == step.token_ids[0][0]  # the first token was still read as the thought's would be
    with pytest.raises(SteeringError, match="not in “nowhere”"):
        Variant("x", acts="nowhere")
