"""Keeping the program's memory from growing with every turn.

Every prompt has a length of its own, so its forward pass asks for blocks of sizes that seldom come again. Left alone,
glibc keeps the freed pieces, spread over an arena for each thread, and oneDNN keeps the kernels of 1,024 shapes: some
5 MB a turn, together with what `steering.ui.worker` says of threads (``benchmarks/memory.py``). What is set here costs
a decode step nothing measurable.
"""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's mallopt
_KERNELS_KEPT = 16  # of oneDNN; a decode step needs fewer


def keep_memory_small() -> None:
    """Call it before torch is imported and before the first thread is started."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS_KEPT))
    _glibc("mallopt", _M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Hand what was freed back to the system."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    try:
        getattr(ctypes.CDLL(None), function)(*arguments)
    except (AttributeError, OSError, TypeError):  # another C library, which has no such function
        return
