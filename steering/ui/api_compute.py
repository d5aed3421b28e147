"""``/compute_direction``, for programs: what the page's Compute does, from the text of a contrast set."""

# Gradio reads the annotations of an endpoint for its documentation, so they are not strings here.
import base64
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.contrast import ContrastSet, Limits
from steering.contrast_files import DASHES
from steering.contrast_rows import COLUMNS
from steering.errors import ContrastSetError, SteeringError
from steering.ui.api_arguments import errors_as_sentences, shown, text, whole_number, yes_or_no
from steering.ui.api_directions import KeptDirections
from steering.ui.api_steer import SIGN_OF_LIFE
from steering.ui.engine import Engine
from steering.ui.make_words import GONE
from steering.ui.make_work import checked, direction_at, file_limits, find, token_counter
from steering.ui.operator import Operator
from steering.ui.strengths import strength_of
from steering.ui.workbench import LONGEST_NAME
from steering.ui.worker import Job

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.separation import Separation

HOW_TO_WRITE = (
    'Write JSON Lines such as {"instruction": "…", "label": "positive"}, CSV with a header such as text,label, or '
    '{"positive": ["…"], "negative": ["…"]}.'
)


def compute_endpoint(
    engine: Engine, kept: KeptDirections, operator: Operator
) -> Callable[..., Iterator[dict[str, Any]]]:
    """The function behind ``/compute_direction``, bound to an engine and to the directions that programs computed."""

    def compute_direction(
        examples: str,
        name: str = "My direction",
        layer: int | None = None,
        measure: bool = False,
        with_file: bool = True,
        caller: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Find the direction of an idea in the model, as a difference in means, from texts that show the idea and texts
        that do not; then pass its id to steer as the idea. Give 16 texts a side or more, alike in all but the idea.
        Streams how far it is; the last value is the result.

        Parameters:
            examples: JSON Lines or CSV as the page takes them, or {"positive": [texts], "negative": [texts]} as JSON.
            name: What the direction is called, at most 80 characters.
            layer: The layer to read it at; null takes the middle layer at which held-out texts are told apart best.
            measure: Whether to measure the useful strength too, which takes up to a minute on two cores.
            with_file: Whether the result carries the direction as a safetensors file in base64.

        Returns:
            id: what steer takes as its idea, for an hour after the last use
            name, model, layer, position: where it was read; position 0 is the mean over the replies
            separation: auroc on held-out texts, and how many of them fall on their own side (sorted_right of total)
            coefficient: the strength to start with
            strength_end: the strength at which text breaks
            sweet_spot: the useful range, null if it was not measured
            notes: sentences about the examples that are worth reading
            file: the direction's safetensors file in base64, or null
        """
        with errors_as_sentences("compute_direction"):
            if refusal := operator.admit(caller):
                raise SteeringError(refusal)
            limits = file_limits(operator.limits)
            model = engine.ready_model()
            called = text("name", name, LONGEST_NAME) or "My direction"
            wanted = None if layer is None else whole_number("layer", layer, 0, model.n_layers - 1)
            measured, filed = yes_or_no("measure", measure), yes_or_no("with_file", with_file)
            read = checked(replace(read_examples(examples, limits), name=called), token_counter(model))
            found = yield from _followed(engine, partial(find, engine, read.data))
            position, at = found.suggested if wanted is None else best_at_layer(found.separation, wanted)
            direction = direction_at(found.candidates, found.separation, position, at, called)
            if measured:
                direction = yield from _followed(engine, lambda job: _measure(engine, model, direction, job))
            notes = [*read.warnings, *found.candidates.notes]
            yield {
                "id": kept.add(direction),
                **_described(direction, notes),
                "file": _file(direction) if filed else None,
            }

    return compute_direction


def read_examples(examples: Any, limits: Limits | None = None) -> ContrastSet:
    """A contrast set from its text, in one of the formats of files, or from two lists.

    Raises:
        ContrastSetError: naming the row, as for a file.
    """
    with TemporaryDirectory() as folder:
        return ContrastSet.load(*_written(examples, limits, Path(folder)), limits=limits)


def _written(examples: Any, limits: Limits | None, folder: Path) -> list[Path]:
    """The files that hold the examples: one with both sides, or one for each."""
    given = _parsed(examples, limits)
    if isinstance(given, dict) and all(isinstance(given.get(side), list) for side in ("positive", "negative")):
        files = {f"{side}.json": json.dumps(given[side]) for side in ("positive", "negative")}
    elif isinstance(given, list):
        files = {"examples.json": json.dumps(given)}
    elif isinstance(examples, str) and examples.strip():
        files = {f"examples{_ending(examples)}": examples}
    else:
        what = "are empty" if examples in ("", None) or isinstance(examples, str) else f"cannot be {shown(examples)}"
        raise ContrastSetError(f"The examples {what}. {HOW_TO_WRITE}")
    for file, content in files.items():
        # Half of a surrogate pair is written as it is: the reader says in which line it stands.
        (folder / file).write_bytes(content.encode("utf-8", "surrogatepass"))
    return [folder / file for file in files]


def _parsed(examples: Any, limits: Limits | None) -> Any:
    """The value of a text that is one JSON object or list, which clients of JSON may also give as it is; else None."""
    if not isinstance(examples, str):
        return examples
    if limits is not None and limits.bytes is not None and len(examples) > limits.bytes:
        raise ContrastSetError(
            f"The examples have {len(examples):,} characters, more than the {limits.bytes:,} allowed: leave out some."
        )
    try:
        return json.loads(examples) if examples.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None  # JSON Lines, or broken; their reader says where


def _ending(examples: str) -> str:
    """The ending of the format a text is in."""
    if examples.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return ".jsonl"
    lines = examples.strip().splitlines()
    header = {cell.strip().strip('"').lower() for mark in ",;\t" for cell in lines[0].split(mark)}
    is_text = not header & set(COLUMNS) and any(DASHES.fullmatch(line) for line in lines)
    return ".txt" if is_text else ".csv"


def best_at_layer(separation: "Separation", layer: int) -> tuple[int, int]:
    """(position, layer) of the position that tells held-out texts apart best at a layer; ties go to the widest gap."""

    def how_well(row: int) -> tuple[float, float]:
        auroc, gap = float(separation.auroc[row, layer]), float(separation.gap[row, layer])
        return (round(auroc, 3), gap if math.isfinite(gap) else 0.0) if math.isfinite(auroc) else (-1.0, 0.0)

    return separation.positions[max(range(len(separation.positions)), key=how_well)], layer


def _measure(engine: Engine, model: "ChatModel", direction: "Direction", job: Job) -> None:
    """Report the direction with its measured strength; visitors who wait for a reply go first."""
    from steering.calibration import calibrated

    if engine.model is not model:
        raise SteeringError(GONE)

    def progress(what: str, done: float, total: float) -> None:
        job.progress(what, done, total)
        engine.let_others_go(job)

    job.report(calibrated(model, direction, progress=progress))


def _followed(engine: Engine, work: Callable[[Job], None]) -> Generator[dict[str, Any], None, Any]:
    """Have work done on the model's thread: yields how far it is, returns the one value it reported."""
    job = engine.worker.submit(work)
    result = None
    what, part, last_sign = "Waiting for the model", 0.0, 0.0
    try:
        for report in job.reports():
            if isinstance(report, tuple):
                what, part = report[0], min(1.0, report[1] / max(report[2], 1e-9))
            elif report is not None:
                result = report
            if time.monotonic() - last_sign >= SIGN_OF_LIFE:
                last_sign = time.monotonic()
                yield {"what": what, "progress": round(part, 3)}
    finally:
        job.stop()  # also when the caller gave up in the middle
    return result


def _described(direction: "Direction", notes: list[str]) -> dict[str, Any]:
    strength = strength_of(direction)
    right, total = direction.card["sorted_right"]
    return {
        "name": direction.name,
        "model": direction.card["model_label"],
        "layer": direction.layer,
        "position": direction.position,
        "separation": {"auroc": direction.card["auroc"], "sorted_right": right, "total": total},
        "coefficient": round(strength.start, 4),
        "strength_end": round(strength.end, 4),
        "sweet_spot": None if strength.sweet is None else list(strength.sweet),
        "notes": notes,
    }


def _file(direction: "Direction") -> str:
    with TemporaryDirectory() as folder:
        return base64.b64encode(direction.save(Path(folder) / "direction.safetensors").read_bytes()).decode("ascii")
