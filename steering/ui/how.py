"""The tab that explains the page in six cards."""

from __future__ import annotations

import gradio as gr


def how_it_works() -> None:
    """Create the tab's content inside the current tab."""
    gr.HTML(html_template=_CARDS, js_on_load=None, apply_default_css=False, elem_id="how")


_NUMBERS = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <g class="soft" stroke-width="4" stroke-linecap="round">
    <path d="M16 34h62M16 47h48M16 60h66M16 73h34"/>
  </g>
  <path class="ink" d="M96 54h36M125 47l8 7-8 7"/>
  <g class="fill0">{squares}</g>
</svg>"""

_SHADES = ((0.75, 0.3, 0.15, 0.45), (0.2, 0.95, 0.6, 0.25), (0.9, 0.5, 0.85, 0.6), (0.4, 0.65, 0.12, 0.5))
_SQUARES = "".join(
    f'<rect x="{148 + 14 * column}" y="{27 + 14 * row}" width="10" height="10" rx="1" opacity="{shade}"/>'
    for row, shades in enumerate(_SHADES)
    for column, shade in enumerate(shades)
)

_ARROW = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <g class="fill0">
    <circle cx="34" cy="72" r="3.5"/><circle cx="47" cy="86" r="3.5"/><circle cx="60" cy="62" r="3.5"/>
    <circle cx="66" cy="83" r="3.5"/><circle cx="41" cy="61" r="3.5"/><circle cx="74" cy="68" r="3.5"/>
  </g>
  <g class="fill2">
    <circle cx="152" cy="26" r="3.5"/><circle cx="166" cy="29" r="3.5"/><circle cx="180" cy="31" r="3.5"/>
    <circle cx="184" cy="43" r="3.5"/><circle cx="158" cy="54" r="3.5"/><circle cx="172" cy="56" r="3.5"/>
  </g>
  <path class="ink" d="M53 74L166 41M156 38l10 3-7 8"/>
</svg>"""

_LAYERS = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <path class="edge" d="M8 54h204"/>
  <g class="slab">
    <rect x="20" y="28" width="14" height="52" rx="3"/><rect x="51" y="28" width="14" height="52" rx="3"/>
    <rect x="82" y="28" width="14" height="52" rx="3"/><rect x="113" y="28" width="14" height="52" rx="3"/>
    <rect x="144" y="28" width="14" height="52" rx="3"/><rect x="175" y="28" width="14" height="52" rx="3"/>
  </g>
  <path class="line2" d="M10 66C50 66 62 62 89 60l1-16c40-2 70-9 122-12"/>
  <path class="line1" d="M10 70h202"/>
</svg>"""

_CHART = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <path class="edge" d="M14 22v66h196"/>
  <path class="line0" d="M14 69c34 2 62-7 104-4 34 2 60 4 90 3"/>
  <path class="line1" d="M14 77h194"/>
  <path class="line2" d="M14 70c34 1 66-6 100-6l8-30c8-8 42 3 86 12"/>
  <path class="mark" d="M114 20v68"/>
</svg>"""

_LIMIT = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <rect class="breaks" x="142" y="24" width="64" height="64"/>
  <path class="edge" d="M12 88h194"/>
  <path class="line2" d="M12 82c46-4 60-46 106-46 22 0 30 12 46 28 14 14 26 20 42 22"/>
  <path class="mark" d="M142 24v64"/>
</svg>"""


def _card(number: int, picture: str, title: str, words: str) -> str:
    return (
        f'<section class="how-card"><div class="how-picture">{picture}</div>'
        f"<div><h2><span>{number}</span>{title}</h2><p>{words}</p></div></section>"
    )


_CODE = """for step in stream_side_by_side(model, messages,
        [Variant.baseline(), Variant.ablated(d),
         Variant.added(d, coefficient=1.0)]):
    step.texts     # the three answers so far
    step.cosines   # [variants, layers]"""

_CARDS = (
    '<div class="how">'
    + _card(
        1,
        _NUMBERS.format(squares=_SQUARES),
        "A model turns text into numbers",
        "At each layer, every word is a long list of numbers. Layer after layer the model reads this list and adds to "
        "it, until the next word comes out.",
    )
    + _card(
        2,
        _ARROW,
        "An idea is a direction",
        "Take texts that show an idea and texts that do not. Average the numbers of each group. The difference of the "
        "two averages points from one to the other: that is the direction.",
    )
    + _card(
        3,
        _LAYERS,
        "Take it out, or turn it up",
        "Taken out: at every layer the part along the direction is removed. Turned up: at one layer the direction is "
        "added. Nothing in the model is retrained.",
    )
    + _card(
        4,
        _CHART,
        "Read the chart",
        "The chart shows how closely the numbers point along the direction: the cosine, from −1 to 1. It is near 0 "
        "when the idea is taken out, and it jumps at the layer where it is turned up.",
    )
    + _card(
        5,
        _LIMIT,
        "What this does not show",
        "Taking an idea out is not forgetting it: the model still knows about it. Too much strength breaks the text. "
        "A small model makes mistakes in all three answers.",
    )
    + '<section class="how-card how-code"><h2>For researchers</h2><p>The method follows Arditi et al., '
    '<a href="https://arxiv.org/abs/2406.11717" target="_blank" rel="noopener">Refusal in Language Models Is Mediated '
    f'by a Single Direction</a> (NeurIPS 2024).</p><pre tabindex="0"><code>{_CODE}</code></pre></section></div>'
)
