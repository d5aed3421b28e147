"""A second model beside the one in use: loaded by itself, so that chats go on meanwhile, and gone afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui.chat import Chat
from steering.ui.make_words import shortened

if TYPE_CHECKING:
    import torch

    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.ui.engine import Engine
    from steering.ui.worker import Reports

logger = logging.getLogger(__name__)

LONGEST_NAME = 400  # characters of a model's name or folder
ONE_AT_A_TIME = "A second model is being looked at for someone else. Try again in a minute."
FAILED = (
    "“{name}” could not be loaded; the program’s log says why. Give the name of a repository on the hub, or a folder."
)
NO_NAME = "No {kind} is named yet. Type its repository on the hub, or its folder."
NOT_OFFERED = "Only the models that this playground offers may be looked at: choose one of {names}."


def may_load(chat: Chat) -> bool:
    """Whether a second model may be loaded: for the person at the machine, who may have models written too."""
    return chat.operator.take_home.folder is not None and chat.engine.exchanges


def may_ask(chat: Chat, request: gr.Request) -> bool:
    """Whether whoever sends this may have one loaded: they have opened the page by a name that it may be opened by."""
    return may_load(chat) and chat.operator.take_home.is_here(request.headers.get("host"))


def allowed_name(typed: Any, kind: str, offered: tuple[str, ...]) -> str:
    """The name that a visitor typed.

    Args:
        kind: of the model, for people.
        offered: the only models there are; empty where any may be.

    Raises:
        SteeringError: if it is empty or not among them.
    """
    name = str(typed or "").strip()
    if not name:
        raise SteeringError(NO_NAME.format(kind=kind))
    if offered and name not in offered:
        raise SteeringError(NOT_OFFERED.format(names=", ".join(offered)))
    return name


@contextmanager
def room_for_it(engine: Engine) -> Iterator[None]:
    """Held while a second model is there, for each takes memory of its own; raises SteeringError if one is."""
    if not engine.second_model.acquire(blocking=False):
        raise SteeringError(ONE_AT_A_TIME)
    try:
        yield
    finally:
        engine.second_model.release()


def load_second(
    engine: Engine, name: str, progress: Progress, *, dtype: torch.dtype | None = None, chat_template: str | None = None
) -> ChatModel:
    """Load a model by its name, where and how the command line has models loaded.

    Args:
        dtype: of its weights, if not as the command line says; it is not quantised then.
        chat_template: for a base model, which has none.

    Raises:
        SteeringError: if it cannot be loaded.
    """
    from steering.models import load_model

    load: Callable[..., ChatModel] = load_model  # it says by itself if an option is none of its
    options = engine.options
    try:
        return load(
            name,
            device=options.device,
            dtype=dtype or options.dtype,
            quantization=options.quantization if dtype is None else None,
            chat_template=chat_template,
            progress=progress,
        )
    except SteeringError:
        raise
    except Exception as error:
        logger.exception("Loading a second model failed")
        raise SteeringError(FAILED.format(name=shortened(name))) from error


def hand_on(reading: Reports, job: Any) -> None:
    """Report what work on the model's thread reports, and stop it when the job is stopped."""
    for report in reading.reports():
        if job.stopped:
            reading.stop()
        if report is not None:
            job.report(report)
