"""The work of the “Evaluate” tab: answers written seven ways on the model's thread, read, and thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from steering.ui import evaluate_words as words
from steering.ui.asked_model import asked_model, through
from steering.ui.evaluate_found import Evaluated, ToEvaluate

if TYPE_CHECKING:
    from steering.named_sets import Side
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

SEED = 0
ROWS_AT_ONCE = 16


def evaluate(engine: Engine, asked: ToEvaluate, job: Job) -> None:
    """Evaluate a direction on the model in use; reports an `Evaluated` at the end.

    Raises:
        SteeringError: if another model is in use than the one that was meant, or the direction is not for it.
    """
    from steering.contestants import contestants
    from steering.contrast import Example
    from steering.evaluate import Evaluation, Plan
    from steering.evaluation_records import RECORDS, RecordFile
    from steering.evaluation_table import table
    from steering.named_sets import load_held_out
    from steering.version import versions

    model, direction = asked_model(engine, asked.model, asked.idea, asked.own, words.OTHER_MODEL, job)
    sides: tuple[Side, ...] = ("harmful", "harmless") if asked.harmful else ("harmless",)
    data = {side: load_held_out(side, n=asked.count, seed=SEED) for side in sides}
    text = load_held_out("text")

    def examples(side: Side) -> tuple[Example, ...]:
        prompts = data[side].prompts if side in data else []
        return tuple(Example(({"role": "user", "content": prompt},)) for prompt in prompts)

    plan = Plan(
        harmful=examples("harmful"),
        harmless=examples("harmless"),
        text=text.text,
        max_new_tokens=asked.length,
        seed=SEED,
        rows=ROWS_AT_ONCE,
    )
    rows = contestants(direction, coefficient=asked.coefficient, ask=asked.ask, seed=SEED)
    with tempfile.TemporaryDirectory() as kept, engine.all_cores():
        records = RecordFile(Path(kept) / RECORDS, {})
        Evaluation(model, rows, plan).run(records, through(engine, job))
        found = records.records()
    about = {
        "data": [f"{side}: {one.label}" for side, one in {**data, "text": text}.items()],
        "data_sha256": plan.data_sha256,
        "seed": SEED,
        "systems": [""],
        "judge": "",
        "coefficient": asked.coefficient,
        "tokens": asked.length,
        "versions": versions(),
    }
    job.report(Evaluated(asked, model.label, table(found, SEED), found, about))
