"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

if TYPE_CHECKING:
    from steering.models import ChatModel


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``family_folder("gemma2")`` is the folder of that tiny model (see ``families.py``), built at its first use."""
    from families import build  # imports transformers, which tests without a model need not wait for

    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: build(name, root / name))


@pytest.fixture(scope="session")
def tiny(family_folder: Callable[[str], Path]) -> Callable[[str], ChatModel]:
    """``tiny("gemma2")`` is that tiny model in float32, loaded once; no test may leave it changed."""
    import torch

    from steering.models import load_model

    return cache(lambda name: load_model(str(family_folder(name)), device="cpu", dtype=torch.float32))


@pytest.fixture(scope="session")
def bundled() -> ChatModel:
    """The bundled model as it is loaded by default on a CPU."""
    from steering.models import load_model

    return load_model("bundled", device="cpu")


@pytest.fixture(scope="session")
def bundled_float32() -> ChatModel:
    """The bundled model in float32."""
    import torch

    from steering.models import load_model

    return load_model("bundled", device="cpu", dtype=torch.float32)
