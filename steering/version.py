"""The version of this library, as files it writes name it."""

from __future__ import annotations

import platform
from importlib import metadata


def library_version() -> str:
    """The installed version."""
    try:
        return metadata.version("steering-playground")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0.1.0"


def versions() -> dict[str, str]:
    """What measured figures depend on beside the data: this library and those that compute."""
    found = {package: metadata.version(package) for package in ("torch", "transformers")}
    return {"steering": library_version(), **found, "python": platform.python_version()}
