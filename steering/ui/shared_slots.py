"""Two numbers a call, shared by the page's process and those forked from it: its strength, and whether it goes on.

What a forked process has of Python is a copy, so a slider moved on the page would never reach the reply being written.
Anonymous memory that was mapped before the fork is the same memory in both. A slot is taken and given back by the
page's process alone; the other one knows it by its number, which travels with the request.

A slot serves one use after another. Its second number says which, so a call that outlived its use reads "stop" and not
what the next visitor does with the slot.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from dataclasses import dataclass

from steering.errors import SteeringError
from steering.variants import Dial

N_SLOTS = 64
SLOT_BYTES = 16  # a float64, the strength, and an int64, the number of the use that goes on

_memory = memoryview(mmap.mmap(-1, N_SLOTS * SLOT_BYTES))
# Whole aligned numbers, so that each is written and read in one go.
_strengths = _memory.cast("d")
_uses = _memory.cast("q")

# Only the page's process touches these.
_page = os.getpid()
_lock = threading.Lock()
_free = list(range(N_SLOTS))
_newest_use = 0

TOO_MANY = "Too many answers are being written at this moment. Ask again in a few seconds."


@dataclass(frozen=True)
class Slot:
    """One use of a slot; both processes know it by these two numbers."""

    number: int
    use: int

    @property
    def stopped(self) -> bool:
        """Whether its use was ended, by a wish to stop or because the slot was given back."""
        return _uses[2 * self.number + 1] != self.use

    def stop(self) -> None:
        """Ask the call that has this slot to end."""
        with _lock:
            if not self.stopped:
                _uses[2 * self.number + 1] = 0

    @property
    def strength(self) -> float:
        """The number that both processes see."""
        return _strengths[2 * self.number]

    def set_strength(self, value: float) -> None:
        """Write it; at once, and for both."""
        _strengths[2 * self.number] = value


def take_slot() -> Slot:
    """A slot that nobody uses; give it back with :func:`give_back`.

    Raises:
        SteeringError: if all are in use.
    """
    global _newest_use
    with _lock:
        if not _free:
            raise SteeringError(TOO_MANY)
        _newest_use += 1
        slot = Slot(_free.pop(0), _newest_use)
        _uses[2 * slot.number + 1] = slot.use
        slot.set_strength(0.0)
        return slot


def give_back(slot: Slot) -> None:
    """Let others have the slot. The call it served must have ended, or at least reads that it should.

    In a forked process nothing happens: what it throws away are its copies of the page's objects.
    """
    if os.getpid() != _page:
        return
    with _lock:
        _uses[2 * slot.number + 1] = 0
        _free.append(slot.number)


def slots_in_use() -> int:
    """How many slots are taken."""
    return N_SLOTS - len(_free)


class SharedDial(Dial):
    """A coefficient that can be turned on the page while a forked process writes the reply.

    In the page's process it holds a slot for as long as it lives; pickled, it is the slot's numbers, and what comes out
    at the other side reads the same memory.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    @classmethod
    def at(cls, value: float) -> SharedDial:
        """A dial of the page's process, at ``value``, with a slot of its own.

        Raises:
            SteeringError: if no slot is free.
        """
        dial = cls(take_slot())
        dial.value = value
        weakref.finalize(dial, give_back, dial.slot).atexit = False
        return dial

    @property
    def value(self) -> float:
        """The coefficient as it is now."""
        return self.slot.strength

    @value.setter
    def value(self, value: float) -> None:
        self.slot.set_strength(value)

    def __reduce__(self) -> tuple[type[SharedDial], tuple[Slot]]:
        return SharedDial, (self.slot,)
