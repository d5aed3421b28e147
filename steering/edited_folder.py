"""Folder in, folder out: an edited model appears under its name when it is whole and checked, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from steering.checkpoints import Checkpoint
from steering.companion_files import companions, copy_companions
from steering.edited_model_card import CARD_FILE, COULD_NOT, UNCOMPARED
from steering.edited_shards import Changes, verify_weights, write_weights
from steering.errors import ModelError, OutOfMemoryError, SteeringError
from steering.export_check import Equality, compare
from steering.interventions import Variant
from steering.machine import one_thread
from steering.progress import Progress

_LOCK = ".being-written"  # held by who writes a folder; what nobody holds was left by a process that is gone


def require_free(target: Path) -> None:
    """Raise SteeringError if something has the name already."""
    if os.path.lexists(target):
        raise SteeringError(f"{target} exists already. Choose another folder, or remove it first.")


def write_edited_model(
    checkpoint: Checkpoint,
    source: str,
    changes: Changes,
    target: Path,
    stands_for: Variant | None,
    card: Callable[[Equality | str], str],
    progress: Progress,
    revision: str | None = None,
) -> Equality | str:
    """Write a copy of a model with some of its tensors changed; one piece of a tensor is in memory at a time.

    Args:
        source, revision: as for :func:`steering.models.load_model`; what the result is compared with.
        stands_for: the hooked variant that the result must equal; None to leave that unmeasured.
        card: makes the model card's text from what was measured, or from why nothing was.

    Returns:
        What was measured, or a sentence that says why nothing was.

    Raises:
        SteeringError: if the target cannot be written, has no room, or did not pass its check.
        Cancelled: if ``progress`` raises it.
    """
    with disk_errors_said(target):
        _require_space(checkpoint, changes, target.parent)
        with renamed_when_whole(target) as partial:
            copy_companions(checkpoint.folder, partial)
            with one_thread():
                write_weights(checkpoint, changes, partial, progress)
                verify_weights(checkpoint, changes, partial, progress)
            measured = measured_or_why(
                None if stands_for is None else lambda: compare(source, partial, stands_for, progress, revision)
            )
            (partial / CARD_FILE).write_text(card(measured), encoding="utf-8")
    return measured


@contextmanager
def disk_errors_said(target: Path) -> Iterator[None]:
    """What the disk refuses is a sentence about the target."""
    try:
        yield
    except OSError as error:
        raise SteeringError(f"{target} cannot be written: {error}. Choose another folder.") from error


def measured_or_why(measure: Callable[[], Equality] | None) -> Equality | str:
    """What was measured of an export, or a sentence that says why nothing was; None where nobody asked."""
    if measure is None:
        return UNCOMPARED
    try:
        return measure()
    except (ModelError, OutOfMemoryError) as error:  # no tokenizer or chat template, no room; the edit itself is right
        return f"{COULD_NOT}{error}"


@contextmanager
def renamed_when_whole(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that gets its name at the end; whatever ends it before leaves nothing.

    A process that is killed leaves its folder; the next try at the same target removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        with _held(partial):
            yield partial
            (partial / _LOCK).unlink(missing_ok=True)
            partial.chmod(0o755)
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Hold a folder's lock, where the system has such; a process lets go of it when it ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (partial / _LOCK).open("wb") as file:
        with suppress(OSError):  # some file systems of other machines have no locks; then nothing is removed later
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(target: Path) -> None:
    """Remove what processes that were killed left of earlier tries at the same target."""
    try:
        import fcntl
    except ImportError:
        return
    for partial in target.parent.glob(f"{escape(target.name)}.part-*"):
        with suppress(OSError), (partial / _LOCK).open("rb") as file:  # without that file it is none of ours
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)


def _require_space(checkpoint: Checkpoint, changes: Changes, parent: Path) -> None:
    """Raise SteeringError unless the disk under ``parent``, which need not exist yet, has room for the edited model."""
    needed = sum((checkpoint.folder / shard).stat().st_size for shard in checkpoint.shards)
    needed += sum(file.stat().st_size for file in companions(checkpoint.folder)) + changes.new_bytes(checkpoint)
    existing = next(folder for folder in [parent.absolute(), *parent.absolute().parents] if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SteeringError(
            f"The edited model needs {needed / 1e9:.1f} GB and {existing} has {free / 1e9:.1f} GB free. Choose a "
            "folder on another disk, or make room."
        )
