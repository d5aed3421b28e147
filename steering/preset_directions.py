"""Directions of the presets: those that come with the project, those made here before, and those made now.

``python -m steering.preset_directions`` makes the ones that come with the project, for the bundled model.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.contrast import PRESETS, ContrastSet
from steering.directions import Direction, difference_in_means
from steering.errors import ContrastSetError, DirectionError
from steering.finding import Finder, scores_folder
from steering.preparation import first_tokens, is_refusal_set, prepare, shows_idea
from steering.progress import Progress, silent
from steering.separation import separation
from steering.weights import cache_folder

if TYPE_CHECKING:
    from steering.models import ChatModel

SHIPPED = PRESETS / "directions"
SEED = 0


def preset_direction(model: ChatModel, name: str, progress: Progress = silent) -> Direction:
    """The direction of preset ``name`` for ``model``: found, or made from the preset's examples and kept.

    On the bundled model it comes with the project, selected by its scores; on others it is read where held-out examples
    are told apart best, for selection takes minutes.
    """
    data = ContrastSet.load(name)
    direction = _existing(model, name, data)
    if direction is not None:
        return direction
    direction = make_preset_direction(model, data, progress)
    kept = _kept(model, name, data.sha256)
    kept.parent.mkdir(exist_ok=True)
    direction.save(kept)
    return direction


def existing_preset_direction(model: ChatModel, name: str) -> Direction | None:
    """The direction of preset ``name`` for ``model`` if it only has to be read; None if it must be made."""
    return _existing(model, name, ContrastSet.load(name))


def _existing(model: ChatModel, name: str, data: ContrastSet) -> Direction | None:
    for path in (SHIPPED / f"{name}.safetensors", _kept(model, name, data.sha256)):
        if path.is_file():
            try:
                direction = Direction.load(path)
            except DirectionError:  # damaged: make it again
                continue
            card = direction.card
            if card.get("revision") == model.revision and card.get("data_sha256") == data.sha256 and model.revision:
                return direction
    return None


def make_preset_direction(model: ChatModel, data: ContrastSet, progress: Progress = silent) -> Direction:
    """A preset's direction where held-out examples are told apart best, in seconds; its scores are not taken."""
    train, held_out = data.split(seed=SEED)
    candidates = difference_in_means(model, train, progress=progress)
    measured = separation(model, candidates, held_out, progress=progress)
    position, layer = measured.suggested()
    direction = candidates.direction(position, layer, name=data.card["title"])
    extra = {
        # The whole set, of which the candidates know the part they learned from.
        "data_sha256": data.sha256,
        **measured.as_card(position, layer),
        **_how_far_shown(model, held_out),
    }
    return replace(direction, card=direction.card | extra)


def select_preset_direction(model: ChatModel, data: ContrastSet, progress: Progress = silent) -> Selected:
    """A preset's direction by the whole method: scores, the rule, and relaxed limits where no candidate passes.

    What was relaxed stands on its card, and so does that the filter was off where it would have left too few.

    Raises:
        NoCandidateError: if no candidate passes and no single limit is in the way.
    """
    try:
        prepared = prepare(model, data, seed=SEED)
    except ContrastSetError as error:
        prepared = prepare(model, data, filtered=False, seed=SEED)
        prepared = replace(prepared, notes=(*prepared.notes, f"The filter was off. {error}"))
    finder = Finder(model, prepared, store=scores_folder(), progress=progress)
    found = finder.find_relaxed(name=data.card["title"], progress=progress)
    measured = separation(model, finder.candidates, prepared.validation, progress=progress)
    card = found.direction.card | measured.as_card(found.score.position, found.score.layer)
    _, held_out = data.split(seed=SEED)
    return Selected(replace(found.direction, card=card | _how_far_shown(model, held_out)), finder)


@dataclass(frozen=True, eq=False)
class Selected:
    """A selected direction, and the finder that knows what it was found with."""

    direction: Direction
    finder: Finder


def _how_far_shown(model: ChatModel, held_out: ContrastSet) -> dict[str, Any]:
    """For requests to refuse: of how many held-out ones the model refuses by itself; nothing for other sets."""
    if not is_refusal_set(held_out):
        return {}
    return {"refuses": list(shows_idea(model, held_out, first_tokens(model, held_out)))}


def _kept(model: ChatModel, name: str, data_sha256: str) -> Path:
    plain_name = re.sub(r"[^\w.-]", "_", model.name)[-60:]
    known = f"{plain_name}-{model.revision[:12] or 'local'}-{name}-{data_sha256[:12]}"
    return cache_folder() / "directions" / f"{known}.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Make every preset's direction for the bundled model, with its range and its trust card, into the presets' folder.

    In bfloat16, as “Find the best” does it on the page by default, so that both find the same.
    """
    import torch

    from steering.calibration import calibrated
    from steering.contrast import preset_names
    from steering.models import load_model
    from steering.trust import trust

    names = (sys.argv[1:] if arguments is None else arguments) or preset_names()
    model = load_model("bundled", device="cpu", dtype=torch.bfloat16)
    SHIPPED.mkdir(exist_ok=True)
    for name in names:
        selected = select_preset_direction(model, ContrastSet.load(name))
        finder, direction = selected.finder, selected.direction
        card = trust(model, finder.prepared, direction, candidates=finder.candidates, scorer=finder.scorer, seed=SEED)
        direction = replace(direction, card=direction.card | {"trust": card.as_card()})
        direction = calibrated(model, direction)
        direction.save(SHIPPED / f"{name}.safetensors")
        strength = direction.card["strength"]
        print(f"{name}: position {direction.position}, layer {direction.layer}, {direction.card['scores']}", flush=True)
        print(f"  {direction.card.get('relaxed', '')} strength {strength['sweet']}, {strength['end']}", flush=True)


if __name__ == "__main__":
    main()
