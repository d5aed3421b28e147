"""Several processes that work as one, started by ``torchrun``: the first leads and the others follow.

All decisions are the leader's: what is asked, what a slider stands at, which random numbers are drawn, when work ends.
It sends messages, a header of JSON and tensors, and nothing is unpickled. Beside the work each process has a thread
that meets those of the others every second; when one does not come, every other ends with a sentence.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Protocol

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from steering.processes_here import processes_here

BEAT = 1.0  # seconds between two meetings of the watching threads
PATIENCE = 15.0  # seconds they wait for each other
GOODBYE = 3.0  # seconds the leader waits at the end for the others to have heard of it
WORK = timedelta(hours=24)  # there is no bound on work; a process that is gone or stands still, the watch finds
LOST = (
    "One of the {size} processes that run the model together has ended or stands still, so this run is over. What it "
    "printed may say why. Start all of them again."
)
_CONNECTIONS = ("gloo", "NCCL")  # in what torch raises when a process is gone
_FIRST = 8192  # bytes of a message that go at once; longer ones come in two
_LENGTHS = 16  # of which the first say how long header and tensors are
_ALIGNED = 16

Header = dict[str, Any]


class Leads(Protocol):
    """Hands what is run here to the other processes, each of which holds a part of the model: `tensor_parallel`."""

    def number_of(self, read: object) -> int:
        """A name for new keys and values."""

    def tell(self, header: Header, tensors: Sequence[Tensor] = ()) -> None:
        """Say something to the others."""


class Helps(Protocol):
    """Other processes with the same model, which take their part of reading and scoring: `data_parallel`."""

    def sums(self, reader: Any, examples: Sequence[Any], side_of: list[int], tick: Any) -> list[Tensor]:
        """The sums of all batches of examples, in their order."""

    def scorer(self, own: Callable[[], Any], validation: Any, tokens: Any) -> Any:
        """A scorer whose steps are shared out."""


class Over(Exception):
    """The leader has said that all is over."""


@dataclass(frozen=True)
class Message:
    """What the leader says: a header, and tensors on the CPU or on the receiver's own device."""

    header: Header
    tensors: list[Tensor]


class Processes:
    """This process among those it was started with. One for the life of the program.

    Args:
        device: where the model will be; the tensors of messages that lie on such a device stay on it.

    Attributes:
        rank: 0 for the leader.
        size: how many there are.
        lock: held while a message and what belongs to it is under way.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=WORK)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.lock = threading.RLock()
        self._told = dist.new_group(backend="gloo", timeout=WORK)
        self._watched = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))
        self._pids = self.states(os.getpid())
        self._over = threading.Event()
        self._missed = threading.Event()
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._asked_to_end)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides."""
        return self.rank == 0

    # ------------------------------------------------------------------ messages

    def send(self, header: Header, tensors: Sequence[Tensor] = ()) -> None:
        """Called by the leader: say something to all others."""
        with self.lock:
            here = [tensor for tensor in tensors if tensor.is_cpu]
            parts, described, end = [], [], 0
            for tensor in tensors:
                described.append([str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.is_cpu])
            for tensor in here:
                part = tensor.detach().contiguous().flatten().view(torch.uint8)
                room = -len(part) % _ALIGNED
                parts += [part, torch.zeros(room, dtype=torch.uint8)]
                end += len(part) + room
            text = json.dumps({"said": header, "tensors": described}).encode()
            text += b" " * (-(_LENGTHS + len(text)) % _ALIGNED)
            lengths = len(text).to_bytes(8, "little") + end.to_bytes(8, "little")
            whole = torch.cat([torch.frombuffer(bytearray(lengths + text), dtype=torch.uint8), *parts])
            if len(whole) < _FIRST:
                whole = torch.nn.functional.pad(whole, (0, _FIRST - len(whole)))
            dist.broadcast(whole[:_FIRST].contiguous(), 0, group=self._told)
            if len(whole) > _FIRST:
                dist.broadcast(whole[_FIRST:].contiguous(), 0, group=self._told)
            for tensor in tensors:
                if not tensor.is_cpu:
                    dist.broadcast(tensor.contiguous(), 0)

    def receive(self) -> Message:
        """Called by the others: wait for what the leader says next.

        Raises:
            Over: if it says that all is over.
        """
        first = torch.empty(_FIRST, dtype=torch.uint8)
        with self.connected():
            dist.broadcast(first, 0, group=self._told)
        lengths = first[:_LENGTHS].numpy().tobytes()
        n_text, n_tensors = int.from_bytes(lengths[:8], "little"), int.from_bytes(lengths[8:], "little")
        n_all = _LENGTHS + n_text + n_tensors
        whole = first
        if n_all > _FIRST:
            whole = torch.empty(n_all, dtype=torch.uint8)
            whole[:_FIRST] = first
            rest = torch.empty(n_all - _FIRST, dtype=torch.uint8)
            dist.broadcast(rest, 0, group=self._told)
            whole[_FIRST:] = rest
        content = json.loads(whole[_LENGTHS : _LENGTHS + n_text].numpy().tobytes())
        tensors, place = [], _LENGTHS + n_text
        for name, shape, is_here in content["tensors"]:
            dtype = getattr(torch, name)
            if is_here:
                n_bytes = int(torch.Size(shape).numel()) * dtype.itemsize
                tensors.append(whole[place : place + n_bytes].view(dtype).view(shape))
                place += n_bytes + -n_bytes % _ALIGNED
            else:
                tensor = torch.empty(shape, dtype=dtype, device=self._own_device)
                dist.broadcast(tensor, 0)
                tensors.append(tensor)
        if "end" in content["said"]:
            self._over.set()
            with suppress(RuntimeError):
                dist.barrier(group=self._told)
            raise Over
        return Message(content["said"], tensors)

    def wait_for_end(self) -> None:
        """Called by one of the others that has nothing to do any more.

        Raises:
            Over: when the leader says that all is over.
        """
        while True:
            self.receive()

    def states(self, own: int) -> list[int]:
        """A number from every process; all of them call it."""
        found = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor([own]), group=self._told)
        return [int(one) for one in found]

    def gathered(self, own: Tensor) -> list[Tensor]:
        """Every process' tensor in the leader, nothing in the others; all of them call it.

        Args:
            own: on the CPU; they may differ in their first dimension, and be empty of any shape.
        """
        longest = max(self.states(own.ndim))
        shape = torch.tensor([*own.shape, *[0] * (longest - own.ndim)])
        shapes = [torch.zeros_like(shape) for _ in range(self.size)]
        dist.all_gather(shapes, shape, group=self._told)
        if not longest or not any(int(one.prod()) for one in shapes):
            return [own.new_empty(0)] * self.size if self.leads else []
        most = torch.stack(shapes).amax(dim=0).tolist()
        padded = own.new_zeros(most, dtype=torch.float64)
        if own.numel():
            padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)] if self.leads else None
        dist.gather(padded, found, 0, group=self._told)
        return [] if found is None else [one[: int(shape[0])] for one, shape in zip(found, shapes, strict=True)]

    def tell_fault(self, error: BaseException) -> None:
        """Called by one of the others: what went wrong here, for whoever reads what the processes print."""
        print(f"Process {self.rank}: {error}", file=sys.stderr, flush=True)

    def agreed(self, text: str) -> str:
        """The leader's ``text``, in every process; all of them call it."""
        if self.leads:
            self.send({"agreed": text})
            return text
        return str(self.receive().header["agreed"])

    @cached_property
    def _own_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    # ------------------------------------------------------------------ the end

    def end(self) -> None:
        """Say that the work is over. The leader waits a moment for the others to have heard it."""
        if self._over.is_set():
            return
        self._over.set()
        if not self.leads:
            return
        ended = threading.Thread(target=self._say_goodbye, name="goodbye", daemon=True)
        ended.start()
        ended.join(GOODBYE)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Around what speaks with the others: where one is gone, this process ends with the sentence of the watch."""
        try:
            yield
        except RuntimeError as error:
            if not self.is_lost(error):
                raise
            if not self._over.is_set():
                self.fail(LOST.format(size=self.size))
            raise Over from error

    @staticmethod
    def is_lost(error: BaseException) -> bool:
        """Whether an error says that another process is gone."""
        return isinstance(error, RuntimeError) and any(name in str(error) for name in _CONNECTIONS)

    def _asked_to_end(self, number: int, frame: object) -> None:
        """torchrun ends all processes when one has ended, mostly before the watch has seen that it has.

        The watch is given the time to see it, and then to end this process with its sentence.
        """
        if not self._over.wait(2 * BEAT) and self._missed.is_set():
            self._over.wait(2 * GOODBYE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _say_goodbye(self) -> None:
        try:
            self.send({"end": True})
            dist.barrier(group=self._told)
        except RuntimeError:
            print(LOST.format(size=self.size), file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._over.wait(BEAT):
            try:
                dist.barrier(group=self._watched)
            except RuntimeError:
                self._missed.set()
                # At the end of all work one process goes before the other, which may hear of it a moment later.
                if self._over.wait(GOODBYE):
                    return
                self.fail(LOST.format(size=self.size))

    def fail(self, sentence: str) -> None:
        """End this process at once: what it waits for will never come. The leader says why, or the next after it."""
        if self.leads or (self.rank == 1 and self._leader_is_gone()):
            print(sentence, file=sys.stderr, flush=True)
        if self.leads:
            self._end_what_stands_still()
        else:
            time.sleep(BEAT)  # the leader speaks first: whoever started all ends all when the first of them ends
        os._exit(1)

    def _leader_is_gone(self) -> bool:
        if self.size != processes_here():
            return True  # on another machine, where nobody may look for it here
        try:
            return psutil.Process(self._pids[0]).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
        except psutil.Error:
            return True

    def _end_what_stands_still(self) -> None:
        """End the others on this machine; one that stands still hears nothing but this."""
        if self.size != processes_here():
            return
        for pid in self._pids[1:]:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.ppid() == os.getppid():  # the number may be another program's by now
                    process.kill()
