"""Reading and scoring in several processes that each hold the whole model: examples and candidates are shared out.

The leader does what one process does; where it reads a contrast set or takes a step of a search, the others take their
part and hand the numbers back. Batches of examples are those of one process, and their sums are added in its order, so
that the directions are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.activations import ResidualReader, batch_sums
from steering.contrast import ContrastSet, Example
from steering.direction import Direction
from steering.errors import ModelError, SteeringError
from steering.metrics import FirstTokens
from steering.out_of_memory import is_out_of_memory
from steering.progress import Tick, no_tick
from steering.scoring import Scorer, scorer_for

if TYPE_CHECKING:
    from steering.interventions import Variant
    from steering.models import ChatModel
    from steering.processes import Header, Processes
    from steering.scoring import Step, Unsteered

_FINE, _NO_MEMORY, _FAULT = range(3)
FAILED = "One of the processes could not do its part; what it printed says why. Start fewer, or one."


class Helpers:
    """The leader's side: the other processes, each with the same model."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._scorers = 0

    def sums(self, reader: ResidualReader, examples: Sequence[Example], side_of: list[int], tick: Tick) -> list[Tensor]:
        """The sums of all batches, in their order; see :func:`steering.activations.batch_sums`."""
        told = {"read": _described(examples), "side_of": side_of, "batch_size": reader.batch_size}
        size = self._processes.size
        with self._processes.lock:
            self._processes.send(told)
            own = _tried(lambda: torch.stack(list(batch_sums(reader, side_of, (0, size), tick))))
            by_process = _collected(self._processes, own)
        n = sum(len(sums) for sums in by_process)
        return [by_process[batch % size][batch // size] for batch in range(n)]

    def scorer(self, own: Callable[[], Scorer], validation: ContrastSet, tokens: FirstTokens | None) -> Scorer:
        """The scorer that ``own`` makes of ``validation``, whose steps are shared out; the others make theirs."""
        self._scorers += 1
        told: Header = {
            "score": self._scorers,
            "positive": _described(validation.positive),
            "negative": _described(validation.negative),
            "tokens": None if tokens is None else [list(tokens.ids), list(tokens.texts), tokens.source],
        }
        self._processes.send(told)
        return _SharedScorer(self._processes, self._scorers, own())


class _SharedScorer:
    """A scorer whose steps are taken by all processes, each for its part of the directions."""

    steps: tuple[Step, ...]
    totals: dict[str, int]
    unsteered: Unsteered

    def __init__(self, processes: Processes, number: int, own: Scorer) -> None:
        self._processes, self._number, self._own = processes, number, own
        self.steps, self.totals, self.unsteered = own.steps, own.totals, own.unsteered

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        if len(directions) == 1:
            return self._own.run(step, directions, tick)
        places = [(one.layer, one.position, one.mean_residual_norm, len(one.ablation_basis)) for one in directions]
        vectors = torch.stack([one.vector for one in directions])
        tensors = [vectors, torch.cat([one.ablation_basis for one in directions])]
        own = _part(directions, self._processes)
        with self._processes.lock:
            self._processes.send({"step": step, "by": self._number, "places": places}, tensors)
            found = _collected(self._processes, _tried(lambda: _numbers(self._own.run(step, own, tick))))
        gives = list(next(one.gives for one in self.steps if one.name == step))
        return [dict(zip(gives, of_one, strict=True)) for of_process in found for of_one in of_process]

    def metric(self, side: str, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        return self._own.metric(side, variants, first_layer, tick)


class Helper:
    """The side of every other process."""

    def __init__(self, model: ChatModel, processes: Processes) -> None:
        self._model, self._processes = model, processes
        self._scorers: dict[int, Scorer | SteeringError] = {}

    def follow(self) -> None:
        """Take part in what the leader does.

        Raises:
            Over: when it says that all is over.
        """
        while True:
            message = self._processes.receive()
            header = message.header
            if "read" in header:
                _collected(self._processes, _tried(partial(self._sums, header)))
            elif "score" in header:
                self._scorers = {header["score"]: self._scorer(header)}  # the leader, too, uses one at a time
            elif "step" in header:
                _collected(self._processes, _tried(partial(self._step, header, message.tensors)))

    def _sums(self, header: Header) -> Tensor:
        reader = ResidualReader(self._model, _examples(header["read"]), header["batch_size"])
        sums = list(batch_sums(reader, header["side_of"], (self._processes.rank, self._processes.size)))
        return torch.stack(sums) if sums else torch.empty(0)

    def _scorer(self, header: Header) -> Scorer | SteeringError:
        validation = ContrastSet("shared", _examples(header["positive"]), _examples(header["negative"]))
        tokens = header["tokens"]
        chosen = None if tokens is None else FirstTokens(tuple(tokens[0]), tuple(tokens[1]), tokens[2])
        try:
            return scorer_for(self._model, validation, chosen)
        except SteeringError as error:  # the leader finds the same, and goes no further
            return error

    def _step(self, header: Header, tensors: list[Tensor]) -> Tensor:
        scorer = self._scorers[header["by"]]
        if isinstance(scorer, SteeringError):
            raise scorer
        vectors, bases = tensors
        rows = bases.split([rank for *_, rank in header["places"]])
        directions = [
            Direction(vector.clone(), basis.clone(), layer, position, norm)
            for vector, basis, (layer, position, norm, _) in zip(vectors, rows, header["places"], strict=True)
        ]
        own = _part(directions, self._processes)
        return _numbers(scorer.run(header["step"], own)) if own else torch.empty(0)


def _part(directions: Sequence[Direction], processes: Processes) -> Sequence[Direction]:
    """This process' part: the first of them are the leader's, and so on."""
    most = -(-len(directions) // processes.size)
    return directions[processes.rank * most :][:most]


def _numbers(results: Sequence[dict[str, Tensor]]) -> Tensor:
    """What a step gives, float64 ``[directions, scores, examples]``; all scores of a step are of the same examples."""
    return torch.stack([torch.stack(list(one.values())) for one in results])


def _tried(work: Callable[[], Tensor]) -> Tensor | BaseException:
    try:
        return work()
    except BaseException as error:  # the other processes wait to hear of it
        return error


def _collected(processes: Processes, own: Tensor | BaseException) -> list[Tensor]:
    """Every process' numbers, in the leader; nothing in the others.

    Raises:
        MemoryError: if memory ran out in one of them.
        ModelError: if one of the others failed for another reason.
        BaseException: the leader's own error.
    """
    with processes.connected():
        return _collected_by(processes, own)


def _collected_by(processes: Processes, own: Tensor | BaseException) -> list[Tensor]:
    state = _FINE
    if isinstance(own, BaseException):
        state = _NO_MEMORY if is_out_of_memory(own) else _FAULT
    states = processes.states(state)
    if not any(states):
        assert isinstance(own, Tensor)
        return processes.gathered(own)
    if isinstance(own, BaseException):
        if processes.leads:
            raise own
        if not is_out_of_memory(own):
            processes.tell_fault(own)
    if processes.leads:
        if _NO_MEMORY in states:
            raise MemoryError("in another process")
        raise ModelError(FAILED)
    return []


def _described(examples: Sequence[Example]) -> list[Any]:
    return [[list(one.messages), one.response, one.row, one.pair, one.file] for one in examples]


def _examples(described: Sequence[Any]) -> list[Example]:
    return [Example(tuple(messages), response, row, pair, file) for messages, response, row, pair, file in described]
