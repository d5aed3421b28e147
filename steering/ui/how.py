"""The tab that explains the page: five panels, plain words first, and a card for researchers."""

from __future__ import annotations

import gradio as gr


def how_it_works() -> None:
    """Create the tab's content inside the current tab."""
    gr.HTML(html_template=_CARDS, js_on_load=None, apply_default_css=False, elem_id="how")


_DIRECTION = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <g class="soft" stroke-width="4" stroke-linecap="round"><path d="M10 40h44M10 53h34M10 66h40"/></g>
  <path class="ink" d="M64 54h20M78 48l7 6-7 6"/>
  <g class="fill0">{squares}</g>
  <path class="edge" d="M162 84h48M166 88V30"/>
  <path class="line2" d="M166 84L204 42M194 45l10-3-1 10"/>
</svg>"""

_SHADES = ((0.75, 0.3), (0.2, 0.95), (0.9, 0.5), (0.4, 0.65))
_SQUARES = "".join(
    f'<rect x="{98 + 14 * column}" y="{27 + 14 * row}" width="10" height="10" rx="1" opacity="{shade}"/>'
    for row, shades in enumerate(_SHADES)
    for column, shade in enumerate(shades)
)

_FOUND = """
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

_SLABS = "".join(f'<rect x="{x}" y="28" width="14" height="52" rx="3"/>' for x in (20, 51, 82, 113, 144, 175))

_OUT = f"""
<svg viewBox="0 0 220 110" aria-hidden="true">
  <path class="edge" d="M8 70h204"/><g class="slab">{_SLABS}</g>
  <path class="line0" d="M10 66C50 66 62 60 100 58s70-6 112-14"/>
  <path class="line1" d="M10 70h202"/>
</svg>"""

_UP = f"""
<svg viewBox="0 0 220 110" aria-hidden="true">
  <path class="edge" d="M8 70h204"/><g class="slab">{_SLABS}</g>
  <path class="line0" d="M10 66C50 66 62 64 100 63s70-3 112-5"/>
  <path class="line2" d="M10 66C50 66 62 64 120 62l1-26c40 2 60 4 91 8"/>
  <path class="mark" d="M120 18v70"/>
</svg>"""

_LIMIT = """
<svg viewBox="0 0 220 110" aria-hidden="true">
  <rect class="breaks" x="142" y="24" width="64" height="64"/>
  <path class="edge" d="M12 88h194"/>
  <path class="line2" d="M12 82c46-4 60-46 106-46 22 0 30 12 46 28 14 14 26 20 42 22"/>
  <path class="mark" d="M142 24v64"/>
</svg>"""


def _card(number: int, picture: str, title: str, words: str, deeper: str) -> str:
    return (
        f'<section class="how-card"><div class="how-picture">{picture}</div>'
        f"<div><h2><span>{number}</span>{title}</h2><p>{words}</p>"
        f'<details><summary>In the field’s words<i class="unseen">: {title}</i></summary><p>{deeper}</p></details>'
        "</div></section>"
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
        _DIRECTION.format(squares=_SQUARES),
        "What a direction is",
        "Inside the model every word is a long list of numbers. Such a list is a point in a very large space. An idea, "
        "such as “cheerful”, turns out to be a direction in it: the further along, the more of the idea.",
        "The residual stream of a decoder is a vector at each token and layer, to which every block adds. A direction "
        "is a unit vector there. The chart shows the stream’s cosine with it, from −1 to 1, layer by layer; the map "
        "shows the same for every token.",
    )
    + _card(
        2,
        _FOUND,
        "How it is found",
        "Take texts that show an idea and texts that do not. Average the numbers of each group. The difference of the "
        "two averages points from one group to the other: that is the direction.",
        "Difference in means of the activations at one layer and one position after the instruction. Every pair of "
        "layer and position is a candidate; the one is kept that works when it is taken out and when it is turned "
        "up and changes other answers least, measured on texts it had not seen.",
    )
    + _card(
        3,
        _OUT,
        "Taken out",
        "At every layer, the part of each list that points along the direction is removed. What is left cannot say how "
        "much of the idea there was. Nothing in the model is retrained.",
        "Directional ablation: <var>x</var> − <var>r</var>(<var>r</var>·<var>x</var>) for the unit vector "
        "<var>r</var>, at every layer and token; or, centred, back to the usual value along <var>r</var> in place of "
        "0. Written into the weights it is the same for every prompt (weight orthogonalisation).",
    )
    + _card(
        4,
        _UP,
        "Turned up",
        "At one layer the direction is added to every word. The strength says how much of it: you can move it while "
        "the answer is being written, and the next word already follows.",
        "Activation addition: <var>x</var> + <var>c</var><var>r</var> at the layer where <var>r</var> was found. A "
        "random direction of equal length and a plain request in the system prompt are the controls: the buttons under "
        "the strength put them beside it.",
    )
    + _card(
        5,
        _LIMIT,
        "What it cannot do",
        "Taking an idea out is not forgetting it: the model still knows about it. Too much strength breaks the text. "
        "A small model makes mistakes in all its answers.",
        "One direction is a linear, single-layer account of what may be spread over several. Ablation does not remove "
        "knowledge, an effect on one set of prompts need not hold on another, and a high cosine is no proof that the "
        "model uses the direction.",
    )
    + '<section class="how-card how-code"><h2>For researchers</h2><p>The method follows Arditi et al., '
    '<a href="https://arxiv.org/abs/2406.11717" target="_blank" rel="noopener">Refusal in Language Models Is Mediated '
    f'by a Single Direction</a> (NeurIPS 2024).</p><pre tabindex="0"><code>{_CODE}</code></pre></section></div>'
)
