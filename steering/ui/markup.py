"""The page's fixed pieces of HTML. Nothing from a person, a model or a file is ever put into them."""

from __future__ import annotations

import html
from collections.abc import Sequence

SHORT_NAMES = ("As it is", "Taken out", "Turned up", "Fourth", "Fifth")
COLUMNS_AT_FIRST = 3  # until the log names others
DASHES = ("2 2", "7 3", "none", "6 3 2 3", "9 2 2 2 2 2")  # by look
ACTIONS = ("Try again", "Undo", "Edit", "Clear", "Its card")  # in their order under the answers
CHART_TITLE = "How much of the idea is inside, layer by layer"
MAP_TITLE = "The same, word by word"
DESCRIPTION = "Chat with one small language model three ways: as it is, with one idea taken out, and with it turned up."


def _icon(paths: str, size: int = 16) -> str:
    return (
        f'<svg viewBox="0 0 16 16" width="{size}" height="{size}" fill="none" stroke="currentColor" stroke-width="1.5" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{paths}</svg>'
    )


_HALF = _icon('<circle cx="8" cy="8" r="6"/><path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" stroke="none"/>', 18)
_SLIDERS = _icon(
    '<path d="M2 4h6M12 4h2M2 8h1M7 8h7M2 12h7M13 12h1"/><circle cx="10" cy="4" r="1.7"/>'
    '<circle cx="5" cy="8" r="1.7"/><circle cx="11" cy="12" r="1.7"/>',
    18,
)
_LINK = _icon(
    '<path d="M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2.3-2.3a2.6 2.6 0 0 0-3.7-3.7l-.7.7M9.2 6.8a2.6 2.6 0 0 0-3.7 0L3.2 9.1'
    'a2.6 2.6 0 0 0 3.7 3.7l.7-.7"/>',
    18,
)
_BACK = _icon('<path d="M13 8H3M7 4L3 8l4 4"/>')
_ON = _icon('<path d="M3 8h10M9 4l4 4-4 4"/>')
_CLOSE = _icon('<path d="M4 4l8 8M12 4l-8 8"/>')
_COPY = _icon(
    '<rect x="5.5" y="5.5" width="8" height="8" rx="1.5"/><path d="M10.5 3.5v-.2c0-.6-.5-1-1-1H3.3c-.6 0-1 .4-1 1v6.2'
    'c0 .5.4 1 1 1h.2"/><path class="tick" d="M7.3 9.6l1.6 1.6 2.9-3.4"/>'
)
_WIDEN = _icon('<path d="M9.5 6.5L14 2M10 2h4v4M6.5 9.5L2 14M2 10v4h4"/>')


def swatch(look: int, width: int = 26) -> str:
    """The line that stands for a column wherever it is named: its colour and its dashes."""
    return (
        f'<svg class="swatch" data-look="{look}" viewBox="0 0 {width} 10" width="{width}" height="10" '
        f'aria-hidden="true"><line x1="0" y1="5" x2="{width}" y2="5" stroke-width="2.5" '
        f'stroke-dasharray="{DASHES[look]}"/></svg>'
    )


def column_buttons(label: str, pressed: int) -> str:
    """Toggle buttons, one a column; the script puts in other names and looks and moves the pressed one."""
    buttons = "".join(
        f'<button type="button" data-column="{column}" aria-pressed="{"true" if column == pressed else "false"}"'
        f"{'' if column < COLUMNS_AT_FIRST else ' hidden'}>{swatch(column, 16)}<span>{name}</span></button>"
        for column, name in enumerate(SHORT_NAMES)
    )
    return f'<div class="toggles" role="group" aria-label="{label}">{buttons}</div>'


def pane_head(column: int, name: str) -> str:
    """Swatch, name, token count, and the buttons that need no server."""
    return (
        f'<div class="pane-head">{swatch(column)}<h2 class="pane-name">{name}</h2><span class="pane-stats"></span>'
        f'<button type="button" class="icon copy" aria-label="Copy this answer" title="Copy this answer">{_COPY}'
        f'</button><button type="button" class="icon widen" aria-label="Widen this answer" aria-pressed="false" '
        f'title="Widen this answer">{_WIDEN}</button>'
        '<div class="replayed" hidden><p class="asked"></p><p class="said"></p></div></div>'
    )


def models_left_out(models: Sequence[tuple[str, str]]) -> str:
    """The models of the catalogue that this machine cannot take, and why; a list on demand."""
    rows = "".join(f"<li><b>{_literal(name)}</b> {_literal(reason)}</li>" for name, reason in models)
    return (
        f'<details class="left-out"><summary>{len(models)} more are not offered here</summary><ul>{rows}</ul></details>'
    )


def _literal(text: str) -> str:
    """A text for a template: neither markup nor one of Gradio's placeholders."""
    return html.escape(text).replace("{", "&#123;").replace("$", "&#36;")


HEADER = f"""
<header class="top">
  <h1>Steering playground</h1>
  <p class="tagline">Ask once. Read the same model three ways.</p>
  <button type="button" id="share" data-presses="share-now" aria-label="Copy link">
    {_LINK}<span>Copy link</span>
  </button>
  <button type="button" id="theme" aria-label="Dark colours">{_HALF}<span>Dark</span></button>
  <button type="button" id="open-settings" aria-label="Settings" aria-expanded="false">
    {_SLIDERS}<span>Settings</span>
  </button>
</header>
"""

ZONES = """
<div class="zones" data-measured="no">
  <div class="zone-track" aria-hidden="true"><i></i><i></i><i></i></div>
  <div class="zone-words" aria-hidden="true"><span>nothing</span><span>sweet spot</span><span>text breaks</span></div>
  <p class="zone-hint" id="zone-hint"></p>
</div>
"""

STATUS = """
<div class="status" data-s="idle"><i aria-hidden="true"></i><span id="status-words"></span>
  <button type="button" id="replay" hidden>Replay</button>
  <details id="recorded" class="menu" hidden>
    <summary>How it was made</summary><div><p>Made by</p><code></code></div>
  </details>
</div>
<div id="spoken" class="unseen" aria-live="polite"></div>
"""

BRANCH = '<span id="branch-words"></span>'

# The first two are made on the server: the script presses the hidden button that ``data-presses`` names.
TAKE = """
<details id="take" class="menu"><summary>Take it with you</summary><div>
  <button type="button" id="copy-markdown" data-presses="copy-markdown-now">Copy as Markdown</button>
  <button type="button" id="save-run" data-presses="save-run-now">Download run (JSON)</button>
  <button type="button" id="save-png">Plot as PNG</button>
  <button type="button" id="save-svg">Plot as SVG</button>
</div></details>
"""

INSPECTOR = f"""
<section id="sc-look" aria-labelledby="sc-look-title" hidden>
  <div class="look-head">
    <h2 id="sc-look-title" tabindex="-1"></h2>
    <button type="button" class="icon" data-step="-1" aria-label="The token before">{_BACK}</button>
    <button type="button" class="icon" data-step="1" aria-label="The token after">{_ON}</button>
    <button type="button" class="icon" data-close aria-label="Close">{_CLOSE}</button>
  </div>
  <div class="look-body" tabindex="0" role="group" aria-label="Likeliest tokens of each answer">
    <p id="sc-look-words"></p>
    <div id="sc-look-columns"></div>
    <p id="sc-look-wrote"></p>
  </div>
</section>
"""

TRY_HEAD = '<span class="try-word">Try</span><span id="question-note" hidden></span>'

SETTINGS_HEAD = f"""
<div class="drawer-head">
  <h2 id="settings-title">Settings</h2>
  <button type="button" class="icon" id="close-settings" aria-label="Close the settings">{_CLOSE}</button>
</div>
"""

FOOT = """
<footer class="foot">
  <span>A small model. It makes mistakes, in all three answers.</span> <a href="?view=api">Use it from code</a>
</footer>
"""
