"""Short work goes before the rest of long work, and only where the long work lets it."""

from __future__ import annotations

import threading

from steering.ui.worker import Job, Worker


def test_short_work_is_done_between_two_steps_of_long_work() -> None:
    worker, order = Worker(), []
    began, all_in_line = threading.Event(), threading.Event()

    def long(job: Job) -> None:
        began.set()
        assert all_in_line.wait(10)
        order.append("long begins")
        job.let_others_go()
        order.append("long ends")

    first = worker.submit(long)
    assert began.wait(10)
    short = [worker.submit(lambda job, name=name: order.append(name), short=True) for name in ("one", "two")]
    last = worker.submit(lambda job: order.append("another long"))
    late = worker.submit(lambda job: order.append("short behind it"), short=True)
    assert first.someone_waits
    all_in_line.set()
    for job in (first, *short, last, late):
        assert job.ended.wait(10)
    # What stands behind other long work keeps its place, or that would never be done.
    assert order == ["long begins", "one", "two", "long ends", "another long", "short behind it"]


def test_work_that_was_ended_lets_no_one_go_first_and_frees_the_line() -> None:
    worker, order = Worker(), []
    in_line, began = threading.Event(), threading.Event()

    def long(job: Job) -> None:
        began.set()
        assert in_line.wait(10)
        job.let_others_go()
        order.append("long")

    first = worker.submit(long)
    assert began.wait(10)
    short = worker.submit(lambda job: order.append("short"), short=True)
    first.stop()
    in_line.set()
    assert short.ended.wait(10)
    assert order == ["long", "short"]


def test_short_work_that_fails_leaves_the_long_one_going() -> None:
    worker, order = Worker(), []
    in_line, began = threading.Event(), threading.Event()

    def long(job: Job) -> None:
        began.set()
        assert in_line.wait(10)
        job.let_others_go()
        order.append("long")

    def failing(job: Job) -> None:
        raise ValueError("no")

    first = worker.submit(long)
    assert began.wait(10)
    short = worker.submit(failing, short=True)
    in_line.set()
    assert first.ended.wait(10)
    assert order == ["long"]
    assert short.ended.is_set()
