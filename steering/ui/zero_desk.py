"""Where the page hands its work over on a ZeroGPU Space: no thread and no line, but a call that borrows the GPU.

It looks like :class:`steering.ui.worker.Worker`, so the handlers know no difference, but for one thing: work starts
when someone reads its reports. The Space charges a visitor's quota by the web request that a call is made in, and that
is known on the handler's own thread alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui.best_work import find_best, measure_place
from steering.ui.gpu_call import Failed, Learnt, NoLine, gpu_turn, gpu_work, presets_in, work_for
from steering.ui.shared_slots import SharedDial, Slot, give_back, take_slot
from steering.ui.turn import TurnRequest, turn_work
from steering.ui.worker import Job, Work

SECONDS = 30  # of the GPU, for computing a direction or for the three answers of a blind test
SECONDS_OF_A_SEARCH = 110  # an anonymous visitor has 120 a day
SEARCHES = (find_best, measure_place)
TAKEN_AWAY = (
    "The Space took the GPU away before the end, most likely because its time was used up. What came so far stays; ask "
    "again to go on."
)
UNFORESEEN = "Something went wrong inside the program; its log says what. Try again."


class ZeroDesk(NoLine):
    """Takes work and gives jobs; the GPU is asked for when a job's reports are read."""

    in_this_process = False

    def submit(self, work: Work, *, short: bool = False) -> ZeroJob:
        """A job for ``partial(function, engine, *arguments)``, of a module's function that takes the job at last.

        Nothing else can be handed to another process.
        """
        if not isinstance(work, partial) or not work.args or work.keywords:
            raise TypeError("Work for the GPU's process is a partial of a module's function, the engine first.")
        return ZeroJob(self, work, short=short)

    def dial(self, value: float) -> SharedDial:
        """A dial that a reply being written in another process follows."""
        return SharedDial.at(value)


class ZeroJob(Job):
    """One call of the GPU."""

    def __init__(self, desk: ZeroDesk, work: partial[None], *, short: bool) -> None:
        super().__init__(desk, work, short=short)
        self._engine, *self._arguments = work.args
        self._function = work.func
        self._slot: Slot | None = None

    def stop(self) -> None:
        super().stop()
        if (slot := self._slot) is not None:
            slot.stop()

    def reports(self, patience: float = 0.25) -> Iterator[Any]:
        """Borrow the GPU, do the work, and give what it reports; None at least ten times a second.

        Raises:
            SteeringError: with the work's own sentence, or one that says why there was no GPU or no more of it.
        """
        if self.stopped:
            self.ended.set()
            return
        work_for(self._engine)
        self._slot = slot = take_slot()
        if self.stopped:  # between the question above and the slot
            slot.stop()
        call = self._call(slot)
        try:
            for report in call:
                self.started.set()
                if isinstance(report, Failed):
                    kind = Cancelled if report.cancelled else SteeringError
                    raise kind(report.sentence or UNFORESEEN)
                if isinstance(report, Learnt):
                    self._engine.learn(report.directions)
                else:
                    yield report
        except gr.Error as error:  # of `spaces`: no GPU was given, or it was taken away
            raise SteeringError(_sentence(error)) from error
        finally:
            call.close()
            self._slot = None
            give_back(slot)
            self.ended.set()

    def _call(self, slot: Slot) -> Any:
        """The generator on the GPU."""
        if self._function is turn_work and isinstance(self._arguments[0], TurnRequest):
            needed = presets_in(self._arguments[0])
            for name in needed:
                self._engine.readable_direction(name)
            known = {key: one for key, one in self._engine.known_directions.items() if key[2] in needed}
            return gpu_turn(self._arguments[0], slot, known)
        seconds = SECONDS_OF_A_SEARCH if self._function in SEARCHES else SECONDS
        return gpu_work(self._function, tuple(self._arguments), slot, seconds)


def _sentence(error: gr.Error) -> str:
    """What to say of an error of `spaces`; of quotas and queues it says itself what a visitor can do."""
    if error.title != "ZeroGPU worker error":
        return str(error.message)
    return TAKEN_AWAY if str(error.message) == "GPU task aborted" else UNFORESEEN
