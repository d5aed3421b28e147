"""Starting the playground, and ending it: from the command line to a page that is served, and to the last reply."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware

from steering.errors import SteeringError
from steering.processes_here import started_together
from steering.ui.api import APP_OPTIONS
from steering.ui.delivery import Delivery
from steering.ui.engine import Engine, ModelOptions
from steering.ui.gpu import ZERO_GPU
from steering.ui.guard import Guard
from steering.ui.inputs import Page
from steering.ui.journal import keep_journal, note
from steering.ui.layout import page_options
from steering.ui.memory import keep_memory_small
from steering.ui.model_choice import ModelChoice
from steering.ui.operator import Operator, on_signals
from steering.ui.options import parsed
from steering.ui.page import build_page
from steering.ui.scope import ASSETS
from steering.ui.status import routes
from steering.ui.take_home_rules import TakeHome
from steering.ui.worker import Worker
from steering.version import library_version

if TYPE_CHECKING:
    from steering.processes import Processes

LOOK_FOR_WORK = 0.02  # seconds
LOOK_FOR_NEWS = 0.5  # seconds between two looks at what is worth a line of the log
GRADIO_THREADS = 40  # its own default; a reply keeps one while it is written, and quick events need some too


def serve(arguments: list[str] | None = None) -> None:
    """Start the playground and serve it until it is asked to end; what ``python app.py`` does."""
    options, limits = parsed(arguments)
    options.processes = joined_or_follow(options) if started_together() > 1 else None
    keep_journal(options.log_format)
    keep_memory_small()
    # Uvicorn would believe X-Forwarded-For of any program on this machine; who is to be believed, `Operator` knows.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    # What another process edits is not there any more when its call ends, and a model that several hold one cannot.
    home = TakeHome() if ZERO_GPU or options.processes is not None else options.home
    operator = Operator(limits, behind_proxy=options.behind_proxy, take_home=home)
    asked_to_end = threading.Event()
    on_signals(asked_to_end.set)
    engine, page, looks = _with_servers(options, operator) if options.endpoints else _with_model(options, operator)
    page.queue(max_size=limits.waiting)
    # Gradio looks for new work every millisecond, and each time interrupts the thread that writes the answers: without
    # this they come 7 % slower.
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = LOOK_FOR_WORK
    gr.set_static_paths([ASSETS])
    served = routes(engine, operator, queue=lambda: len(page._queue), status_page=options.status_page)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        max_threads=GRADIO_THREADS + limits.visitors,
        state_session_capacity=limits.sessions,
        max_file_size=limits.upload_mb * 10**6,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        share=False,
        show_error=False,
        footer_links=["api"],
        prevent_thread_lock=True,
        app_kwargs={
            **APP_OPTIONS,
            "routes": served,
            "middleware": [Middleware(Guard, operator=operator), Middleware(Delivery, first_paint=page.first_paint)],
        },
        mcp_server=True,
        **looks,
    )
    model = "served elsewhere" if options.endpoints else options.model
    note("start", version=library_version(), address=page.local_url, model=model, **dataclasses.asdict(limits))
    _watch(engine, page, asked_to_end)
    operator.end()
    page.close(verbose=False)
    if options.processes is not None:
        options.processes.end()
    note("ended", seconds=round(operator.activity.uptime))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of torch may be in the middle of a pass or of loading a model; an interpreter that is taken down around
    # them can crash, and nothing is left to be saved.
    os._exit(0)


def joined_or_follow(options: argparse.Namespace) -> Processes:
    """This process among those ``torchrun`` started, if it leads; the others follow it to the end and do not return."""
    from steering.cli_processes import follow_all, joined

    try:
        if options.endpoints:
            raise SteeringError("A page that shows servers elsewhere runs in one process; start it without torchrun.")
        processes = joined(options.device)
    except SteeringError as error:
        sys.exit(str(error) if os.environ["RANK"] == "0" else 1)
    if not processes.leads:
        follow_all(options, processes)
        sys.exit(0)
    return processes


def _with_model(options: argparse.Namespace, operator: Operator) -> tuple[Engine, Page, dict[str, Any]]:
    """The engine with a model of this program, which begins to load; its page, and how that looks."""
    limits = operator.limits
    how = ModelOptions(options.device, options.dtype, options.quantization, options.processes)
    engine = Engine(how, limits, zero_desk())
    models = ModelChoice(engine, options.model, anything=not os.environ.get("SPACE_ID"), allowed=limits.models)
    models.begin()
    return engine, build_page(engine, models, operator), page_options()


def _with_servers(options: argparse.Namespace, operator: Operator) -> tuple[Engine, Page, dict[str, Any]]:
    """The same with three servers elsewhere."""
    from steering.ui.remote_engine import RemoteEngine
    from steering.ui.remote_page import build_remote_page, remote_page_options

    engine = RemoteEngine(options.endpoints, operator.limits)
    engine.watch.begin()
    return engine, build_remote_page(engine, operator), remote_page_options()


def zero_desk() -> Worker | None:
    """Who does the work on a ZeroGPU Space; None on any other host."""
    if not ZERO_GPU:
        return None
    from steering.ui.zero_desk import ZeroDesk

    return ZeroDesk()


def _watch(engine: Engine, page: Page, until: threading.Event) -> None:
    """Until the program is asked to end, note each model that comes into use or does not, and forget who has left."""
    in_use: object = None
    failed: object = None
    while not until.wait(LOOK_FOR_NEWS):
        page.forget_left()
        model, loading = engine.model, engine.loading
        if model is not None and model is not in_use:
            in_use = model
            note("model loaded", model=model.name, revision=model.revision, device=str(model.device))
        if loading is not None and loading.error and loading is not failed:
            failed = loading
            note("model not loaded", model=loading.source, why=loading.error)
