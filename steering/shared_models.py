"""Load one chat model in several processes together, and run the processes that follow."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from steering.errors import ModelError
from steering.machine import preferred_dtype
from steering.model_files import read_config
from steering.models import ChatModel, as_bytes, load_model, weights
from steering.placement import chosen_device, chosen_dtype
from steering.processes import Over
from steering.progress import Progress, silent
from steering.tensor_parallel import Follower, Leader, require_divisible
from steering.weights import model_folder

if TYPE_CHECKING:
    from steering.placement import Quantization
    from steering.processes import Processes


def load_shared(
    processes: Processes,
    source: str = "bundled",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    progress: Progress = silent,
) -> ChatModel:
    """Load a chat model, of which every process holds a part; all of them call this with the same arguments.

    What comes back in the leader can be used as any model. The others call :func:`follow` with theirs.

    Args:
        source, device, dtype, revision, progress: as for :func:`steering.models.load_model`.
        quantization: there is none for several processes.

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
    if processes.leads:  # it fetches and converts what is missing; the others then find it
        folder = model_folder(source, revision, progress)
    processes.agreed("fetched")
    folder = model_folder(source, revision)
    require_divisible(read_config(folder), processes.size)
    if dtype in (None, "auto"):  # measured, so that each might find something else
        dtype = processes.agreed(str(preferred_dtype(chosen_device(device))).removeprefix("torch."))
    number_type = chosen_dtype(dtype, chosen_device(device))
    model = load_model(source, dtype=number_type, revision=revision, processes=processes, progress=progress)
    if not model.revision:
        model.fingerprint = _fingerprint(model)
    if processes.leads:
        model.leader = Leader(model, processes)
    return model


def follow(model: ChatModel, processes: Processes) -> None:
    """Compute this process' share of whatever the leader runs, until it says that it is over."""
    with suppress(Over):
        Follower(model, processes).follow()


def _fingerprint(model: ChatModel) -> str:
    """As in one process: each part is brought together, in all processes at once, and forgotten again."""
    from torch.distributed.tensor import DTensor

    digest = hashlib.sha256()
    for name, weight in weights(model.model):
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        digest.update(as_bytes(name, whole))
    return digest.hexdigest()
