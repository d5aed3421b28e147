"""Files that are there whole or not at all: what was under the name before stays until the new one is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write to the path this gives, beside ``path``; at the end it gets that name, and after an error it is removed."""
    partial = path.with_name(f".{path.name}.part-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
