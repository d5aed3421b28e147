"""The scope: status line, line chart and token map, all drawn in the browser from one text log.

The component's value is a log that only grows, one record a line, because Gradio sends growth of a string as an
"append" diff: a tick costs the new lines and nothing else. A value that does not start with the previous one starts
the drawing anew, so a new turn begins a new log.

===========================================  =======================================================================
line                                         meaning
===========================================  =======================================================================
``H|{json}``                                 a run: ``run, layers, layer, max_new_tokens, coefficient, recorded,
                                             unit`` (`header`)
``I|{json}``                                 the columns and the strength's zones: ``names, short, looks, added, sweet,
                                             end, dose, no_plot`` (`columns_line`, `idea_line`); may be sent without a
                                             run, for example when another idea is chosen
``S|{json}``                                 ``state, message, rate, button`` (`state_line`); absent keys are empty
``T|number|column|token|cosines``            one token: number from 1; column 0 to 4, of which 0 is the answer that the
                                             others are compared with; text percent-encoded; base64 of int8
                                             cosines x 127, one a layer (`token_line`)
``C|number|coefficient``                     the strength was moved before this token (`coefficient_line`)
``B|current|count``                          which branch of the conversation is in view (`branch_line`)
``P|number|{json}``                          what each answer might have said at a token: ``columns, message``
                                             (`likeliest_line`); also understood as the value of ``#looked``
===========================================  =======================================================================

Nothing in the log is ever markup: the script decodes it and writes it with ``textContent`` or on a canvas.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote

import gradio as gr
import numpy as np
from numpy.typing import ArrayLike, NDArray

from steering.ui.markup import CHART_TITLE, INSPECTOR, MAP_TITLE, column_buttons

ASSETS = Path(__file__).resolve().parents[2] / "assets"

State = Literal["idle", "loading", "queued", "prefill", "running", "stopped", "error"]
PLACES = ("baseline", "ablated", "added", "fourth", "fifth")  # of the columns, from the left; the ids of their panes
VARIANTS = PLACES[:3]
COSINE_SCALE = 127  # int8: a resolution of 0.004, and 40 characters for 30 layers


def header(
    run: str | int,
    n_layers: int,
    *,
    layer: int | None = None,
    max_new_tokens: int,
    coefficient: float = 0.0,
    recorded: str = "",
    unit: str = "",
) -> str:
    """The first line of a run. ``layer`` is the steered layer, or None when the direction is not tied to one.

    ``run`` must differ from the previous run's: the chart keeps a zoom as long as it stays the same. ``recorded`` says
    that the run was recorded earlier, and how: the command that made it. The page then says so, shows the answers
    from their beginning, and can play them again. ``unit`` is what the log's ``T`` lines are where they are not known
    to be tokens; a run may be headed again when that becomes known.
    """
    return _json_line(
        "H",
        run=run,
        layers=n_layers,
        layer=layer,
        max_new_tokens=max_new_tokens,
        coefficient=coefficient,
        recorded=recorded,
        unit=unit,
    )


def columns_line(
    names: Sequence[str],
    short: Sequence[str],
    looks: Sequence[int] | None = None,
    *,
    added: str = "turned up here",
    sweet: tuple[float, float] | None = None,
    end: float | None = None,
    dose: float | None = None,
    no_plot: str = "",
) -> str:
    """Names and looks of the columns, and the strength's zones.

    ``names`` stand over the panes, ``short`` at the lines and on the buttons; two to five of each, the answer as it is
    first. ``looks`` picks a colour with its dashes for each: 0 as it is, 1 taken out, 2 turned up, 3 and 4 for what is
    none of these; without it a column looks as its place. ``added`` says what happens at the steered layer. ``sweet``
    is the measured sweet spot in units of the coefficient; the text breaks above its upper end. ``end`` is the right
    end of the slider (also set ``maximum`` of the Slider to it). Without ``sweet`` the page shows a plain track and
    says that this direction was not measured. ``dose`` is how long a coefficient of 1 is, in parts of the stream's
    usual length. ``no_plot`` is a sentence that stands in the place of chart and map, where there are no cosines.

    Raises:
        ValueError: if there are not two to five columns, or a column lacks a name or a look that exists.
    """
    chosen = list(range(len(names))) if looks is None else list(looks)
    if not 2 <= len(names) <= len(PLACES):
        raise ValueError(f"{len(names)} columns were named; there must be 2 to {len(PLACES)}")
    if not len(names) == len(short) == len(chosen):
        raise ValueError(f"{len(names)} columns have {len(short)} short names and {len(chosen)} looks")
    if not set(chosen) <= set(range(len(PLACES))):
        raise ValueError(f"looks are numbers from 0 to {len(PLACES) - 1}, not {chosen}")
    return _json_line(
        "I",
        names=list(names),
        short=list(short),
        looks=chosen,
        added=added,
        sweet=None if sweet is None else list(sweet),
        end=end,
        dose=None if dose is None else round(dose, 4),
        no_plot=no_plot,
    )


def idea_line(
    idea: str,
    *,
    sweet: tuple[float, float] | None = None,
    end: float | None = None,
    dose: float | None = None,
    opposite: bool = False,
) -> str:
    """The usual three columns of one idea, as `columns_line` takes them.

    ``idea`` is the preset's title, for example "The sea", or "Your idea". ``opposite``: the third answer has minus the
    direction added.
    """
    return columns_line(
        ["As it is", f"{idea} taken out", f"{idea}: its opposite" if opposite else f"{idea} turned up"],
        ["As it is", "Taken out", "Opposite" if opposite else "Turned up"],
        added="its opposite added here" if opposite else "turned up here",
        sweet=sweet,
        end=end,
        dose=dose,
    )


def state_line(state: State, message: str = "", *, rate: float | None = None, button: str = "") -> str:
    """The page's state. Only what changed needs saying: the browser counts the tokens and words the usual cases.

    ``message`` replaces the usual words of the status line (needed for ``queued``, see `queued_message`, and for
    ``error``). ``rate`` is tokens a second of one answer, shown while running. ``button`` is what the Ask button says
    while it cannot be pressed: "Loading… 40%" or "Waiting…"; without it Ask can be pressed. While ``prefill`` and
    ``running`` the Stop button stands in its place.
    """
    if state not in get_args(State):
        raise ValueError(f"unknown state {state!r}")
    rounded = None if rate is None else round(rate, 1)
    return _json_line("S", state=state, message=message, rate=rounded, button=button)


def queued_message(people: int, seconds: float) -> str:
    """The status line for someone who waits for others."""
    before = "1 person is before you" if people == 1 else f"{people} people are before you"
    wait = max(1, round(seconds))
    return f"{before}, about {wait} second{'' if wait == 1 else 's'}."


def token_line(number: int, column: int, token: str, cosines: ArrayLike) -> str:
    """One token of one column.

    number: from 1, per column and run. token: the text it adds to the answer ("" when it adds none yet, as the first
    bytes of an emoji); the tokens of a column joined must give its answer, or the page marks no words in it.
    cosines: float [n_layers].
    """
    packed = np.clip(np.nan_to_num(np.asarray(cosines, dtype=np.float32)), -1.0, 1.0) * COSINE_SCALE
    encoded = base64.b64encode(np.rint(packed).astype(np.int8).tobytes()).decode("ascii")
    return f"T|{number}|{column}|{quote(token, safe=_PLAIN, errors='replace')}|{encoded}\n"


def coefficient_line(number: int, coefficient: float) -> str:
    """The strength was moved while the answer was being written; token ``number`` is the first with the new one."""
    return f"C|{number}|{coefficient:g}\n"


def branch_line(current: int, count: int) -> str:
    """Which of the conversation's branches is in view, from 1; with one branch the page shows no buttons for them."""
    return f"B|{current}|{count}\n"


def likeliest_line(
    number: int,
    columns: Sequence[Sequence[tuple[str, float]] | None],
    *,
    message: str = "",
) -> str:
    """What each answer might have said at token ``number``, from 1.

    columns: for each column the likeliest tokens with their probabilities (0 to 1), likeliest first; None where the
    answer had already ended. message: a sentence to show instead, for example why the model cannot say it now;
    ``columns`` is empty then.
    """
    content: dict[str, Any] = {
        "columns": [
            None if likeliest is None else {"likeliest": [[text, round(float(share), 5)] for text, share in likeliest]}
            for likeliest in columns
        ],
        **({"message": message} if message else {}),
    }
    return f"P|{number}|{json.dumps(content, separators=(',', ':'))}\n"


def parse(log: str) -> list[tuple[str, Any]]:
    """Read a log back: the kind of each line with its content (a tuple where it begins with a number, else a dict)."""
    return [(line[0], _parse_line(line)) for line in log.splitlines()]


def _parse_line(line: str) -> Any:
    kind, rest = line.split("|", 1)
    if kind == "T":
        number, column, token, encoded = rest.split("|")
        return int(number), int(column), unquote(token), _unpack(encoded)
    if kind == "C":
        number, coefficient = rest.split("|")
        return int(number), float(coefficient)
    if kind == "B":
        current, count = rest.split("|")
        return int(current), int(count)
    if kind == "P":
        number, content = rest.split("|", 1)
        return int(number), json.loads(content)
    return json.loads(rest)


def _unpack(encoded: str) -> NDArray[np.float32]:
    whole = np.frombuffer(base64.b64decode(encoded), dtype=np.int8)
    return whole.astype(np.float32) / np.float32(COSINE_SCALE)


_PLAIN = " ,.!?:;'()*"  # never the separator, a percent sign, or a line break; keeps the common tokens short


def _json_line(kind: str, **content: Any) -> str:
    # Escaping to ASCII also keeps U+2028 and its like from being taken for an end of line.
    kept = {key: value for key, value in content.items() if value not in (None, "")}
    return f"{kind}|{json.dumps(kept, separators=(',', ':'))}\n"


def build_scope(value: str) -> gr.HTML:
    """The two cards under the answers; the component's value is the log described at the top of this module.

    The template is fixed: the value is never put into it, so that no text from a model can become markup. The root
    ``#scope`` carries ``data-state`` and ``data-tokens``, the number of tokens drawn so far in the longest answer.
    Its ``select`` event, with ``number`` in the `gr.EventData`, asks for the `likeliest_line` of a token.
    (A function and not a subclass, because Gradio writes a ``.pyi`` beside every module that subclasses a component.)
    """
    return gr.HTML(
        value,
        html_template=_TEMPLATE,
        js_on_load="".join((ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        apply_default_css=False,
        elem_id="scope",
    )


def asset_url(name: str) -> str:
    """Address of a public file, relative to the page, so that it also holds behind a proxy with a path of its own.

    It carries a hash of the file, so that a browser may keep it (`steering.ui.delivery`).
    """
    version = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:16]
    return f"gradio_api/file={(ASSETS / name).as_posix()}?v={version}"


# One program in parts, in this order: the last one starts it.
_SCRIPTS = ("scope-inspector.js", "scope-replay.js", "scope-picture.js", "scope.js")

_TEMPLATE = f"""
<div class="scope" data-plotly="{asset_url("plotly-cartesian.min.js")}">
  <section class="card" id="sc-linecard">
    <div class="card-head">
      <h2>{CHART_TITLE}</h2><span class="which" id="sc-which"></span>
    </div>
    {INSPECTOR}
    <p id="sc-no-plot"></p>
    <div class="plot">
      <div id="sc-line"></div>
      <div id="sc-names" aria-hidden="true">{"<span></span>" * (len(PLACES) + 1)}</div>
    </div>
  </section>
  <section class="card" id="sc-mapcard">
    <div class="card-head">
      <h2>{MAP_TITLE}</h2>
      <div id="sc-toggles">{column_buttons("Answer shown in the map", pressed=2)}</div>
    </div>
    <div id="sc-mapbox" tabindex="0" role="application" aria-roledescription="map" aria-describedby="sc-read"
         aria-label="Map of tokens and layers. Arrow keys move, Enter keeps a token, Escape lets it go.">
      <canvas></canvas>
      <p id="sc-empty">Fills word by word while the answers are written.</p>
    </div>
    <div class="card-foot">
      <p id="sc-read"></p>
      <div class="ramp"><span>less</span><i></i><span>more</span></div>
    </div>
  </section>
</div>
"""
