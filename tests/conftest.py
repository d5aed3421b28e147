"""Fixtures shared by the tests."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``family_folder("gemma2")`` is the folder of that tiny model (see ``families.py``), built at its first use."""
    from families import build  # imports transformers, which tests without a model need not wait for

    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: build(name, root / name))
