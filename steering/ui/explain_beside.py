"""A base model beside the one in use: loaded by itself, so that chats go on meanwhile, and read where the model is."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.ui import explain_words as words
from steering.ui.errands import in_a_thread
from steering.ui.explain_work import explain_base

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.ui.engine import Engine
    from steering.ui.explain_found import Question
    from steering.ui.worker import Reports

logger = logging.getLogger(__name__)


def beside_base(engine: Engine, alone: threading.Lock, name: str, question: Question) -> Reports:
    """Load a base model and hold the one in use beside it; reports progress, and a `BaseFound` at the end.

    The base model is gone afterwards.

    Args:
        alone: held meanwhile, for each of them takes memory of its own.
        name: a repository of the hub, or a folder.
    """

    def work(job: Any) -> None:
        if not alone.acquire(blocking=False):
            raise SteeringError(words.ONE_BASE)
        try:
            base = _loaded(engine, name, job)
            reading = engine.worker.submit(partial(explain_base, engine, question, base))
            for report in reading.reports():
                if job.stopped:
                    reading.stop()
                if report is not None:
                    job.report(report)
        finally:
            alone.release()

    return in_a_thread(work)


def _loaded(engine: Engine, name: str, job: Any) -> ChatModel:
    """The base model, with the template of the chat model in use; raises SteeringError if it cannot be loaded."""
    from steering.models import load_model

    model = engine.ready_model()
    try:
        return load_model(
            name,
            device=engine.options.device,
            dtype=model.dtype,
            chat_template=str(model.tokenizer.chat_template),
            progress=job.progress,
        )
    except SteeringError:
        raise
    except Exception as error:
        logger.exception("Loading a base model failed")
        raise SteeringError(words.BASE_FAILED.format(name=words.short(name))) from error


__all__ = ["beside_base"]
