"""The model behind the page: which one answers, which one is being fetched, and the thread that runs it."""

from __future__ import annotations

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psutil

from steering.errors import SteeringError
from steering.ui.desk import Desk
from steering.ui.limits import Limits
from steering.ui.worker import Job, Reports, Worker

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.kept_rows import KeptRows
    from steering.models import ChatModel
    from steering.processes import Processes
    from steering.progress import Progress
    from steering.ui.best_search import KeptSearch
    from steering.ui.turn import TurnRequest

STAND_IN = (
    "The 4-bit copy that comes with the project could not be fetched, so these are the weights as they were published, "
    "and each idea's direction is found for them at its first use."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """How models are loaded; what the command line says."""

    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    processes: Processes | None = None  # those that hold the model together with this one


@dataclass
class Loading:
    """A model on its way.

    ``total`` is in the unit of ``done``; ``error`` is the sentence to show when it did not come.
    """

    source: str
    label: str
    what: str = "Loading the model"
    done: float = 0.0
    total: float = 1.0
    error: str = ""

    @property
    def percent(self) -> int:
        return int(100 * min(1.0, self.done / max(self.total, 1e-9)))

    @property
    def words(self) -> str:
        """For people; sizes where the progress is in bytes."""
        if self.total > 1e6:
            return f"{self.what}: {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        return f"{self.what}: {self.percent} %"


class Engine:
    """The model in use, and the next one while it is being loaded.

    The old model answers until the new one is ready; then it is freed.

    Args:
        limits: how many rows are decoded together, and how much memory is kept between turns.
        worker: who does the work; by default a thread of this process.

    Attributes:
        kept_search: what the newest search was made with; one for all visitors, for it holds the model's passes.
        second_model: held while another model is in memory beside the one in use.
    """

    def __init__(self, options: ModelOptions, limits: Limits | None = None, worker: Worker | None = None) -> None:
        self.options = options
        self.worker = worker or Worker()
        self._limits = limits or Limits()
        self.desk = Desk(self, self.worker, self._limits.rows)
        self.model: ChatModel | None = None
        self.loading: Loading | None = None
        self.kept_search: KeptSearch | None = None
        self._stands_in = False
        self._change = threading.Lock()
        self.second_model = threading.Lock()
        self._directions: OrderedDict[tuple[str, str, str], Direction] = OrderedDict()
        self._random_twins: WeakKeyDictionary[Direction, Direction] = WeakKeyDictionary()

    def load(self, source: str, label: str, revision: str | None = None) -> bool:
        """Begin to load a model; False if another is on its way already.

        Where the work is done in other processes the model is there when this returns: it must be loaded before they
        are forked, and by the program's first thread.
        """
        with self._change:
            if self.loading is not None and not self.loading.error:
                return False
            self.loading = Loading(source, label)
        if not self.worker.in_this_process:
            self._load(self.loading, revision)
            return True
        threading.Thread(target=self._load, args=(self.loading, revision), name="loading", daemon=True).start()
        return True

    def _load(self, loading: Loading, revision: str | None) -> None:
        def progress(what: str, done: float, total: float) -> None:
            loading.what, loading.done, loading.total = what, done, total

        try:
            from transformers.utils import logging as transformers_logging

            from steering.models import load_model

            transformers_logging.disable_progress_bar()
            load: Callable[..., ChatModel] = load_model
            if self.options.processes is not None:
                from steering.shared_models import load_shared

                load = partial(load_shared, self.options.processes)
            model = load(
                loading.source,
                device=self.options.device,
                dtype=self.options.dtype,
                quantization=self.options.quantization,
                revision=revision,
                progress=progress,
            )
        except SteeringError as error:
            loading.error = str(error)
            return
        except Exception:
            logger.exception("Loading %s failed", loading.source)
            loading.error = f"{loading.label} could not be loaded; the program's log says why. Choose another model."
            return
        stands_in = loading.source == "bundled" and model.name != "bundled"
        if stands_in:
            logger.warning(STAND_IN)
        if self.worker.in_this_process:
            self.worker.submit(lambda job: self._exchange(model, stands_in))
        else:
            self._exchange(model, stands_in)

    def _exchange(self, model: ChatModel, stands_in: bool) -> None:
        """Put the new model in place, on the worker's thread, so that no reply is being written meanwhile."""
        import torch

        from steering.machine import preferred_threads

        if model.device.type == "cpu":
            torch.set_num_threads(threads_beside_page(preferred_threads()))
        with self._change:
            self.model, self.loading, self.kept_search = model, None, None
            self._stands_in = stands_in
            self._directions.clear()
            self._random_twins.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ready_model(self) -> ChatModel:
        """The model in use.

        Raises:
            SteeringError: if none is loaded yet.
        """
        if self.model is None:
            if self.loading is not None and self.loading.error:
                raise SteeringError(self.loading.error)
            raise SteeringError("The model is still loading. Wait until the button says “Ask all three”.")
        return self.model

    @property
    def exchanges(self) -> bool:
        """Whether another model can take the place of the one in use: not where other processes hold it too."""
        return self.worker.in_this_process and self.options.processes is None

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Within this context the worker's thread computes with all the threads that pay on this machine.

        For whole passes over many examples, whose layers take long enough that waiting for a core the page has taken
        is a small part; a reply's steps are too short for that (`threads_beside_page`).
        """
        from steering.machine import preferred_threads

        with self._threads(preferred_threads()):
            yield

    def let_others_go(self, job: Job) -> None:
        """Between two steps of long work: write the replies that visitors wait for, then go on.

        In the middle of a forward pass nothing is done: hooks of the long work are on the model.
        """
        model = self.ready_model()
        if job.someone_waits and not model.lock.is_held:
            from steering.machine import preferred_threads

            thinking = model.thinking
            with self._threads(threads_beside_page(preferred_threads())):
                job.let_others_go()
            model.thinking = thinking

    @contextmanager
    def _threads(self, n: int) -> Iterator[None]:
        import torch

        before = torch.get_num_threads()
        if self.ready_model().device.type == "cpu":
            torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def preset_direction(self, name: str, progress: Progress) -> Direction:
        """A preset's direction for the model in use; call it on the worker's thread."""
        from steering.preset_directions import preset_direction

        model = self.ready_model()
        key = (model.name, model.revision, name)
        if key not in self._directions:
            self._directions[key] = preset_direction(model, name, progress)
        return self._directions[key]

    def readable_direction(self, name: str) -> Direction | None:
        """A preset's direction for the model in use, if it is known or only has to be read from a file."""
        from steering.preset_directions import existing_preset_direction

        model = self.ready_model()
        key = (model.name, model.revision, name)
        if key not in self._directions and (direction := existing_preset_direction(model, name)) is not None:
            self._directions[key] = direction
        return self._directions.get(key)

    @property
    def known_directions(self) -> dict[tuple[str, str, str], Direction]:
        """The presets' directions that were needed so far, by model, revision and preset."""
        return dict(self._directions)

    def learn(self, directions: dict[tuple[str, str, str], Direction]) -> None:
        """Take up presets' directions that were found in another process."""
        self._directions.update(directions)

    def known_direction(self, name: str) -> Direction | None:
        """A preset's direction for the model in use if it was needed before."""
        model = self.model
        return self._directions.get((model.name, model.revision, name)) if model else None

    def ask(self, request: TurnRequest) -> Reports:
        """Have the replies of one turn written; it reports a `Tick` about twelve times a second."""
        if self.worker.in_this_process:
            return self.desk.ask(request)
        from steering.ui.turn import turn_work

        return self.worker.submit(partial(turn_work, self, request), short=True)

    def random_twin(self, direction: Direction) -> Direction:
        """A random direction of equal length, the same one as long as ``direction`` is in use."""
        from steering.ui.columns import random_twin

        if direction not in self._random_twins:
            self._random_twins[direction] = random_twin(direction)
        return self._random_twins[direction]

    @cached_property
    def kept_rows(self) -> KeptRows:
        """Keys and values of visitors' last turns; made when the first is written, for it needs torch."""
        from steering.kept_rows import KeptRows

        return KeptRows(self._limits.cache_mb * 1_000_000)

    def forget(self, visitor: str) -> None:
        """Give back what is kept for a visitor who left."""
        self.desk.forget(visitor)  # first, or a reply that is still being written would be kept after this
        if "kept_rows" in self.__dict__:
            self.kept_rows.forget(visitor)

    @property
    def is_ready(self) -> bool:
        """Whether a question could be answered now."""
        return self.model is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What the status page says of the model."""
        return {
            "model": self.model.label if self.model else None,
            "device": str(self.model.device) if self.model else None,
            "loading": self.loading.label if self.loading and not self.loading.error else None,
        }

    @property
    def state_words(self) -> str:
        """One line about the model for the settings."""
        using = f"In use: {self.model.label}." if self.model else "No model is in use yet."
        if self._stands_in:
            using = f"{using} {STAND_IN}"
        if self.loading is None:
            return using
        if self.loading.error:
            return f"{using} {self.loading.error}"
        return f"{using} {self.loading.label} is on its way. {self.loading.words}."


def threads_beside_page(preferred: int) -> int:
    """Torch threads for a program that also serves a page: one core is left to the page and to whoever looks at it.

    Torch's threads wait for each other at every layer by spinning. On two cores two of them write 40 tokens a second
    while nothing else runs, 28 beside one browser and 1 beside two; a single one writes 30 in each case.
    """
    return max(1, min(preferred, (psutil.cpu_count() or 1) - 1))


__all__ = ["Engine", "Job", "Loading", "ModelOptions"]
