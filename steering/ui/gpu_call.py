"""What a ZeroGPU Space runs where the GPU is: the page's own work, turned into a generator of what it reports.

These two functions are all that runs there. What goes in and comes out is pickled, so it is plain: requests, ticks,
directions on the processor. A worker is used again by other visitors, so a call leaves nothing in it but what belongs
to the model.

Work reports by calling, from deep inside the library, and a generator gives by yielding. So each call has the work on a
thread of its own, which is started after the fork, as it must be, and has ended when the call ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from steering.errors import Cancelled, SteeringError
from steering.ui.gpu import on_gpu
from steering.ui.memory import give_memory_back
from steering.ui.shared_slots import Slot
from steering.ui.turn import TurnRequest, turn_work
from steering.ui.worker import Job, Worker

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.ui.engine import Engine

Directions = dict[tuple[str, str, str], "Direction"]  # presets', by model, revision and preset

logger = logging.getLogger(__name__)

LONGEST_SILENCE = 0.08  # seconds; who closes the generator waits until the next yield, on the page's event loop
TO_THE_GPU = 5  # seconds: a worker starts, the model moves, the prompt is read
A_TOKEN = 0.05  # seconds, with the hooks of one column; more columns cost little
A_COLUMN = 0.003
CHARACTERS_A_SECOND = 20_000  # of the prompts
A_DIRECTION = 20  # seconds, to find one from its examples
LONGEST_CALL = 60  # seconds; an anonymous visitor has two minutes a day
MARGIN = 1  # second: better to end than to be ended

TIME_USED_UP = "The GPU's time for this was used up. What came so far stays; ask again to go on."


@dataclass(frozen=True)
class Failed:
    """How the work ended when it did not end well: a sentence, or "" when the log alone says what happened."""

    sentence: str
    cancelled: bool = False


@dataclass(frozen=True, eq=False)
class Learnt:
    """Presets' directions that the call needed and the page did not have."""

    directions: Directions


def presets_in(request: TurnRequest) -> list[str]:
    """The presets whose directions a turn needs."""
    needed = [] if request.own is not None else [request.idea]
    return needed + ([request.other.idea] if request.other is not None and request.other.own is None else [])


def seconds_for_turn(request: TurnRequest, slot: Slot, known: Directions) -> int:
    """How long to ask for the GPU for a turn.

    Args:
        known: the presets' directions that need not be found first.
    """
    to_find = len(set(presets_in(request)) - {name for _, _, name in known})
    columns = len(request.histories)
    characters = columns * (len(request.question) + len(request.system_prompt)) + sum(
        len(message["content"]) for history in request.histories for message in history
    )
    writing = request.max_new_tokens * (A_TOKEN + A_COLUMN * columns)
    reading = characters / CHARACTERS_A_SECOND
    return min(LONGEST_CALL, round(TO_THE_GPU + A_DIRECTION * to_find + reading + writing))


@on_gpu(duration=seconds_for_turn)
def gpu_turn(request: TurnRequest, slot: Slot, known: Directions) -> Iterator[Any]:
    """Write the replies of a turn; yields what :func:`steering.ui.turn.turn_work` reports, and None now and then."""
    _this_engine().learn(known)
    yield from _relayed(turn_work, (request,), slot, seconds_for_turn(request, slot, known))


def _seconds_asked(work: Callable[..., None], arguments: tuple[Any, ...], slot: Slot, seconds: int) -> int:
    return seconds


@on_gpu(duration=_seconds_asked)
def gpu_work(work: Callable[..., None], arguments: tuple[Any, ...], slot: Slot, seconds: int) -> Iterator[Any]:
    """Do other work: ``work(engine, *arguments, job)``, a function of a module; yields as :func:`gpu_turn` does."""
    yield from _relayed(work, arguments, slot, seconds)


def _by_value(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    """How a tensor crosses between the processes: as an array on the processor.

    Torch would hand over shared memory, for which the process that sends it must still live when it is read.
    """
    here = tensor.detach().cpu().contiguous()
    return _from_bytes, (here.flatten().view(torch.uint8).numpy(), here.dtype, tuple(here.shape))


def _from_bytes(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(content).view(dtype).reshape(shape)


ForkingPickler.register(torch.Tensor, _by_value)

# The engine as it was when the process was forked: the model, before anything was asked of it.
_engine: Engine | None = None


def work_for(engine: Engine) -> None:
    """Say whose model works; in the page's process, before its first call."""
    global _engine
    _engine = engine


def _this_engine() -> Engine:
    assert _engine is not None, "work_for comes first"
    return _engine


def _relayed(work: Callable[..., None], arguments: tuple[Any, ...], slot: Slot, seconds: int) -> Iterator[Any]:
    """Run the work and yield its reports as they come, or None, so that never more than a tenth of a second passes."""
    job = _CallJob(slot, time.monotonic() + seconds - MARGIN)
    yield None  # before the prompt is read, which may take long
    engine = _this_engine()
    known = engine.known_directions
    thread = Thread(target=job.do, args=(partial(work, engine, *arguments),), name="model", daemon=True)
    thread.start()
    try:
        yield from job.reports(LONGEST_SILENCE)
        if learnt := {key: one for key, one in engine.known_directions.items() if key not in known}:
            yield Learnt(learnt)
        if job.failed is not None:
            yield job.failed
    finally:
        job.stop()
        thread.join()
        engine.kept_search = None  # it holds a visitor's texts
        give_memory_back()


class NoLine(Worker):
    """Where nobody waits for anybody: each piece of work has a process of its own, and no thread serves a line."""

    def __init__(self) -> None:
        pass

    def short_behind(self, running: Job) -> list[Job]:
        return []

    def has_other_than(self, job: Job) -> bool:
        return False

    def before(self, job: Job) -> int:
        return 0

    def seconds_before(self, job: Job) -> float:
        return 0.0


class _CallJob(Job):
    """The job as the work sees it here: stopped through its slot, or when the time is over, and alone with the GPU."""

    def __init__(self, slot: Slot, end: float) -> None:
        super().__init__(NoLine(), lambda job: None)
        self._slot = slot
        self._end = end
        self.failed: Failed | None = None

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._end

    @property
    def stopped(self) -> bool:
        return super().stopped or self._slot.stopped or self.out_of_time

    def do(self, work: Callable[[Job], None]) -> None:
        """Do the work; how it failed is left in ``failed``, for exceptions lose their sentences on the way."""
        self.started.set()
        try:
            work(self)
            if self.out_of_time:
                self.failed = Failed(TIME_USED_UP)
        except Cancelled as error:
            self.failed = Failed(TIME_USED_UP) if self.out_of_time else Failed(str(error), cancelled=True)
        except SteeringError as error:
            self.failed = Failed(str(error))
        except Exception:
            logger.exception("Work on the GPU failed")
            self.failed = Failed("")
        self._reports.put(("end", None))
