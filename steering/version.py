"""The version of this library, as files it writes name it."""

from __future__ import annotations

from importlib import metadata


def library_version() -> str:
    """The installed version."""
    try:
        return metadata.version("steering-playground")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0.1.0"
