"""The HTML of the “Explain” tab. Texts from people, models and the library pass through `escaped`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steering.ui import explain_said as sentences
from steering.ui import explain_words as words
from steering.ui.explain_map import head_buttons, head_squares
from steering.ui.explain_pieces import csv_link, curves_chart, field_words, of_html, section
from steering.ui.make_markup import problem_html
from steering.ui.make_words import escaped, visible_token

if TYPE_CHECKING:
    from steering.ui.explain_found import Explained, Head, Heads, Looks, Of

MOST_NAMED = 3  # tokens that are named under a shaded text


def what_html(title: str, model: str, shown: Of | None) -> str:
    """What is looked into now; and where what is shown was found of something else, of what."""
    other = ""
    if shown is not None and (shown.title, shown.model) != (title, model):
        other = f'<p class="hint">What is shown below was found of {escaped(words.of_words(shown))}.</p>'
    return (
        f'<h2 class="home-title">{escaped(words.heading(title, model))}</h2>'
        f'<p class="step-words">{words.INTRO}</p>{other}'
    )


# ---------------------------------------------------------------- where it shows


def where_html(explained: Explained) -> str:
    """The two charts over the layers."""
    where, of = explained.where, explained.of
    sides, ways = sentences.sides_said(where, of), sentences.ways_said(where, of)
    curves = {**(where.texts.curves if where.texts else {}), words.YOUR_PROMPT: where.prompt}
    problem = f'<p class="warning">{escaped(where.problem)}</p>' if where.problem else ""
    content = (
        f"{of_html(of)}"
        f'<div class="explain-two"><div><h3>{words.SIDES}</h3><p>{escaped(sides)}</p>{curves_chart(curves, sides, of)}'
        f"</div><div><h3>{words.WAYS}</h3><p>{escaped(ways)}</p>{curves_chart(where.ways, ways, of)}{problem}</div>"
        f"</div>{csv_link('profile.csv', where.csv, words.WHERE)}" + field_words([words.WHERE_FIELD, *where.said])
    )
    return section(words.WHERE, content)


# ---------------------------------------------------------------- heads


def heads_html(explained: Explained, chosen: Head | None) -> str:
    """The map of heads, and those that wrote most."""
    heads = explained.heads
    if heads is None or chosen is None:
        return section(words.HEADS, problem_html(explained.heads_problem))
    content = (
        f"{of_html(explained.of)}<p>{escaped(sentences.heads_said(heads))}</p>{head_buttons(heads, chosen)}"
        f"{head_squares(heads, chosen)}"
        '<div class="squares-foot explain-key"><span class="ramp"><span>against</span><i></i><span>along</span></span>'
        '<span class="key-suggested">wrote most</span><span>Press a square to see where that head looks.</span></div>'
        f"{csv_link('heads.csv', heads.csv, words.HEADS)}" + field_words([words.HEADS_FIELD, *heads.said])
    )
    return section(words.HEADS, content)


def looks_html(explained: Explained, head: Head | None) -> str:
    """Where one head looks: the prompt shaded by its attention, and the shares of its parts."""
    looks, heads = explained.looks, explained.heads
    if heads is None or head is None:
        return ""
    if looks is None:
        return section(words.looks_title(head), problem_html(explained.looks_problem))
    said = sentences.looks_said(looks, head)
    content = (
        f'<p role="status">{escaped(_wrote(heads, head))} {escaped(said)}</p>{_shares(looks.shares(head))}'
        f"<h3>The prompt, shaded by where it looks</h3>{_shaded(looks, looks.of(head))}"
        f"<p>{escaped(_named(looks, looks.of(head)))}</p>"
        f"{csv_link('attention.csv', sentences.looks_csv(looks, head), words.looks_title(head))}"
        + field_words([words.LOOKS_FIELD])
    )
    return section(words.looks_title(head), content)


def mlp_html(explained: Explained, layer: int) -> str:
    """In the place of where a head looks: that an MLP looks nowhere."""
    assert explained.heads is not None
    return section(
        f"The MLP of layer {layer}", f'<p role="status">{escaped(sentences.mlp_said(explained.heads, layer))}</p>'
    )


def _wrote(heads: Heads, head: Head) -> str:
    return f"It wrote {words.wrote(heads.wrote(head))} along the direction."


def _shares(shares: Mapping[str, float]) -> str:
    rows = "".join(
        f'<div class="explain-share"><dt>{escaped(part)}</dt><dd><i style="--value:{share:.3f}"></i>'
        f"<span>{words.percent(share)}</span></dd></div>"
        for part, share in shares.items()
    )
    return f'<dl class="explain-shares">{rows}</dl>'


def _shaded(looks: Looks, weights: Sequence[float]) -> str:
    most = max(weights) or 1.0
    spans = "".join(
        f'<span class="{"t" if part == words.TEMPLATE else "i"}" style="--w:{(weight / most) ** 0.5:.2f}" '
        f'title="{escaped(words.shown_token(piece))}: {words.percent(weight)}">{escaped(_in_text(piece))}</span>'
        for piece, part, weight in zip(looks.pieces, looks.parts, weights, strict=True)
    )
    return f'<p class="explain-shaded">{spans}</p>'


def _in_text(piece: str) -> str:
    """A token as it stands in the shaded text: marks of the template as ‹ ›, line breaks to be seen and kept."""
    if re.fullmatch(r"<\|?(.+?)\|?>", piece.strip()):
        return visible_token(piece)
    return piece.replace("\n", "↵\n")


def _named(looks: Looks, weights: Sequence[float]) -> str:
    first = sorted(range(len(weights)), key=lambda place: -weights[place])[:MOST_NAMED]
    named = ", ".join(
        f"“{words.shown_token(looks.pieces[place])}” ({words.percent(weights[place])})" for place in first
    )
    return f"Most of it to {named}."
