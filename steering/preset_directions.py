"""Directions of the presets: those that come with the project, those made here before, and those made now.

``python -m steering.preset_directions`` makes the ones that come with the project, for the bundled model.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from steering.contrast import PRESETS, ContrastSet, preset_card
from steering.directions import Direction, difference_in_means
from steering.errors import DirectionError
from steering.progress import Progress, silent
from steering.separation import separation
from steering.weights import cache_folder

if TYPE_CHECKING:
    from steering.models import ChatModel

SHIPPED = PRESETS / "directions"


def preset_direction(model: ChatModel, name: str, progress: Progress = silent) -> Direction:
    """The direction of preset ``name`` for ``model``: found, or made from the preset's examples and kept.

    On the bundled model it is read at the layer that the preset's card names; on others at the suggested one.
    """
    data = ContrastSet.load(name)
    for path in (SHIPPED / f"{name}.safetensors", _kept(model, name, data.sha256)):
        if path.is_file():
            try:
                direction = Direction.load(path)
            except DirectionError:  # damaged: make it again
                continue
            card = direction.card
            if card.get("revision") == model.revision and card.get("data_sha256") == data.sha256 and model.revision:
                return direction
    direction = make_preset_direction(model, data, progress)
    kept = _kept(model, name, data.sha256)
    kept.parent.mkdir(exist_ok=True)
    partial = kept.with_suffix(".part")
    direction.save(partial).replace(kept)
    return direction


def make_preset_direction(model: ChatModel, data: ContrastSet, progress: Progress = silent) -> Direction:
    """Compute a preset's direction and how well it separates examples held out."""
    train, held_out = data.split(seed=0)
    candidates = difference_in_means(model, train, progress=progress)
    measured = separation(model, candidates, held_out, progress=progress)
    position, layer = measured.suggested()
    if model.name == "bundled":
        position, layer = data.card["bundled"]["position"], data.card["bundled"]["layer"]
    direction = candidates.direction(position, layer, name=data.card["title"])
    extra = {
        # The whole set, of which the candidates know the part they learned from.
        "data_sha256": data.sha256,
        **measured.as_card(position, layer),
    }
    return replace(direction, card=direction.card | extra)


def _kept(model: ChatModel, name: str, data_sha256: str) -> Path:
    plain_name = re.sub(r"[^\w.-]", "_", model.name)[-60:]
    known = f"{plain_name}-{model.revision[:12] or 'local'}-{name}-{data_sha256[:12]}"
    return cache_folder() / "directions" / f"{known}.safetensors"


def main() -> None:
    """Make every preset's direction for the bundled model, with its measured range, into ``presets/directions``.

    Directions are computed in float32; ranges are measured as replies are written by default.
    """
    import torch

    from steering.calibration import coefficient_range
    from steering.contrast import preset_names
    from steering.models import load_model

    exact = load_model("bundled", device="cpu", dtype=torch.float32)
    directions = {name: make_preset_direction(exact, ContrastSet.load(name)) for name in preset_names()}
    del exact
    model = load_model("bundled", device="cpu", dtype=torch.bfloat16)
    SHIPPED.mkdir(exist_ok=True)
    for name, direction in directions.items():
        card = preset_card(name)
        strength = coefficient_range(model, direction).as_card(float(card["bundled"]["coefficient"]))
        replace(direction, card=direction.card | {"strength": strength}).save(SHIPPED / f"{name}.safetensors")
        print(f"{name}: layer {direction.layer}, AUROC {direction.card['auroc']}, strength {strength}", flush=True)


if __name__ == "__main__":
    main()
