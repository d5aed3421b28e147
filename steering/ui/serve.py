"""Starting the playground: from the command line to a page that is served."""

from __future__ import annotations

import logging
import os

import gradio as gr

from steering.ui.engine import Engine, ModelOptions
from steering.ui.layout import page_options
from steering.ui.memory import keep_memory_small
from steering.ui.model_choice import ModelChoice
from steering.ui.options import parsed
from steering.ui.page import build_page
from steering.ui.scope import ASSETS

WAITING_AT_MOST = 64
LOOK_FOR_WORK = 0.02  # seconds


def serve(arguments: list[str] | None = None) -> None:
    """Start the playground; what ``python app.py`` does."""
    options = parsed(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    keep_memory_small()
    engine = Engine(ModelOptions(options.device, options.dtype, options.quantization))
    models = ModelChoice(engine, options.model, anything=not os.environ.get("SPACE_ID"))
    models.begin()
    page = build_page(engine, models)
    page.queue(max_size=WAITING_AT_MOST)
    # Gradio looks for new work every millisecond, and each time interrupts the thread that writes the answers: without
    # this they come 7 % slower.
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = LOOK_FOR_WORK
    gr.set_static_paths([ASSETS])
    page.launch(
        server_name=options.host,
        server_port=options.port,
        state_session_capacity=200,
        max_file_size="2mb",
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        share=False,
        show_error=False,
        footer_links=["api"],
        **page_options(),
    )
