"""Coherence: EleutherAI's lm-eval run on variants, so that any of its tasks says what steering costs.

lm-eval is not among what the playground needs; who wants its tasks installs it. Nothing a model writes is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steering.errors import SteeringError
from steering.figures import Figure, bootstrapped, wilson
from steering.progress import Progress, silent
from steering.variants import Variant

if TYPE_CHECKING:
    from steering.models import ChatModel

# By lm-eval's names: MMLU, ARC, GSM8K, TruthfulQA, WinoGrande, and a hundred examples of HellaSwag.
COHERENCE_TASKS = (
    "mmlu",
    "arc_easy",
    "arc_challenge",
    "gsm8k",
    "truthfulqa_mc2",
    "winogrande",
    "tinyHellaswag",
)
FEW_SHOT_SEED = 1234  # lm-eval's own: the examples shown before a question are the ones of published numbers


@dataclass(frozen=True)
class TaskFigure:
    """What a variant reaches in a task.

    Attributes:
        variant: its name.
        task: the task's name, or its group's, whose examples then count together.
        metric: lm-eval's name of it, behind a comma that of the filter where there are several.
        figure: over the task's examples; without an interval where the metric is no mean over them.
    """

    variant: str
    task: str
    metric: str
    figure: Figure


def run_tasks(
    model: ChatModel,
    variants: Sequence[Variant],
    tasks: Sequence[str | Path] = COHERENCE_TASKS,
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    include_path: str | Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> list[TaskFigure]:
    """Run lm-eval's tasks on each variant.

    Args:
        tasks: names of tasks and groups that lm-eval knows, or a task's YAML file. In one, ``data_files`` are taken
            from the working directory.
        limit: only so many examples of each task.
        num_fewshot: examples shown before each question; by default what each task says.
        chat: ask in the model's chat template instead of as plain text.
        include_path: a folder with more tasks.
        batch_size: rows of a pass.
        seed: of the intervals' resamples.
        progress: told after every batch.

    Raises:
        SteeringError: if lm-eval is not there, a task is unknown or its data cannot be had, or a variant is a system
            prompt and there is no chat to put it in.
    """
    for variant in variants:
        if variant.system is not None and not chat:
            raise SteeringError(
                f"“{variant.name}” has a system prompt, which has no place in plain text. Run the tasks in the chat "
                "template, or leave this variant out."
            )
    manager = _manager(tasks, include_path)
    loaded = {str(task): _loaded(manager, str(task), num_fewshot) for task in tasks}
    return [
        figure
        for variant in variants
        for name, task in loaded.items()
        for figure in _run(model, variant, name, task, limit, chat, batch_size, seed, progress)
    ]


def require_tasks(tasks: Sequence[str | Path], include_path: str | Path | None = None) -> None:
    """Say at once, before anything long is measured, whether tasks can be run; their data is not asked for yet.

    Raises:
        SteeringError: if lm-eval is not there, or does not know one.
    """
    manager = _manager(tasks, include_path)
    for task in tasks:
        if str(task) not in manager.task_index and not Path(task).is_file():
            raise _unknown_task(str(task))


def _unknown_task(name: str) -> SteeringError:
    return SteeringError(
        f"lm-eval knows no task “{name}”. Check its name, or give its YAML file or the folder it lies in."
    )


def _manager(tasks: Sequence[str | Path], include_path: str | Path | None) -> Any:
    """What finds the tasks; of lm-eval's own, whose thousands take seconds to list, only if one may be meant."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SteeringError(
            "Coherence tasks are run by lm-eval, which is not installed: pip install lm-eval, and start again."
        ) from error
    own = None if include_path is None else str(include_path)
    manager = TaskManager(include_path=own, include_defaults=False)
    if all(str(task) in manager.task_index or Path(task).is_file() for task in tasks):
        return manager
    return TaskManager(include_path=own)


def _loaded(manager: Any, name: str, num_fewshot: int | None) -> dict[str, Any]:
    """A task or group with its data, as lm-eval's ``evaluate`` takes it."""
    with _task_errors(name, "cannot be had", "It is fetched once and then read from the disk: connect, or choose"):
        try:
            loaded: dict[str, Any] = manager.load([name])
        except KeyError as error:
            if "not a registered" not in str(error):  # but something is missing within one that is known
                raise
            raise _unknown_task(name) from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):  # 0 is a task's own decision
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    return loaded


def _run(
    model: ChatModel,
    variant: Variant,
    name: str,
    loaded: dict[str, Any],
    limit: int | None,
    chat: bool,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> list[TaskFigure]:
    from lm_eval.evaluator import evaluate

    from steering.lm_harness_model import SteeredLM

    with _task_errors(name, "cannot be run", "Choose"):
        results = evaluate(
            lm=SteeredLM(model, variant, batch_size, progress),
            task_dict=loaded,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,  # in memory
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    if results is None:  # of a process that is not the first
        return []
    values: dict[tuple[str, str], list[Any]] = defaultdict(list)
    figures: dict[tuple[str, str], Figure] = {}
    for task_name, samples in results["samples"].items():
        called = name if loaded["groups"] else task_name
        aggregation = loaded["tasks"][task_name].aggregation()
        filters = {sample["filter"] for sample in samples}
        for sample in samples:
            for metric in sample["metrics"]:
                label = metric if len(filters) == 1 else f"{metric},{sample['filter']}"
                if aggregation.get(metric) is None or aggregation[metric].__name__ == "mean":
                    values[called, label].append(sample[metric])
                elif not loaded["groups"]:
                    value = float(results["results"][task_name][f"{metric},{sample['filter']}"])
                    figures[called, label] = Figure(value, value, value, len(samples) // len(filters))
    figures |= {key: _mean(np.array(found, np.float64), seed) for key, found in values.items()}
    return [TaskFigure(variant.name, task, metric, figure) for (task, metric), figure in figures.items()]


def _mean(values: np.ndarray, seed: int) -> Figure:
    """The mean with its interval: Wilson's where every example is right or wrong, else the bootstrap's."""
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), len(values))
    return bootstrapped([values], np.mean, seed)


@contextmanager
def _task_errors(name: str, what: str, remedy: str) -> Iterator[None]:
    """Say which task it was; lm-eval, its tasks and the library of their data raise whatever they like."""
    try:
        yield
    except SteeringError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise SteeringError(f"The task “{name}” {what}: {reason}. {remedy} another task.") from error
