"""The model and the direction that a tab's long work was asked about, and how that work reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui.ideas import fits_model
from steering.ui.make_words import GONE

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

CHANGED_FILES = (
    "The files of {label} are not those it was loaded from any more. Load it again (Settings, Model), then try again."
)


def asked_model(
    engine: Engine, meant: tuple[str, str], idea: str, own: Direction | None, other_model: str, job: Job
) -> tuple[ChatModel, Direction]:
    """The model in use, set not to think, and the direction as the chat adds it.

    Args:
        meant: name and revision of the model that was in use when it was asked.
        idea, own: a preset's name, or a direction of the visitor's own.
        other_model: what is said if another model has come into use.

    Raises:
        SteeringError: then, or if the direction is not for this model.
    """
    model = engine.ready_model()
    if (model.name, model.revision) != meant:
        raise SteeringError(other_model)
    if own is not None and not fits_model(own, model.name, model.revision):
        raise SteeringError(GONE)
    model.thinking = False
    direction = own or engine.preset_direction(idea, through(engine, job))
    direction.require_fit(model)
    return model, direction


def own_files(model: ChatModel, progress: Progress) -> tuple[Path, str | None]:
    """The folder that the model in use was loaded from, and its commit where it is of the hub.

    Raises:
        SteeringError: if other files lie there now.
    """
    from steering.model_files import revision_of
    from steering.weights import model_folder

    revision = model.revision if is_of_hub(model.name) else None
    folder = model_folder(model.name, revision, progress)
    if revision_of(folder) != model.revision:
        raise SteeringError(CHANGED_FILES.format(label=model.label))
    return folder, revision


def is_of_hub(name: str) -> bool:
    """Whether a model's name is that of a repository of the hub, so that its commit says which files were loaded."""
    return name != "bundled" and not Path(name).expanduser().exists()


def through(engine: Engine, job: Job) -> Progress:
    """The library's progress callback: ends the work when a stop was asked for, and lets replies go first."""

    def report(what: str, done: float, total: float) -> None:
        job.progress(what, done, total)
        engine.let_others_go(job)

    return report
