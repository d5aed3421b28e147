"""What a benchmark's figures depend on: printed above every result, and part of its JSON."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

import psutil
import torch
import transformers


def describe_machine(command: str | None = None) -> dict[str, str | int]:
    """The machine, its cores, the libraries' versions, the date, and the command; by default the one now running."""
    about: dict[str, str | int] = {
        "machine": _processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
        "command": command or _command(),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


def print_machine(command: str | None = None) -> None:
    """Print :func:`describe_machine`, one line each."""
    for name, value in describe_machine(command).items():
        print(f"{name.replace('_', ' ')}: {value}")


def _processor() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _command() -> str:
    """The command as a person would type it, also for ``python -m benchmarks.name``."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    called = ["-m", module.name] if module else [sys.argv[0]]
    return shlex.join(["python", *called, *sys.argv[1:]])
