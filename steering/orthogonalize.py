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
from pathlib import Path

from steering.checkpoints import Checkpoint
from steering.directions import Direction
from steering.edited_folder import require_free, write_edited_model
from steering.edited_model_card import APPROXIMATION, ablated_model_card, public_label
from steering.edited_shards import Changes
from steering.errors import SteeringError
from steering.interventions import Variant
from steering.progress import Progress, silent
from steering.weight_edits import weight_edits
from steering.weights import model_folder

logger = logging.getLogger(__name__)


def orthogonalize(
    source: str = "bundled",
    direction: Direction | None = None,
    out: str | Path | None = None,
    *,
    revision: str | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write a copy of a model that cannot write along ``direction``: W ← W − R̂ᵀR̂ W (section 4.1, appendix E).

    R̂ is the direction's ablation basis, ``[k, d_model]``; W is every matrix ``[d_model, in]`` whose product is added to
    the residual stream, its bias, and the embedding (from the right). Computed in float32, kept in the source's type.
    A tied unembedding stays as it was and is written untied. Only a piece of a tensor is in memory at a time.

    Args:
        source: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        direction: what to take out; a must.
        revision: a commit of the hub's repository; only for hub ids.
        out: the folder to make; a must. It appears when it is whole and checked, and not otherwise.
        check: compare the result with the ablated variant on 32 questions, and write on its card how near it is. For
            that each model is loaded, one after the other.

    Returns:
        ``out``, a folder that transformers loads, with a model card.

    Raises:
        DirectionError: if the direction was made for a model of another width or depth.
        ModelError: if there is no such model, its family is unknown, or its weights are quantised or incomplete.
        SteeringError: if ``out`` exists, cannot be written, or there is no room for it.
        Cancelled: if ``progress`` raises it; it is called for every piece.
    """
    if direction is None or out is None:
        raise SteeringError("Say which direction to take out of the weights, and which folder to write.")
    target = Path(out).expanduser()
    require_free(target)
    checkpoint = Checkpoint.read(model_folder(source, revision, progress), public_label(source))
    direction.require_fit(checkpoint)
    write_edited_model(
        checkpoint,
        source,
        Changes.of_embedding(checkpoint, weight_edits(checkpoint, direction.ablation_basis)),
        target,
        Variant.ablated(direction) if check else None,
        lambda measured: ablated_model_card(source, checkpoint, direction, measured),
        progress,
        revision,
    )
    if checkpoint.layout.norm_offset is not None:
        logger.warning(APPROXIMATION)
    return target
