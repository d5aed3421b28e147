"""What this machine does best, measured once and remembered: the number type for weights, and the number of threads."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import cast

import psutil
import torch
from torch import Tensor

from steering.processes_here import processes_here
from steering.weights import cache_folder
from steering.whole_files import written_whole

QUIET_SECONDS = 0.1


def free_memory(device: torch.device) -> int:
    """Bytes that a model may still take on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 or float32, whichever multiplies faster here; measured at the first call on a machine, then remembered.

    On a GPU it is bfloat16 where the hardware has it, else float16.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    faster = _remembered("dtype", _measure_dtype)
    return torch.bfloat16 if faster == "bfloat16" else torch.float32


def preferred_threads() -> int:
    """How many torch threads a decode step runs fastest with; measured once on a machine, then remembered.

    Of several processes that hold a model together each takes its part of the cores.

    Beside other work more threads than there are free cores look slow. What is measured then holds for this process
    only, so that a busy moment does not slow down every later start.
    """
    fastest = int(_remembered("threads of a quiet machine", _measure_threads, lasting=_is_quiet))
    return max(1, min(fastest, (psutil.cpu_count(logical=False) or 1) // processes_here()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes with one thread, as is best for many short operations between reads and writes of files.

    More threads wait for each other after each, which beside other work takes longer than the operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def onednn_float32_is_faster() -> bool:
    """Whether oneDNN multiplies large float32 matrices clearly faster than MKL here; measured once, then remembered."""
    return _remembered("float32 product", _measure_float32_product) == "onednn"


_measured_beside_others: dict[tuple[Path, str], str] = {}


def _remembered(name: str, measure: Callable[[], str], lasting: Callable[[], bool] = lambda: True) -> str:
    """The answer stored for this processor and torch version, or a fresh one, stored if ``lasting()``."""
    path = cache_folder() / "machine.json"
    key = f"{platform.processor() or platform.machine()} x{psutil.cpu_count()} torch {torch.__version__} {name}"
    known = _read(path)
    if key in known:
        return known[key]
    if (path, key) in _measured_beside_others:
        return _measured_beside_others[path, key]
    lasts = lasting()
    answer = measure()
    if not (lasts and lasting()):
        _measured_beside_others[path, key] = answer
        return answer
    with written_whole(path) as partial:
        partial.write_text(json.dumps(_read(path) | {key: answer}, indent=1))
    return answer


def _is_quiet() -> bool:
    """Whether at most an eighth of the processor is in use."""
    return psutil.cpu_percent(interval=QUIET_SECONDS) <= 12.5


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # absent, or cut short: measure again
        return {}


# Shapes of one small model's decode step, its prompt, and many prompts: rows, width in, width out, repetitions.
_DECODE, _PROMPT = (3, 576, 1536, 60), (96, 576, 1536, 6)
_TREE = (640, 576, 1536, 4)  # the prompts of a selection


def _measure_dtype() -> str:
    def cost(dtype: torch.dtype) -> float:
        return _matmul_seconds(dtype, _DECODE) + _matmul_seconds(dtype, _PROMPT)

    return "bfloat16" if cost(torch.bfloat16) < cost(torch.float32) else "float32"


def _measure_threads() -> str:
    before = torch.get_num_threads()
    cores = psutil.cpu_count(logical=False) or 1
    candidates = sorted({1, max(1, cores // 2), cores})
    seconds = {}
    try:
        for threads in candidates:
            torch.set_num_threads(threads)
            dtype = torch.bfloat16
            seconds[threads] = _matmul_seconds(dtype, _DECODE)
    finally:
        torch.set_num_threads(before)
    return str(min(candidates, key=seconds.__getitem__))


def _measure_float32_product() -> str:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "mkl"

    def onednn(x: Tensor, weight: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))

    by_mkl = _matmul_seconds(torch.float32, _TREE)
    by_onednn = _matmul_seconds(torch.float32, _TREE, onednn)
    return "onednn" if by_onednn < 0.9 * by_mkl else "mkl"


def _matmul_seconds(
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    product: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.linear,
) -> float:
    """Median seconds of a run of products, over weights too many for the processor's cache."""
    rows, width_in, width_out, repetitions = shape
    weights = [torch.randn(width_out, width_in).to(dtype) for _ in range(20)]
    x = torch.randn(rows, width_in).to(dtype)
    times = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            for i in range(repetitions):
                product(x, weights[i % len(weights)])
            times.append(time.perf_counter() - start)
    return median(times[1:])
