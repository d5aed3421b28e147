"""The public endpoints, for programs: `/steer` and `/compute_direction`; everything else of the page is private."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steering.ui.api_compute import compute_endpoint
from steering.ui.api_directions import KeptDirections
from steering.ui.api_steer import steer_endpoint
from steering.ui.engine import Engine
from steering.ui.operator import Operator

NAMES = ("/steer", "/compute_direction")
SETS_AT_ONCE = 4  # each holds one of the page's threads while it waits


def add_endpoints(engine: Engine, operator: Operator) -> None:
    """Add them to the page that is being built."""
    kept = KeptDirections()
    steer, compute = steer_endpoint(engine, kept, operator), compute_endpoint(engine, kept, operator)
    gr.api(steer, api_name="steer", concurrency_limit=operator.limits.visitors)
    gr.api(compute, api_name="compute_direction", concurrency_limit=SETS_AT_ONCE)


def bad_call(request: Request, error: Exception) -> Response:
    """The sentence for a call whose parameters Gradio cannot match to an endpoint's, which it would fail at."""
    if "/gradio_api/call/v2/" not in request.url.path:
        raise error
    if isinstance(error, KeyError):
        return JSONResponse({"detail": f"There is no such endpoint; there are {' and '.join(NAMES)}."}, 404)
    return JSONResponse({"detail": f"{str(error).partition('. ')[0]}."}, 422)


# For ``launch(app_kwargs=…)``.
APP_OPTIONS: dict[str, Any] = {"exception_handlers": {KeyError: bad_call, TypeError: bad_call}}
