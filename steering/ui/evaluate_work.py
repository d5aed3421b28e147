"""The work of the “Evaluate” tab: answers written in many ways on the model's thread, read, and thrown away.

Data sets of the field and a judge are fetched before, on a thread of their own, so that chats go on meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.progress import Progress, silent
from steering.ui import evaluate_words as words
from steering.ui.asked_model import asked_model, own_files, through
from steering.ui.errands import in_a_thread
from steering.ui.evaluate_found import HELD_OUT, Evaluated, ToEvaluate
from steering.ui.second_model import hand_on, load_second, room_for_it

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.named_sets import NamedData, Side
    from steering.ui.engine import Engine
    from steering.ui.worker import Job, Reports

SEED = 0
ROWS_AT_ONCE = 16


def begin_evaluation(engine: Engine, asked: ToEvaluate) -> Reports:
    """Evaluate a direction on the model in use; reports progress, and an `Evaluated` at the end.

    A judge and an edited model are second models: for one visitor at a time, and gone afterwards.
    """
    if not asked.needs_more:
        return engine.worker.submit(partial(evaluate, engine, asked, gathered(asked, silent), None))

    def work(job: Any) -> None:
        data = gathered(asked, job.progress)
        with room_for_it(engine) if asked.judge or asked.edited else nullcontext():
            is_another = asked.judge not in ("", engine.ready_model().name)
            judge = load_second(engine, asked.judge, job.progress) if is_another else None
            hand_on(engine.worker.submit(partial(evaluate, engine, asked, data, judge)), job)

    return in_a_thread(work)


def gathered(asked: ToEvaluate, progress: Progress) -> dict[Side, NamedData]:
    """What is read on each side; sets that are not here yet are fetched.

    Raises:
        SteeringError: if one cannot be fetched; it says which file to put where.
    """
    from steering.named_sets import load_held_out, load_named

    return {
        side: load_held_out(side, n=asked.count, seed=SEED)
        if name == HELD_OUT
        else load_named(name, side=side, n=asked.count, seed=SEED, progress=progress)
        for side, name in asked.sets.items()
    }


def evaluate(
    engine: Engine, asked: ToEvaluate, data: Mapping[Side, NamedData], judge: ChatModel | None, job: Job
) -> None:
    """Evaluate a direction on the model in use, on its thread; reports an `Evaluated` at the end.

    Args:
        data: what is read on each side.
        judge: the model that was asked for as a judge, if it is not the one in use.

    Raises:
        SteeringError: if another model is in use than the one that was meant, the direction is not for it, the judge
            answers nonsense, or the edited model cannot be written or loaded.
    """
    from steering.contestants import ORTHOGONALIZED, contestants
    from steering.evaluate import Evaluation, Plan
    from steering.evaluation_metrics import UNCLEAR
    from steering.evaluation_records import RECORDS, RecordFile
    from steering.evaluation_table import table
    from steering.judges import judge_for
    from steering.version import versions
    from steering.weights import cache_folder

    model, direction = asked_model(engine, asked.model, asked.idea, asked.own, words.OTHER_MODEL, job)
    progress = through(engine, job)
    plan = Plan(
        harmful=data["harmful"].examples if "harmful" in data else (),
        harmless=data["harmless"].examples,
        text=data["text"].text,
        max_new_tokens=asked.length,
        seed=SEED,
        rows=ROWS_AT_ONCE,
    )
    with tempfile.TemporaryDirectory(dir=cache_folder()) as kept, engine.all_cores():
        edited = Path(kept) / ORTHOGONALIZED
        rows = contestants(
            direction,
            coefficient=asked.coefficient,
            ask=asked.ask,
            checkpoints=[(ORTHOGONALIZED, str(edited))] if asked.edited else [],
            seed=SEED,
        )
        records = RecordFile(Path(kept) / RECORDS, {})
        Evaluation(
            model,
            rows,
            plan,
            checkpoint=lambda _: _edited_model(engine, model, direction, edited, progress),
            judge=judge_for(judge or model) if asked.judge else None,
        ).run(records, progress)
        found = records.records()
    about = {
        "data": [f"{side}: {one.label}" for side, one in data.items()],
        "data_sha256": plan.data_sha256,
        "seed": SEED,
        "systems": [""],
        "judge": asked.judge,
        "unclear_verdicts": sum(record.get("verdict") == UNCLEAR for record in found),
        "coefficient": asked.coefficient,
        "tokens": asked.length,
        "versions": versions(),
    }
    job.report(Evaluated(asked, model.label, table(found, SEED), found, about))


def _edited_model(
    engine: Engine, model: ChatModel, direction: Direction, folder: Path, progress: Progress
) -> ChatModel:
    """The model in use with the direction taken out of its weights, written into a folder and loaded from there."""
    from steering.orthogonalize import orthogonalize

    _, revision = own_files(model, progress)
    orthogonalize(model.name, direction, folder, revision=revision, check=False, progress=progress)
    return load_second(engine, str(folder), progress)
