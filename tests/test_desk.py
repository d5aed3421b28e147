"""The desk: visitors' replies share a batch, wait only when it is full, and take turns with long work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from steering.directions import Direction
from steering.errors import SteeringError
from steering.interventions import Dial
from steering.models import ChatModel
from steering.ui.columns import SETS
from steering.ui.desk import Desk, Reply
from steering.ui.engine import Engine, ModelOptions
from steering.ui.turn import Tick, TurnRequest, TurnWriter
from steering.ui.worker import Job

PATIENCE = 60


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture
def engine(tiny: Callable[[str], ChatModel]) -> Iterator[Engine]:
    engine = Engine(ModelOptions(device="cpu"))
    engine.model = tiny("qwen3")
    yield engine
    hooks = [module for module in engine.model.model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooks, "nothing of a visitor stays on the model"


def a_direction(model: ChatModel, seed: int = 0) -> Direction:
    vector = 2 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, (vector / vector.norm())[None], 1, -1, float(vector.norm()), f"number {seed}")


def a_request(engine: Engine, visitor: int = 0, **changes: object) -> TurnRequest:
    request = TurnRequest(
        "own:1",
        a_direction(engine.ready_model(), visitor),
        [[], [], []],
        "What is rain?",
        Dial(1.0),
        max_new_tokens=24,
        owner=f"visitor {visitor}",
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def newest(reply: Reply) -> Tick:
    """What was written in the end."""
    ticks = [report for report in reply.reports() if isinstance(report, Tick) and not report.started]
    return ticks[-1]


def alone(engine: Engine, request: TurnRequest) -> list[str]:
    """The replies of a turn that nobody else's stood beside, in another desk of the same engine."""
    return newest(Desk(engine, engine.worker, 24).ask(replace(request, owner=""))).texts


def test_visitors_share_a_batch_and_each_gets_what_they_get_alone(engine: Engine) -> None:
    requests = [
        a_request(engine, 0),
        a_request(engine, 1, question="Tell me about the sea.", temperature=0.8, seed=5, max_new_tokens=40),
        a_request(engine, 2, columns=SETS["random"], histories=[[]] * 4, dial=Dial(0.5)),
    ]
    expected = [alone(engine, request) for request in requests]
    gate = threading.Event()
    engine.worker.submit(lambda job: gate.wait(PATIENCE) and None)
    replies = [engine.desk.ask(request) for request in requests]
    gate.set()
    most = 0
    ended = threading.Event()

    def count_rows() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, engine.desk.rows)
            time.sleep(0.0005)

    counting = threading.Thread(target=count_rows)
    counting.start()
    assert [newest(reply).texts for reply in replies] == expected
    ended.set()
    counting.join()
    assert most == 3 + 3 + 4
    wait_for(lambda: engine.desk.rows == 0)


def test_who_finds_the_batch_full_waits_and_knows_their_place(engine: Engine) -> None:
    engine.desk = Desk(engine, engine.worker, rows_at_most=4)
    first = engine.desk.ask(a_request(engine, 0, max_new_tokens=400))
    second, third = (engine.desk.ask(a_request(engine, seed)) for seed in (1, 2))
    wait_for(first.started.is_set)
    wait_for(lambda: (second.before, third.before) == (1, 2))
    assert second.seconds_before > 0
    assert not second.started.is_set()
    second.stop()  # who gives up makes room in the line
    wait_for(lambda: third.before == 1)
    first.stop()
    assert newest(third).texts == alone(engine, a_request(engine, 2))
    assert second.ended.is_set()


def test_long_work_that_lets_nobody_go_counts_as_one_before(engine: Engine) -> None:
    gate = threading.Event()
    busy = engine.worker.submit(lambda job: gate.wait(PATIENCE) and None)
    wait_for(busy.started.is_set)
    reply = engine.desk.ask(a_request(engine, 0))
    assert reply.before == 1
    gate.set()
    assert newest(reply).texts
    assert reply.before == 0


def test_a_turn_larger_than_the_batch_is_let_in_alone(engine: Engine) -> None:
    engine.desk = Desk(engine, engine.worker, rows_at_most=2)
    request = a_request(engine, 0)
    assert newest(engine.desk.ask(request)).texts == alone(engine, request)


def test_a_stop_ends_one_and_leaves_the_other(engine: Engine) -> None:
    expected = alone(engine, a_request(engine, 1))
    first = engine.desk.ask(a_request(engine, 0, max_new_tokens=400))
    second = engine.desk.ask(a_request(engine, 1))
    for report in first.reports():
        if isinstance(report, Tick) and report.texts:
            first.stop()
    assert newest(second).texts == expected


def test_a_turn_that_cannot_be_begun_ends_with_its_sentence_and_alone(engine: Engine) -> None:
    other = engine.desk.ask(a_request(engine, 1))
    wrong = engine.desk.ask(a_request(engine, 0, temperature=99.0))
    with pytest.raises(SteeringError, match="temperature"):
        list(wrong.reports())
    assert newest(other).texts == alone(engine, a_request(engine, 1))


def test_a_turn_whose_numbers_overflow_ends_alone_and_keeps_what_it_wrote(engine: Engine) -> None:
    other = engine.desk.ask(a_request(engine, 1, max_new_tokens=60))
    dial = Dial(1.0)
    breaking = engine.desk.ask(a_request(engine, 0, dial=dial, max_new_tokens=400))
    written: list[Tick] = []

    def read() -> None:
        for report in breaking.reports():
            if isinstance(report, Tick) and report.texts:
                written.append(report)
                dial.value = float("inf")

    with pytest.raises(SteeringError, match="overflowed"):
        read()
    assert any(written[-1].texts)
    assert newest(other).texts == alone(engine, a_request(engine, 1, max_new_tokens=60))


def test_replies_and_long_work_take_turns(engine: Engine) -> None:
    """Neither waits for the other's end, however much long work stands in line."""
    steps: list[float] = []

    def long(job: Job) -> None:
        while not job.stopped:
            steps.append(time.monotonic())
            time.sleep(0.01)
            engine.let_others_go(job)

    works = [engine.worker.submit(long) for _ in range(2)]
    wait_for(works[0].started.is_set)
    # Long enough for several slices.
    reply = engine.desk.ask(a_request(engine, 0, max_new_tokens=2000))
    arrived = [time.monotonic() for report in reply.reports() if isinstance(report, Tick) and report.texts]
    between = [step for step in steps if arrived[0] < step < arrived[-1]]
    for work in works:
        work.stop()
    assert reply.ended.is_set()
    assert len(arrived) > 2
    assert len(between) >= 1, "the long work went on while the reply was being written"
    assert not works[1].started.is_set() or works[1].ended.wait(PATIENCE)


def test_a_reply_ends_on_the_model_it_began_with(engine: Engine, tiny: Callable[[str], ChatModel]) -> None:
    old, new = engine.ready_model(), tiny("llama3")
    expected = alone(engine, a_request(engine, 0, max_new_tokens=300))
    first = engine.desk.ask(a_request(engine, 0, max_new_tokens=300))
    wait_for(first.started.is_set)
    engine.worker.submit(lambda job: setattr(engine, "model", new))
    wait_for(lambda: engine.model is new)
    second = engine.desk.ask(replace(a_request(engine, 3), own=a_direction(new, 3)))
    assert newest(first).texts == expected
    texts = newest(second).texts
    assert texts == alone(engine, replace(a_request(engine, 3), own=a_direction(new, 3)))
    engine.model = old


def test_the_next_turn_goes_on_from_what_was_kept_and_a_leaver_gives_it_back(engine: Engine) -> None:
    request = a_request(engine, 0)
    first = newest(engine.desk.ask(request)).texts
    wait_for(lambda: engine.kept_rows.nbytes > 0)
    kept = engine.kept_rows.nbytes
    history = [
        [{"role": "user", "content": request.question}, {"role": "assistant", "content": text}] for text in first
    ]
    following = replace(request, histories=history, question="And snow?")
    assert newest(engine.desk.ask(following)).texts == alone(engine, following)
    wait_for(lambda: engine.kept_rows.nbytes > kept)
    engine.forget("visitor 0")
    assert engine.kept_rows.nbytes == 0


def test_a_turn_of_nobody_keeps_nothing_and_ends(engine: Engine) -> None:
    """As those of programs and of the blind test, which have no next one."""
    assert newest(engine.desk.ask(a_request(engine, 0, owner=""))).texts
    assert engine.kept_rows.nbytes == 0


def test_a_fault_at_a_turns_end_leaves_nobody_waiting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TurnWriter, "keep", lambda *_: 1 / 0)
    first, second = (engine.desk.ask(a_request(engine, visitor)) for visitor in (0, 1))
    for reply in (first, second):
        with pytest.raises(ZeroDivisionError):
            list(reply.reports())


def test_nothing_is_kept_of_a_visitor_who_leaves_in_the_middle(engine: Engine) -> None:
    reply = engine.desk.ask(a_request(engine, 0, max_new_tokens=400))
    wait_for(lambda: engine.desk.rows > 0)
    engine.forget("visitor 0")
    reply.stop()
    wait_for(reply.ended.is_set)
    assert engine.kept_rows.nbytes == 0


def test_a_fault_of_the_desk_itself_leaves_nobody_waiting(engine: Engine) -> None:
    engine.desk._let_in = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        list(engine.desk.ask(a_request(engine, 0)).reports())
    del engine.desk._let_in  # type: ignore[method-assign]
    assert newest(engine.desk.ask(a_request(engine, 0))).texts
