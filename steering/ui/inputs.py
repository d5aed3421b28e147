"""What comes with an event is checked before a handler sees it, and what cannot be read is refused with a sentence."""

from __future__ import annotations

from collections.abc import Container, Iterator
from datetime import datetime, timedelta
from typing import Any

import gradio as gr

UNREADABLE = "This is not what the page sends. Load the page again, and try once more."
NO_UPLOAD = "A file is taken only if it was uploaded here; no address of one is."


class Page(gr.Blocks):
    """Gradio's blocks, except for two things.

    Forged input is an error with a sentence and leaves no traceback in the log. And what Gradio remembers of a session,
    a copy of the page of some 0.3 MB, goes with the session: Gradio itself keeps it after a page was closed, and makes
    one for every call of an endpoint.

    Attributes:
        first_paint: what the page shows before its scripts have run (`steering.ui.first_paint`).
        visitors: the keys of the sessions that have a page open.
    """

    first_paint: str = ""
    visitors: Container[str] = ()

    def forget_left(self, seconds: float = 30) -> None:
        """Forget the sessions that are no visitor's and were not used for so long."""
        holder = self.state_holder
        used = datetime.now() - timedelta(seconds=seconds)
        for key in list(holder.session_data):
            if key not in self.visitors and holder.time_last_used.get(key, datetime.min) < used:
                with holder.lock:
                    holder.session_data.pop(key, None)
                    holder.time_last_used.pop(key, None)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """The handler's arguments, made of what came with the event.

        Raises:
            gr.Error: if that is not what its components send.
        """
        # Gradio fetches a file whose path is a web address, whatever its size and wherever it is.
        if any("://" in path for path in _paths(inputs)):
            raise gr.Error(NO_UPLOAD, print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **named)
        except gr.Error as error:
            raise gr.Error(error.message, print_exception=False) from error
        except Exception as error:
            raise gr.Error(UNREADABLE, print_exception=False) from error


def _paths(value: Any) -> Iterator[str]:
    """Every text that stands for a file's path, at any depth. (Its ``url`` is the page's own matter, and not used.)"""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("path"), str):
                yield one["path"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
