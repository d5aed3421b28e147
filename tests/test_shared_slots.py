"""Slots of memory that the page's process shares with those forked from it."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from steering.errors import SteeringError
from steering.ui.shared_slots import N_SLOTS, SharedDial, Slot, give_back, slots_in_use, take_slot
from steering.variants import Addition, Dial

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _all_given_back() -> Iterator[None]:
    assert slots_in_use() == 0
    yield
    gc.collect()
    assert slots_in_use() == 0


def crossed(value: Any) -> Any:
    """A value as it arrives in another process."""
    return ForkingPickler.loads(ForkingPickler.dumps(value))


def _watch(connection: Any, slot: Slot, dial: SharedDial) -> None:
    connection.send((dial.value, slot.stopped))
    connection.recv()
    connection.send((dial.value, slot.stopped))
    dial.value = 3.25
    give_back(dial.slot)  # not this process's to give
    connection.send(slots_in_use())


def test_what_the_page_writes_is_read_in_a_forked_process() -> None:
    slot, dial = take_slot(), SharedDial.at(0.5)
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_watch, args=(theirs, crossed(slot), crossed(dial)))
    process.start()
    assert ours.recv() == (0.5, False)
    dial.value = -2.0
    slot.stop()
    ours.send("go on")
    assert ours.recv() == (-2.0, True)
    assert ours.recv() == 2
    process.join(10)
    assert dial.value == 3.25
    assert not dial.slot.stopped
    give_back(slot)


def test_a_dial_is_a_dial_for_the_engine_and_crosses_as_two_numbers() -> None:
    dial = SharedDial.at(1.5)
    assert isinstance(dial, Dial)
    copy = crossed(dial)
    dial.value = 2.5
    assert Addition(None, copy).strength == 2.5  # type: ignore[arg-type]
    assert len(ForkingPickler.dumps(dial)) < 300
    del dial
    gc.collect()
    assert slots_in_use() == 0  # the copy holds none
    assert copy.slot.stopped


def test_who_outlives_their_use_is_stopped_and_does_not_see_the_next() -> None:
    first = take_slot()
    give_back(first)
    others = [take_slot() for _ in range(N_SLOTS)]
    [second] = [slot for slot in others if slot.number == first.number]
    assert first.stopped
    assert not second.stopped
    first.stop()
    assert not second.stopped
    for slot in others:
        give_back(slot)


def test_a_slot_begins_fresh() -> None:
    slots = [take_slot() for _ in range(N_SLOTS)]
    for slot in slots:
        slot.set_strength(9.0)
        slot.stop()
        give_back(slot)
    again = [take_slot() for _ in range(N_SLOTS)]
    assert {(slot.strength, slot.stopped) for slot in again} == {(0.0, False)}
    assert len({slot.number for slot in again}) == N_SLOTS
    for slot in again:
        give_back(slot)


def test_without_a_free_slot_there_is_a_sentence() -> None:
    slots = [take_slot() for _ in range(N_SLOTS)]
    with pytest.raises(SteeringError, match="Ask again in a few seconds"):
        SharedDial.at(1.0)
    for slot in slots:
        give_back(slot)
