"""The GPU that a ZeroGPU Space lends for one call at a time; on any other host nothing happens here.

Import this before torch: there the package `spaces` puts a stand-in for CUDA in its place, in which a model can be
moved to the GPU before there is one. A decorated function then runs in a process that was forked from the page's: it
sees memory as it was at the fork, its arguments and what it yields are pickled, and no thread of the page goes with it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_spaces: Any = None
if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):  # as `spaces` itself reads it
    # It comes with such a Space; were it not there, the page would run on the processor.
    with suppress(ImportError):
        _spaces = importlib.import_module("spaces")

ZERO_GPU = _spaces is not None


def on_gpu(
    *, duration: Callable[Arguments, int]
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator: on a ZeroGPU Space the function runs where the GPU is, elsewhere it stays what it is.

    Args:
        duration: the seconds to ask for, from the call's own arguments; they must fit what the visitor has left today.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        return _spaces.GPU(duration=duration)(function) if ZERO_GPU else function

    return decorate
