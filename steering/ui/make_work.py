"""What “Make a direction” does without the page: read two lists, find the direction, take one up from its file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.contrast import ContrastSet
from steering.contrast import Limits as FileLimits
from steering.contrast_files import FORMATS, read_rows
from steering.errors import DirectionError
from steering.ui.ideas import fits_model
from steering.ui.limits import Limits
from steering.ui.make_checks import LONGEST_SENTENCE, is_first_tokens, is_limits, is_number, is_scores, is_trust
from steering.ui.make_words import SEED, file_name

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.separation import Separation
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

LARGEST_DIRECTION_FILE = 1_000_000  # bytes
LARGEST_UNIT_COEFFICIENT = 1e4  # a vector that needs more to be as long as the stream itself is no direction


@dataclass(frozen=True)
class Checked:
    """A set that was read, its two parts, and what is worth a look in it."""

    data: ContrastSet
    train: ContrastSet
    held_out: ContrastSet
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Found:
    """What the work of `find` reports at its end."""

    candidates: Candidates
    separation: Separation
    suggested: tuple[int, int]


def file_limits(limits: Limits) -> FileLimits:
    """What one uploaded list may hold."""
    return FileLimits(rows=limits.upload_rows, bytes=limits.upload_mb * 10**6)


def missing_list(positive: str | None, negative: str | None, limits: FileLimits) -> str:
    """What is still to be given before a set can be read, in a sentence, or ""; raises ContrastSetError."""
    if positive is None:
        return "Now give the list that shows the idea, on the left." if negative is not None else ""
    path = Path(positive)
    if negative is not None or path.suffix.lower() not in FORMATS:
        return ""
    rows = read_rows(path, limits)
    if not rows or any(row.side is not None for row in rows):
        return ""
    return (
        f"{path.name} has {len(rows)} texts that show the idea. Now give the list that does not show it. (One file "
        "with both works too: put a line of dashes between the two, or a label beside each text.)"
    )


def read_set(positive: str, negative: str | None, count_tokens: Callable[[str], int], limits: FileLimits) -> Checked:
    """Read and check a set within the page's limits; raises ContrastSetError."""
    return checked(ContrastSet.load(Path(positive), negative, limits=limits), count_tokens)


def checked(data: ContrastSet, count_tokens: Callable[[str], int]) -> Checked:
    """The set's parts and warnings; raises ContrastSetError when it is too small to be split."""
    train, held_out = data.split(seed=SEED)
    return Checked(data, train, held_out, [*data.notes, *data.check(count_tokens)])


def token_counter(model: ChatModel | None) -> Callable[[str], int]:
    """A text's number of tokens for ``model``, or of words while none is loaded."""
    if model is None:
        return lambda text: len(text.split())
    tokenizer = model.tokenizer
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def find(engine: Engine, data: ContrastSet, job: Job) -> None:
    """Compute all candidates and how well each tells held-out texts apart; reports a `Found` at the end.

    Runs on the model's thread. Progress counts texts, those to learn from first, then those to check with.
    """
    from steering.directions import difference_in_means
    from steering.separation import separation

    model = engine.ready_model()
    model.thinking = False
    train, held_out = data.split(seed=SEED)
    n_train, n_held_out = (len(part.positive) + len(part.negative) for part in (train, held_out))
    total = n_train + n_held_out
    candidates = difference_in_means(model, train, progress=_part_of(job.progress, 0, total))
    measured = separation(model, candidates, held_out, progress=_part_of(job.progress, n_train, total))
    card = candidates.card | {
        "data": data.name,
        "data_sha256": data.sha256,
        "seed": SEED,
        "n_held_out": n_held_out,
        "position_tokens": [model.tokenizer.decode([token]) for token in model.post_instruction_tokens],
    }
    job.report(Found(replace(candidates, card=card), measured, measured.suggested()))


def report_preset(engine: Engine, name: str, job: Job) -> None:
    """Find a preset's direction for the model in use and report it; runs on the model's thread."""
    job.report(engine.preset_direction(name, job.progress))


def _part_of(progress: Progress, before: float, of: float) -> Progress:
    """Progress of one part of the work as progress of the whole."""

    def report(what: str, done: float, total: float) -> None:
        progress(what, before + done, of)

    return report


def direction_at(candidates: Candidates, separation: Separation, position: int, layer: int, name: str) -> Direction:
    """The candidate at one place, with its scores in its card; raises DirectionError if there is none."""
    direction = candidates.direction(position, layer, name)
    return replace(direction, card=direction.card | separation.as_card(position, layer))


def load_direction(path: str, model: ChatModel) -> Direction:
    """A direction from a visitor's file, for the model in use; what its card gets wrong is left out.

    Raises:
        DirectionError: if the file is too large, is no direction, or was made for another model.
    """
    from steering.directions import Direction

    return checked_direction(Direction.load(require_small(path), model), model)


def require_small(path: str) -> Path:
    """The path of a visitor's file; raises DirectionError if it is larger than a direction's may be."""
    file = Path(path)
    if (size := file.stat().st_size) > LARGEST_DIRECTION_FILE:
        raise DirectionError(
            f"{file.name} has {size:,} bytes, more than the {LARGEST_DIRECTION_FILE:,} allowed for a direction: choose "
            "a file downloaded from this playground."
        )
    return file


def checked_direction(direction: Direction, model: ChatModel) -> Direction:
    """A direction that was read, if the model in use can take it; what its card gets wrong is left out.

    Raises:
        DirectionError: if it was made for another model, or is too short to be one.
    """
    direction.require_fit(model)
    if not fits_model(direction, model.name, model.revision):
        made_for = str(direction.card.get("model_label") or direction.card.get("model") or "an unnamed model")[:80]
        raise DirectionError(
            f"“{direction.name}” was made for {made_for}, other weights than those of {model.label}, which is in use. "
            "Load the model it was made for."
        )
    unit = direction.coefficient(1.0)
    if not math.isfinite(unit) or unit > LARGEST_UNIT_COEFFICIENT:
        raise DirectionError(
            f"“{direction.name}” is too short to be of use (norm {direction.norm:.2g} where the model's own vectors "
            f"have {direction.mean_residual_norm:.2g}). Find it again."
        )
    return replace(direction, card=sound_card(direction.card) | {"n_layers": model.n_layers})


def sound_card(card: dict[str, Any]) -> dict[str, Any]:
    """The card without entries the page reads but that are not what they should be."""
    wanted: dict[str, Callable[[Any], bool]] = {
        "auroc": lambda value: is_number(value) and 0 <= value <= 1,
        "sorted_right": lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            and 0 <= value[0] <= value[1] <= 10**6
        ),
        "strength": _is_strength,
        "data": lambda value: isinstance(value, str) and len(value) <= 200,
        "model_label": lambda value: isinstance(value, str) and len(value) <= 200,
        "scores": is_scores,
        "limits": is_limits,
        "relaxed": lambda value: isinstance(value, str) and len(value) <= LONGEST_SENTENCE,
        "overruled": lambda value: isinstance(value, str) and len(value) <= LONGEST_SENTENCE,
        "first_tokens": is_first_tokens,
        "trust": is_trust,
    }
    return {key: value for key, value in card.items() if key not in wanted or wanted[key](value)}


def _is_strength(value: Any) -> bool:
    """Whether this is a measured range: 0 ≤ start ≤ end, and a sweet spot inside."""
    if not isinstance(value, dict) or not isinstance(value.get("sweet"), list) or len(value["sweet"]) != 2:
        return False
    numbers = [value.get("start"), value.get("end"), *value["sweet"]]
    if not all(is_number(number) for number in numbers):
        return False
    start, end, low, high = numbers
    return 0 <= start <= end <= 100 and 0 <= low <= high <= end and end > 0


def write_files(direction: Direction, folder: Path) -> tuple[Path, Path]:
    """The direction and its card as files to download, named after it."""
    weights = direction.save(folder / file_name(direction.name, ".safetensors"))
    card = folder / file_name(direction.name, ".json")
    described = {
        "name": direction.name,
        "layer": direction.layer,
        "position": direction.position,
        "norm": direction.norm,
        "mean_residual_norm": direction.mean_residual_norm,
        **{key: value for key, value in direction.card.items() if key != "norm"},
    }
    card.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return weights, card
