"""Two addresses beside the page: ``/health`` for whoever watches the program, ``/status`` for whoever runs it."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from steering.ui.engine import Engine
from steering.ui.operator import Operator
from steering.version import library_version

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5"><meta name="robots" content="noindex"><title>Steering playground: status</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .35rem .5rem; border-bottom: 1px solid #8886; vertical-align: top }}
th {{ font-weight: 500 }}
td {{ font-variant-numeric: tabular-nums }}
</style></head>
<body><main><h1>Status</h1><table>{rows}</table>
<p>Drawn again every 5 seconds. The same as <a href="status.json">JSON</a>.</p></main></body></html>
"""

Facts = dict[str, Any]


def routes(engine: Engine, operator: Operator, *, queue: Callable[[], int], status_page: bool) -> list[Route]:
    """The routes to serve beside the page.

    Args:
        queue: how many events wait in the page's line.
        status_page: whether ``/status`` and ``/status.json`` are served; ``/health`` always is.
    """

    def facts() -> Facts:
        return status(engine, operator, queue())

    async def health(_request: Request) -> Response:
        ending = operator.ending.is_set()
        answer = {"ok": not ending, "model_loaded": engine.is_ready}
        return JSONResponse(answer, 503 if ending else 200, headers=_FRESH)

    async def as_json(_request: Request) -> Response:
        return JSONResponse(facts(), headers=_FRESH)

    async def as_page(_request: Request) -> Response:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th><td>{html.escape(_shown(value))}</td></tr>'
            for name, value in facts().items()
        )
        return HTMLResponse(_PAGE.format(rows=rows), headers=_FRESH)

    served = [Route("/health", health)]
    if status_page:
        served += [Route("/status", as_page), Route("/status.json", as_json)]
    return served


_FRESH = {"Cache-Control": "no-store"}


def status(engine: Engine, operator: Operator, queue: int) -> Facts:
    """What the status page says; numbers and the model's name, nothing of a visitor."""
    activity, limits = operator.activity, operator.limits
    return {
        "version": library_version(),
        "uptime_seconds": round(activity.uptime),
        **engine.facts,
        "memory_mb": round(psutil.Process().memory_info().rss / 1e6),
        "gpu_memory_mb": _gpu_memory(),
        "visitors": operator.visitors(),
        "visitors_remembered_at_most": limits.sessions,
        "turns": activity.turns,
        "rows": activity.rows,
        "rows_at_most": limits.rows,
        "queue": queue,
        "queue_at_most": limits.waiting,
        "tokens_per_second": round(activity.tokens_per_second, 1),
        "ending": operator.ending.is_set(),
    }


def _gpu_memory() -> int | None:
    """MB that torch holds on the GPU; None without one, or before torch is there."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.memory_reserved() / 1e6)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
