"""Take a direction out of a model's weights for good, shard by shard; the result is an ordinary model folder.

Every matrix that writes to the residual stream is edited so that it cannot write along the direction (Arditi et al.
2024, arXiv 2406.11717, section 4.1 and appendix E). The edited model then does without hooks what
:class:`steering.interventions.Ablation` does with them.

Where a norm stands between a projection and the stream (Gemma 2 and 3, OLMo 2), W ← W − R̂ᵀR̂ W would leave a part of
the direction, because the norm's factors g turn what they multiply. There W is edited so that g ⊙ W x, and with it the
stream, has no part along R̂. This is still not the ablation itself: that acts behind the norm, which now divides by the
length of something slightly shorter, so each write comes out a little longer.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steering.checkpoints import Checkpoint
from steering.companion_files import companions, copy_companions
from steering.directions import Direction
from steering.edited_model_card import APPROXIMATION, CARD_FILE, edited_model_card, public_label
from steering.edited_shards import Changes, verify_weights, write_weights
from steering.errors import SteeringError
from steering.machine import one_thread
from steering.progress import Progress, silent
from steering.weight_edits import weight_edits
from steering.weights import model_folder

logger = logging.getLogger(__name__)


def orthogonalize(
    source: str = "bundled",
    direction: Direction | None = None,
    out: str | Path | None = None,
    *,
    progress: Progress = silent,
) -> Path:
    """Write a copy of a model that cannot write along ``direction``: W ← W − R̂ᵀR̂ W (section 4.1, appendix E).

    R̂ is the direction's ablation basis, ``[k, d_model]``; W is every matrix ``[d_model, in]`` whose product is added to
    the residual stream, its bias, and the embedding (from the right). Computed in float32, kept in the source's type.
    A tied unembedding stays as it was and is written untied. Only one shard is in memory at a time.

    Args:
        source: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        direction: what to take out; a must.
        out: the folder to make; a must. It appears when it is whole and checked, and not otherwise.

    Returns:
        ``out``, a folder that transformers loads, with a model card.

    Raises:
        DirectionError: if the direction was made for a model of another width or depth.
        ModelError: if there is no such model, its family is unknown, or its weights are quantised or incomplete.
        SteeringError: if ``out`` exists, cannot be written, or there is no room for it.
        Cancelled: if ``progress`` raises it; it is called for every tensor.
    """
    if direction is None or out is None:
        raise SteeringError("Say which direction to take out of the weights, and which folder to write.")
    target = Path(out).expanduser()
    if os.path.lexists(target):
        raise SteeringError(f"{target} exists already. Choose another folder, or remove it first.")
    checkpoint = Checkpoint.read(model_folder(source, progress=progress), public_label(source))
    direction.require_fit(checkpoint)
    changes = _changes(checkpoint, direction)
    card = edited_model_card(source, checkpoint, direction)
    try:
        _require_space(checkpoint, changes, target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with one_thread(), _renamed_when_whole(target) as partial:
            copy_companions(checkpoint.folder, partial)
            write_weights(checkpoint, changes, partial, progress)
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
            verify_weights(checkpoint, changes, partial, progress)
    except OSError as error:
        raise SteeringError(f"{target} cannot be written: {error}. Choose another folder.") from error
    if checkpoint.layout.norm_offset is not None:
        logger.warning(APPROXIMATION)
    return target


def _changes(checkpoint: Checkpoint, direction: Direction) -> Changes:
    return Changes(
        weight_edits(checkpoint, direction.ablation_basis),
        copies={checkpoint.output: checkpoint.embedding} if checkpoint.is_tied else {},
        settings={"tie_word_embeddings": False} if checkpoint.says_tied else {},
    )


@contextmanager
def _renamed_when_whole(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that gets its name at the end; whatever ends it before leaves nothing."""
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
