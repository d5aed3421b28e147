"""What stands in the page's file itself: the recorded example, readable before any script has run.

Gradio builds its page in the browser, which takes a second or two, and longer on a phone or over a slow line. Until
then the visitor sees this: the same answers, marks and lines, drawn here with the page's own style sheets. It lies over
the page in a shadow tree, so that neither the page's scripts nor its styles meet it, takes no clicks, is silent to
screen readers, and goes when the page can show the same (``assets/page.js``).
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steering.ui import markup
from steering.ui.carried import LINK_KEYS
from steering.ui.scope import ASSETS, parse

PLOT_HEIGHT = 242  # px of the lines' area on a desktop; on a phone it is 6 px higher
NAME_HEIGHT = 16  # px of a name at the end of a line
LAYER_STEP = 4
# As in assets/scope.js: the chart's upper and lower ends, of which the first that hold every cosine are taken.
UPPER_STEPS = (0.65, 0.92, 1.16)
LOWER_STEPS = (-0.2, -0.45, -0.7, -1.16)
RUNGS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
TABS = ("Chat", "Make a direction", "Blind test", "Explain", "Take it home", "How it works")


@dataclass(frozen=True)
class Console:
    """What the controls show as the page opens; ideas and besides are labels, of which the named one is chosen."""

    ideas: Sequence[str]
    idea: str
    question: str
    examples: Sequence[str]
    besides: Sequence[str]
    strength: float


class _Run:
    """The recorded run in a log: names, looks, tokens by column, and where each answer parts from the first."""

    def __init__(self, log: str) -> None:
        self.columns: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.tokens: dict[int, list[tuple[str, Any]]] = {}
        for kind, content in parse(log):
            if kind == "I":
                self.columns = content
            elif kind == "H":
                self.header = content
            elif kind == "T":
                _, column, text, cosines = content
                self.tokens.setdefault(column, []).append((text, cosines))

    @property
    def looks(self) -> Sequence[int]:
        return list(self.columns["looks"])

    def parting(self, column: int) -> int | None:
        """The first token that differs from the first column's; of the first column, the earliest of the others."""
        if column == 0:
            found = [part for other in range(1, len(self.tokens)) if (part := self.parting(other)) is not None]
            return min(found, default=None)
        pairs = zip(self.tokens[0], self.tokens[column], strict=False)
        return next((place for place, ((plain, _), (own, _)) in enumerate(pairs) if plain != own), None)


def first_paint(console: Console, log: str) -> str:
    """The markup for the beginning of the page's body; "" when the log holds no recorded run.

    log: the scope's first value (`steering.ui.scope`).
    """
    run = _Run(log)
    if not run.header.get("recorded") or not run.tokens:
        return ""
    body = f"""
<div class="first gradio-container"><div class="main app">
  <div id="topwrap">{markup.HEADER}</div>
  <div id="tabs"><div class="tab-wrapper"><div class="tab-container">{_tabs()}</div></div></div>
  <div id="tab-chat"><div class="column">
    {_console(console, run)}
    <div id="switcher">{markup.column_buttons("", pressed=0)}</div>
    <div id="panes">{"".join(_pane(run, column, console.question) for column in sorted(run.tokens))}</div>
    <div id="statusbar">{_status()}</div>
    <div id="scope"><div class="scope">{_chart(run)}{_map()}</div></div>
  </div></div>
</div></div>"""
    return (
        # As in frame.css, which comes with Gradio's scripts: without it the page would get narrower then.
        "<style>html { scrollbar-gutter: stable; overflow-x: hidden; background: #f6f5f2; }"
        "html:has(#first-paint.dark) { background: #131416; }</style>"
        '<div id="first-paint" aria-hidden="true" inert><template shadowrootmode="open">'
        f"<style>{_styles()}</style>{body}</template></div>\n<script>{_SCRIPT}</script>\n"
    )


# A link to something else opens with that; the colours are those that the page will have (`assets/page.js`).
_SCRIPT = f"""(() => {{
  const paint = document.getElementById('first-paint');
  const asked = new URLSearchParams(location.search);
  if (!paint.shadowRoot || {[*LINK_KEYS, "view"]!r}.some((key) => asked.has(key))) {{
    paint.remove();
    return;
  }}
  let dark = (asked.get('__theme') || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : '')) === 'dark';
  try {{
    const wanted = localStorage.getItem('steering-theme');
    if (wanted) dark = wanted === 'dark';
  }} catch {{
    // Storage may be off.
  }}
  paint.classList.toggle('dark', dark);
}})();"""


def _styles() -> str:
    frame, page, own = ((ASSETS / name).read_text(encoding="utf-8") for name in ("frame.css", "page.css", "first.css"))
    # What frame.css says of narrow screens outweighs page.css by naming the root, which a shadow tree has not.
    narrow = frame.replace(":root:root:root:root", ".first.first.first.first")
    narrow = narrow.replace(":root {", ":host {").replace("\n.dark {", "\n:host(.dark) {")
    without_comments = re.sub(r"/\*.*?\*/", "", page + narrow + own, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", without_comments).strip()


def _tabs() -> str:
    return "".join(
        f"<button{' class=selected' if place == 0 else ''}>{name}</button>" for place, name in enumerate(TABS)
    )


def _console(console: Console, run: _Run) -> str:
    ideas = "".join(_choice(idea, idea == console.idea) for idea in console.ideas)
    besides = "".join(_choice(beside, place == 0) for place, beside in enumerate(console.besides))
    examples = "".join(f'<button class="try-button">{_text(question)}</button>' for question in console.examples)
    sweet, end = run.columns.get("sweet"), run.columns.get("end") or 1
    zones = markup.ZONES.replace('id="zone-hint">', ">&nbsp;")
    if sweet:
        shares = "; ".join(f"--{name}: {min(1.0, value / end):.4f}" for name, value in zip("ab", sweet, strict=True))
        zones = zones.replace('data-measured="no"', f'data-measured="yes" style="{shares}"')
    return f"""
<div id="console">
  <div id="asking">
    <div id="idea"><span>Idea</span><div class="wrap">{ideas}</div></div>
    <div id="question"><div id="message"><p class="textarea">{_text(console.question)}</p></div>
      <p id="asks">Loading…</p></div>
    <div id="try"><span class="try-word">Try</span>{examples}</div>
  </div>
  <div id="strongly">
    <div id="strength"><div class="head"><span>How strongly</span><p class="number">{console.strength:g}</p></div>
      <div class="thumb" style="--at: {console.strength / end:.4f}"></div></div>
    <div id="zonewrap">{zones}</div>
    <div id="beside"><div class="wrap">{besides}</div></div>
  </div>
</div>"""


def _choice(label: str, is_chosen: bool) -> str:
    return f"<label{' class=selected' if is_chosen else ''}><span>{_text(label)}</span></label>"


def _pane(run: _Run, column: int, question: str) -> str:
    look = run.looks[column]
    count = len(run.tokens[column])
    head = markup.pane_head(column, _text(run.columns["names"][column])).replace(
        '<span class="pane-stats"></span>', f'<span class="pane-stats">{count} tokens</span>'
    )
    return f"""
<div class="pane" data-look="{look}">{head}<div class="chat">
  <p class="asked">{_text(question)}</p>
  <p class="said">{_answer(run, column)}</p>
</div></div>"""


def _answer(run: _Run, column: int) -> str:
    """The text of an answer, with what it shares with the first and the word at which it parts marked."""
    texts = [text for text, _ in run.tokens[column]]
    part = run.parting(column)
    if part is None or part >= len(texts):
        return _text("".join(texts).strip())
    before = "".join(texts[:part])
    word = texts[part]
    lead = word[: len(word) - len(word.lstrip())] if before else ""
    after = "".join(texts[part + 1 :]).rstrip()
    return (
        f'<span class="same">{_text(before.lstrip())}</span>{_text(lead)}'
        f'<span class="part">{_text(word.strip())}</span>{_text(word[len(word.rstrip()) :] + after)}'
    )


def _status() -> str:
    """As it is for most of the time that the example is looked at, so that what stands below keeps its place."""
    words = "Recorded example. Press “Ask all three” to run it live."
    actions = "".join(f'<button class="quiet">{name}</button>' for name in markup.ACTIONS)
    status = markup.STATUS.replace('id="status-words">', f'id="status-words">{words}').replace(" hidden>", ">")
    return f'<div id="status">{status}</div>{actions}<div id="takewrap">{markup.TAKE}</div>'


def _chart(run: _Run) -> str:
    shown = {column: run.tokens[column][-1][1] for column in sorted(run.tokens)}
    every = [value for tokens in run.tokens.values() for _, cosines in tokens for value in cosines]
    upper = next((step for step in UPPER_STEPS if step >= max(every)), UPPER_STEPS[-1])
    lower = next((step for step in LOWER_STEPS if step <= min(every)), LOWER_STEPS[-1])
    layers, layer = run.header["layers"], run.header.get("layer")
    left, right = -0.3, max(layers, 2) - 0.9

    def x(place: float) -> float:
        return 100 * (place - left) / (right - left)

    def y(value: float) -> float:
        return 100 * (upper - value) / (upper - lower)

    rungs = [value for value in RUNGS if lower < value < upper]
    lines = "".join(
        f'<path data-look="{run.looks[column]}" stroke-dasharray="{markup.DASHES[run.looks[column]]}" '
        f'd="M{" ".join(f"{x(place):.2f} {y(value):.2f}" for place, value in enumerate(cosines))}"/>'
        for column, cosines in shown.items()
    )
    steered = ""
    if layer is not None:
        side = "left" if x(layer) > 42 else "right"
        lines += f'<path class="steered" d="M{x(layer):.2f} 0V100"/>'
        steered = f'<b class="{side}" style="left: {x(layer):.2f}%">{_text(run.columns["added"])}, at layer {layer}</b>'
    rules = "".join(f'<path class="{"zero" if value == 0 else "rung"}" d="M0 {y(value):.2f}H100"/>' for value in rungs)
    rung_words = "".join(
        f'<i class="value" style="top: {y(value):.2f}%">{"none" if value == 0 else _signed(value)}</i>'
        for value in rungs
    )
    ticks = "".join(
        f'<i class="tick" style="left: {x(place):.2f}%">{_layer_word(place, layers)}</i>'
        for place in _layers_named(layers, layer)
    )
    names = "".join(
        f'<b class="name" data-look="{run.looks[column]}" style="top: {100 * at / PLOT_HEIGHT:.2f}%">'
        f"{_text(run.columns['short'][column])}</b>"
        for column, at in _line_ends({column: y(cosines[-1]) for column, cosines in shown.items()}).items()
    )
    return f"""
<section class="card"><div class="card-head"><h2>{markup.CHART_TITLE}</h2><span class="which">last token</span></div>
  <div class="plot"><div class="lines">
    <svg viewBox="0 0 100 100" preserveAspectRatio="none">{rules}{lines}</svg>
    {rung_words}{ticks}<i class="axis">layer</i>{names}{steered}
  </div></div>
</section>"""


def _map() -> str:
    return (
        f'<section class="card" id="sc-mapcard"><div class="card-head"><h2>{markup.MAP_TITLE}</h2><div id="sc-toggles">'
        f'{markup.column_buttons("", pressed=2)}</div></div><div id="sc-mapbox"></div><div class="card-foot"><p></p>'
        '<div class="ramp"><span>less</span><i></i><span>more</span></div></div></section>'
    )


def _layers_named(layers: int, steered: int | None) -> list[int]:
    """The layers that the axis names: first, last, the steered one, and every fourth that is not too near to those."""
    kept = sorted({0, layers - 1, *(() if steered is None else (steered,))})
    for place in range(LAYER_STEP, layers - 1, LAYER_STEP):
        if all(abs(other - place) > LAYER_STEP / 2 - 0.5 for other in kept):
            kept.append(place)
    return sorted(kept)


def _layer_word(layer: int, layers: int) -> str:
    return "first" if layer == 0 else "last" if layer == layers - 1 else str(layer)


def _line_ends(shares: dict[int, float]) -> dict[int, float]:
    """Where each line's name stands, in px from the top: at its line's end, pushed apart so that all can be read."""
    ends = [[column, PLOT_HEIGHT * share / 100] for column, share in shares.items()]
    ends.sort(key=lambda end: (end[1], -end[0]))
    for place, end in enumerate(ends):
        end[1] = max(end[1], ends[place - 1][1] + NAME_HEIGHT if place else NAME_HEIGHT / 2)
    for place, end in enumerate(reversed(ends)):
        end[1] = min(end[1], PLOT_HEIGHT - NAME_HEIGHT / 2 - NAME_HEIGHT * place)
    return {int(column): at for column, at in ends}


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _text(text: str) -> str:
    return html.escape(text, quote=False)
