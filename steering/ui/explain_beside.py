"""A base model beside the one in use: loaded by itself, and read on the thread where the model in use is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from steering.ui.errands import in_a_thread
from steering.ui.explain_work import explain_base
from steering.ui.second_model import hand_on, load_second, room_for_it

if TYPE_CHECKING:
    from steering.ui.engine import Engine
    from steering.ui.explain_found import Question
    from steering.ui.worker import Reports


def beside_base(engine: Engine, name: str, question: Question) -> Reports:
    """Load a base model and hold the one in use beside it; reports progress, and a `BaseFound` at the end.

    Args:
        name: a repository of the hub, or a folder. It takes the chat template of the model in use.
    """

    def work(job: Any) -> None:
        with room_for_it(engine):
            model = engine.ready_model()
            base = load_second(
                engine, name, job.progress, dtype=model.dtype, chat_template=str(model.tokenizer.chat_template)
            )
            hand_on(engine.worker.submit(partial(explain_base, engine, question, base)), job)

    return in_a_thread(work)


__all__ = ["beside_base"]
