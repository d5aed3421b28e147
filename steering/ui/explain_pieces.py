"""Pieces that the cards of the “Explain” tab are made of. Texts from elsewhere pass through `escaped`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steering.explain_tables import csv_address
from steering.report_pictures import Line, chart
from steering.ui import explain_words as words
from steering.ui.make_words import escaped
from steering.ui.markup import swatch

if TYPE_CHECKING:
    from steering.ui.explain_found import Curve, Of

WIDE, NARROW = 600, 290  # px of a chart where there is room, and on a phone


def section(title: str, content: str) -> str:
    """A card; ``title`` is ours."""
    return f'<section class="quality explain-card"><h2>{title}</h2>{content}</section>'


def waiting(title: str, said: str) -> str:
    """A card before anything was found; both are ours."""
    return f'<section class="quality waiting explain-card"><h2>{title}</h2><p>{said}</p></section>'


def curves_chart(curves: Mapping[str, Curve], said: str, of: Of) -> str:
    drawn = [
        Line(name, words.look(name), range(len(curve.mean)), curve.mean, curve.spread) for name, curve in curves.items()
    ]
    return lines_chart(drawn, said, of, "cosine")


def lines_chart(lines: Sequence[Line], said: str, of: Of, up: str) -> str:
    """A chart, twice: the page shows the one that it has room for."""
    mark = (float(of.layer), f"layer {of.layer}") if of.layer < of.n_layers else None
    wide = chart(lines, said, "layer", up, mark, width=WIDE)
    narrow = chart(lines, said, "layer", up, mark, width=NARROW, named=False)
    legend = "".join(f"<li>{swatch(int(line.look))}{escaped(line.name)}</li>" for line in lines)
    return (
        f'<div class="explain-wide">{wide}</div><div class="explain-narrow">{narrow}'
        f'<ul class="explain-legend" role="list">{legend}</ul></div>'
    )


def of_html(of: Of) -> str:
    return f'<p class="hint">{escaped(words.of_words(of))}</p>'


def field_words(sentences: Sequence[str]) -> str:
    """One step deeper: the field’s words."""
    listed = "".join(f"<p>{escaped(sentence)}</p>" for sentence in sentences)
    return f"<details><summary>In the field’s words</summary>{listed}</details>"


def csv_link(file: str, text: str, of_what: str) -> str:
    """A link that holds a table; ``file`` and ``of_what`` are ours."""
    return (
        f'<p class="explain-csv"><a download="{file}" href="{csv_address(text)}">Download CSV'
        f'<span class="unseen">: {of_what}</span></a></p>'
    )
