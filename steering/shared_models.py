"""Load one chat model in several processes together, and run the processes that follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from steering.data_parallel import Helper, Helpers
from steering.errors import ModelError, SteeringError
from steering.machine import preferred_dtype
from steering.model_files import read_config
from steering.models import ChatModel, fingerprint_of, load_model, weights
from steering.placement import chosen_device, chosen_dtype
from steering.processes import Over
from steering.progress import Progress, silent
from steering.tensor_parallel import Follower, Leader, require_divisible
from steering.weights import model_folder

if TYPE_CHECKING:
    from steering.placement import Quantization
    from steering.processes import Processes


OTHERS_FAILED = "Another process could not load its share of the model; what it printed says why."


def load_shared(
    processes: Processes,
    source: str = "bundled",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    whole: bool = False,
    progress: Progress = silent,
) -> ChatModel:
    """Load a chat model, of which every process holds a part; all of them call this with the same arguments.

    What comes back in the leader can be used as any model. The others call :func:`follow` with theirs.

    Args:
        source, device, dtype, revision, progress: as for :func:`steering.models.load_model`.
        quantization: there is none for several processes.
        whole: every process holds all of it, for examples are what they share.

    Raises:
        ModelError: as for one process, and if the processes cannot share this model evenly.
        Over: in the others, if the leader had to give up.
    """
    if quantization is not None:
        raise ModelError(
            "Quantised weights cannot be shared by several processes. Leave --quantization out, or start one process."
        )
    if device == "auto":
        raise ModelError("--device auto spreads a model from one process. Leave it out, or start one process.")
    if not whole and chosen_device(device).type != chosen_device(None).type:  # transformers chooses
        raise ModelError("Several processes hold a model on the GPUs where there are any. Leave --device out.")
    failure: SteeringError | None = None
    try:
        if processes.leads:  # it fetches and converts what is missing; the others then find it
            model_folder(source, revision, progress)
    except SteeringError as error:
        failure = error
    processes.agreed("fetched")
    if dtype in (None, "auto"):  # measured, so that each might find something else
        dtype = processes.agreed(str(preferred_dtype(chosen_device(device))).removeprefix("torch."))
    try:
        if failure is None:
            model = _own_share(processes, source, device, dtype, revision, whole, progress)
    except SteeringError as error:
        failure = error
    # One that gave up must not leave the others waiting for it.
    states = processes.states(int(failure is not None))
    if any(states):
        if failure is not None and not states[0]:  # else the leader says the same
            processes.tell_fault(failure)
        raise failure or ModelError(OTHERS_FAILED)
    if whole:
        model.helpers = Helpers(processes) if processes.leads else None
        return model
    if not model.revision:
        model.fingerprint = fingerprint_of(_whole_weights(model))
    if processes.leads:
        model.leader = Leader(model, processes)
    return model


def _own_share(
    processes: Processes,
    source: str,
    device: str | None,
    dtype: torch.dtype | str | None,
    revision: str | None,
    whole: bool,
    progress: Progress,
) -> ChatModel:
    """This process' share of the model, or all of it."""
    if not whole:
        require_divisible(read_config(model_folder(source, revision)), processes.size)
    number_type = chosen_dtype(dtype, chosen_device(device))
    shares = None if whole else processes
    return load_model(source, device=device, dtype=number_type, revision=revision, processes=shares, progress=progress)


def follow(model: ChatModel, processes: Processes, *, whole: bool = False) -> None:
    """Compute this process' share of whatever the leader runs, until it says that it is over."""
    with suppress(Over):
        follower = Helper(model, processes) if whole else Follower(model, processes)
        follower.follow()


def _whole_weights(model: ChatModel) -> Iterator[tuple[str, torch.Tensor]]:
    """As in one process: each part is brought together, in all processes at once, and forgotten again."""
    from torch.distributed.tensor import DTensor

    for name, weight in weights(model.model):
        yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight
