"""One model in several processes, by transformers' tensor parallelism; every pass of the library runs there unchanged.

Every process holds a part of each attention and MLP, of the embedding and of the output matrix. The leader runs the
passes: its blocks, hooks, interventions and measurements are those of a model in one process, for between its parts the
residual stream is whole there. Only where a part begins that all hold together does it hand out what goes in; the
others compute their share of just that, and the sums that transformers takes bring the shares together. So a process
that follows knows nothing of directions, sliders or random numbers, and can never disagree about them.

Keys and values of a batch lie with the heads, so each process keeps its own, and the leader tells what becomes of them.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steering.errors import ModelError
from steering.key_values import KeyValues
from steering.out_of_memory import is_out_of_memory
from steering.prompt_trees import SparseMask

if TYPE_CHECKING:
    from steering.key_values import LayerKeyValues
    from steering.models import ChatModel
    from steering.processes import Header, Leads, Processes

_KEPT = 8  # tensors that every process keeps because the next layers are given them too: mask, rotary angles
BROKEN = "{why} in the middle of a step that all processes share, so this run is over. Start all of them again."
_STREAM = "hidden_states"  # what a module changes is new every time


def require_divisible(config: dict[str, Any], n_processes: int) -> None:
    """Check that the heads of a model can be shared evenly.

    Args:
        config: the model's ``config.json``.

    Raises:
        ModelError: if they cannot; the sentence says with how many processes they can.
    """
    config = config.get("text_config") or config
    heads = int(config.get("num_attention_heads") or 1)
    of_keys = int(config.get("num_key_value_heads") or heads)
    if heads % n_processes == 0 and of_keys % n_processes == 0:
        return
    common = math.gcd(heads, of_keys)
    fitting = [str(n) for n in range(2, common + 1) if common % n == 0]
    instead = f"Start {' or '.join(fitting)} of them, or one" if fitting else "Start one"
    raise ModelError(
        f"This model's attention has {heads} heads ({of_keys} of keys and values), which {n_processes} processes "
        f"cannot share evenly. {instead}, or choose another model."
    )


class Leader:
    """The leader's side: what the shared parts are given goes to the others first.

    Args:
        model: loaded by all processes together; from here on its passes run in all of them.

    Raises:
        ModelError: if its shared parts are not where they are looked for.
    """

    def __init__(self, model: ChatModel, processes: Processes) -> None:
        self._processes = processes
        self._kept: OrderedDict[int, tuple[int, Tensor]] = OrderedDict()  # by identity: place, and the tensor itself
        self._numbers = 0
        self._gone: deque[int] = deque()
        for number, unit in enumerate(shared_units(model)):
            unit.forward = self._led(number, unit.forward)

    def _led(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def led(*args: Any, **kwargs: Any) -> Any:
            with self._processes.lock, self._processes.connected():
                tensors: list[Tensor] = []
                described = [self._described(value, tensors, keeps=False) for value in args]
                named = {name: self._described(value, tensors, keeps=name != _STREAM) for name, value in kwargs.items()}
                self.tell({"run": number, "args": described, "kwargs": named}, tensors)
                try:
                    return forward(*args, **kwargs)
                except BaseException as error:
                    # The others are in the middle of it and would take the next sum for this one.
                    if not self._processes.is_lost(error):
                        self._processes.fail(BROKEN.format(why=_why(error)))
                    raise

        return led

    def tell(self, header: Header, tensors: Sequence[Tensor] = ()) -> None:
        """Say something to the others, and which keys and values nobody needs any more."""
        gone = []
        while self._gone:
            gone.append(self._gone.popleft())
        self._processes.send(header | {"gone": gone} if gone else header, tensors)

    def number_of(self, read: object) -> int:
        """A name for new keys and values, which the others forget when ``read`` is no more."""
        self._numbers += 1
        # Whoever frees it may be in the middle of a message, so that it is only noted here.
        weakref.finalize(read, self._gone.append, self._numbers)
        return self._numbers

    def _described(self, value: Any, tensors: list[Tensor], *, keeps: bool) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list):
            return {"list": [self._described(one, tensors, keeps=keeps) for one in value]}
        if isinstance(value, Tensor):
            return self._described_tensor(value, tensors, keeps=keeps)
        number = getattr(value, "led_number", None)
        if number is not None:
            return {"read": number}
        raise ModelError(f"A part of this model is given a {type(value).__name__}, which cannot be handed on.")

    def _described_tensor(self, tensor: Tensor, tensors: list[Tensor], *, keeps: bool) -> Header:
        kind = "mask" if isinstance(tensor, SparseMask) else "tensor"
        known = self._kept.get(id(tensor))
        if known is not None:
            self._kept.move_to_end(id(tensor))
            return {kind: known[0], "known": True}
        tensors.append(tensor.as_subclass(Tensor) if kind == "mask" else tensor)
        if not keeps:
            return {kind: None}
        place = len(self._kept) if len(self._kept) < _KEPT else self._kept.popitem(last=False)[1][0]
        self._kept[id(tensor)] = place, tensor
        return {kind: place}


def _why(error: BaseException) -> str:
    return "Memory ran out" if is_out_of_memory(error) else f"Something went wrong ({error!r})"


class LedKeyValues(KeyValues):
    """Keys and values of the leader's own heads; the others do with theirs what is done here."""

    def __init__(self, leader: Leads, layers: Sequence[LayerKeyValues] = (), lengths: Sequence[int] = ()) -> None:
        super().__init__(layers, lengths)
        self._leader = leader
        self.number = leader.number_of(self)
        self.cache.led_number = self.number

    def like(self, layers: Sequence[LayerKeyValues] = (), lengths: Sequence[int] = ()) -> LedKeyValues:
        return LedKeyValues(self._leader, layers, lengths)

    def crop(self, width: int) -> None:
        super().crop(width)
        self._leader.tell({"crop": self.number, "width": width})

    def selected(self, rows: Sequence[int]) -> KeyValues:
        found = super().selected(rows)
        assert isinstance(found, LedKeyValues)
        if rows:
            self._leader.tell({"select": self._described, "rows": list(rows), "as": found.number})
        return found

    def joined_with(self, others: Sequence[KeyValues]) -> KeyValues:
        found = super().joined_with(others)
        assert isinstance(found, LedKeyValues)
        parts = [part._described for part in (self, *others) if isinstance(part, LedKeyValues)]
        if found.number not in [number for number, _ in parts]:
            self._leader.tell({"join": parts, "as": found.number})
        return found

    @property
    def _described(self) -> tuple[int, list[int]]:
        return self.number, self.lengths


class Follower:
    """The side of every other process: computes its share of what the leader runs, until the leader ends.

    Raises:
        ModelError: as for :class:`Leader`.
    """

    def __init__(self, model: ChatModel, processes: Processes) -> None:
        self._processes = processes
        self._units = shared_units(model)
        self._device = model.device
        self._kept: list[Tensor | None] = [None] * _KEPT
        self._read: dict[int, KeyValues] = {}

    def follow(self) -> None:
        """Do what the leader says.

        Raises:
            Over: when it says that all is over.
        """
        with torch.inference_mode():
            while True:
                message = self._processes.receive()
                header = message.header
                for number in header.get("gone", ()):
                    self._read.pop(number, None)
                if "run" in header:
                    tensors = iter([tensor.to(self._device) for tensor in message.tensors])
                    args = [self._given(one, tensors) for one in header["args"]]
                    kwargs = {name: self._given(one, tensors) for name, one in header["kwargs"].items()}
                    with self._processes.connected():
                        self._units[header["run"]](*args, **kwargs)
                elif "crop" in header:
                    self._of(header["crop"]).crop(header["width"])
                elif "select" in header:
                    self._read[header["as"]] = self._described(header["select"]).selected(header["rows"])
                elif "join" in header:
                    first, *others = [self._described(one) for one in header["join"]]
                    self._read[header["as"]] = first.joined_with(others)

    def _of(self, number: int) -> KeyValues:
        return self._read.setdefault(number, KeyValues())

    def _described(self, described: tuple[int, list[int]]) -> KeyValues:
        number, lengths = described
        read = self._of(number)
        read.lengths = list(lengths)
        return read

    def _given(self, described: Any, tensors: Iterator[Tensor]) -> Any:
        if not isinstance(described, dict):
            return described
        if "list" in described:
            return tuple(self._given(one, tensors) for one in described["list"])
        if "read" in described:
            return self._of(described["read"]).cache
        kind = "mask" if "mask" in described else "tensor"
        place = described[kind]
        if described.get("known"):
            return self._kept[place]
        tensor = next(tensors)
        if kind == "mask":
            tensor = SparseMask.over(tensor)
        if place is not None:
            self._kept[place] = tensor
        return tensor


def shared_units(model: ChatModel) -> list[nn.Module]:
    """The modules whose weights the processes share, in the same order in each: what is run in all of them at once.

    Raises:
        ModelError: if weights outside of them are shared, or none are.
    """
    outer = [model.architecture.embedding, model.model.get_output_embeddings()]
    inner = [part for block in model.architecture.blocks for part in block.children()]
    units = [unit for unit in (*outer, *inner) if unit is not None and any(map(_is_shared, unit.parameters()))]
    found = {id(parameter) for unit in units for parameter in unit.parameters()}
    elsewhere = [name for name, one in model.model.named_parameters() if _is_shared(one) and id(one) not in found]
    if elsewhere or not units:
        what = f"shares {elsewhere[0]}" if elsewhere else "shares nothing"
        raise ModelError(
            f"Split over several processes, {model.label} {what}, which is not provided for. Start one process, with "
            "--device auto where it does not fit on one device."
        )
    return units


def _is_shared(parameter: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)
