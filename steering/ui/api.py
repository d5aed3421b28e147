"""The public endpoints, for programs: `/steer` and `/compute_direction`; everything else of the page is private."""

from __future__ import annotations

import gradio as gr

from steering.ui.api_compute import compute_endpoint
from steering.ui.api_directions import KeptDirections
from steering.ui.api_steer import steer_endpoint
from steering.ui.engine import Engine

SETS_AT_ONCE = 4  # each holds one of the page's threads while it waits


def add_endpoints(engine: Engine, calls_at_once: int) -> None:
    """Add them to the page that is being built."""
    kept = KeptDirections()
    gr.api(steer_endpoint(engine, kept), api_name="steer", concurrency_limit=calls_at_once)
    gr.api(compute_endpoint(engine, kept), api_name="compute_direction", concurrency_limit=SETS_AT_ONCE)
