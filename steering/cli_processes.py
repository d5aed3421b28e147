"""Commands that run in several processes, started by ``torchrun``: the first prints, the others compute their share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.processes_here import started_together

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.processes import Processes
    from steering.progress import Progress

__all__ = ["about_processes", "load_in_all", "run_in_all", "started_together"]

TENSOR, DATA = "tensor", "data"
SHARED = {TENSOR: ("compute", "select", "calibrate", "card", "chat"), DATA: ("compute", "select")}


def about_processes(command: argparse.ArgumentParser) -> None:
    """The option of commands that several processes can run."""
    command.add_argument(
        "--parallel",
        choices=[TENSOR, DATA],
        default=TENSOR,
        help="under torchrun: each process holds a part of the model (tensor), or all of it and a part of the examples",
    )


def run_in_all(options: argparse.Namespace, run: Callable[[], int]) -> int:
    """Run a command in all processes; the exit status of this one.

    Args:
        run: the command as one process runs it; it finds ``options.processes``.
    """
    how = getattr(options, "parallel", None)
    if how is None or options.command not in SHARED[how]:
        if os.environ["RANK"] == "0":
            print(f"{options.command}: this runs in one process; start it without torchrun.", file=sys.stderr)
        return 2
    try:
        options.processes = joined(options.device)
    except SteeringError as error:
        if os.environ["RANK"] == "0":
            print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    if options.processes.leads:
        try:
            return run()
        finally:
            options.processes.end()
    follow_all(options, options.processes, how)
    return 0


def joined(device: str | None) -> Processes:
    """This process among the others.

    Raises:
        SteeringError: if there is no such device.
    """
    from steering.placement import chosen_device
    from steering.processes import Processes

    return Processes(chosen_device(device))


def follow_all(options: argparse.Namespace, processes: Processes, how: str = TENSOR) -> None:
    """Load this process' share as the options say, and follow the leader to the end.

    What cannot be loaded, the leader says.
    """
    from contextlib import suppress

    import torch
    from transformers.utils import logging

    from steering.machine import preferred_threads
    from steering.processes import Over
    from steering.shared_models import follow, load_shared

    for number in (signal.SIGINT, signal.SIGTERM):  # whoever ends all of them ends the leader, and it tells the rest
        signal.signal(number, signal.SIG_IGN)
    logging.disable_progress_bar()
    torch.set_num_threads(preferred_threads())
    with suppress(Over):
        try:
            model = load_shared(
                processes,
                options.model,
                device=options.device,
                dtype=options.dtype,
                quantization=options.quantization,
                whole=how == DATA,
            )
        except SteeringError:
            processes.wait_for_end()
        else:
            follow(model, processes, whole=how == DATA)


def load_in_all(options: argparse.Namespace, how: dict[str, Any], progress: Progress) -> ChatModel:
    """Load the model a command needs, in all processes; called by the leader."""
    from steering.shared_models import load_shared

    return load_shared(options.processes, options.model, **how, whole=options.parallel == DATA, progress=progress)
