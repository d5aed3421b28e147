"""The commands ``push`` and ``pull``: directions, sets and edited models to the hub and from it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError

if TYPE_CHECKING:
    from steering.progress import Progress


def about_push(command: argparse.ArgumentParser) -> None:
    """What ``push`` takes."""
    command.add_argument("path", type=Path, help="a direction's file, a set's .jsonl, or an edited model's folder")
    command.add_argument("repository", help="owner/name on the hub")
    command.add_argument("--public", action="store_true", help="let everyone see it (default: only you)")
    command.add_argument("--dry-run", action="store_true", help="show the files and send nothing")
    command.add_argument("--licence", help="of the base model, for a direction's card, as the hub names it")


def about_pull(command: argparse.ArgumentParser) -> None:
    """What ``pull`` takes."""
    command.add_argument("repository", help="owner/name on the hub")
    command.add_argument("--revision", help="a commit (default: the newest)")


def push_to(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Publish it, or show what would go."""
    from steering.hub import push

    pushed = push(
        options.path,
        options.repository,
        private=not options.public,
        dry_run=options.dry_run,
        licence=options.licence,
        progress=progress,
    )
    files = [f"{name}, {size:,} bytes" for name, size in pushed.files.items()]
    seen_by = "only you and your organisation" if pushed.private else "everyone"
    return {
        "repository": pushed.repository,
        "kind": pushed.kind,
        "seen by": seen_by,
        "sent" if pushed.address else "would send": files,
        "address": pushed.address,
    }


def pull_from(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Fetch it and check it."""
    from steering.hub import pull

    if options.out is None:
        raise SteeringError("Say where it goes: --out FILE, or a folder for a model.")
    return {"file": str(pull(options.repository, options.out, revision=options.revision, progress=progress))}
