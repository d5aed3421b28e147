"""The model and the direction that a tab's long work was asked about, and how that work reports."""

from __future__ import annotations

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


def through(engine: Engine, job: Job) -> Progress:
    """The library's progress callback: ends the work when a stop was asked for, and lets replies go first."""

    def report(what: str, done: float, total: float) -> None:
        job.progress(what, done, total)
        engine.let_others_go(job)

    return report
