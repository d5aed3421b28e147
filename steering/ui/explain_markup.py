"""The HTML of the “Explain” tab. Texts from people, models and the library pass through `escaped`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steering.explain_tables import csv_address
from steering.report_pictures import Line, chart
from steering.ui import explain_words as words
from steering.ui.explain_map import head_buttons, head_squares
from steering.ui.make_markup import problem_html
from steering.ui.make_words import escaped, visible_token
from steering.ui.markup import swatch

if TYPE_CHECKING:
    from steering.ui.explain_found import (
        BaseFound,
        Curve,
        Explained,
        Head,
        HeadBeside,
        Heads,
        Looks,
        Of,
        SuffixFound,
    )

WIDE, NARROW = 600, 290  # px of a chart where there is room, and on a phone
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


def section(title: str, content: str) -> str:
    """A card; ``title`` is ours."""
    return f'<section class="quality explain-card"><h2>{title}</h2>{content}</section>'


def waiting(title: str, said: str) -> str:
    """A card before anything was found; both are ours."""
    return f'<section class="quality waiting explain-card"><h2>{title}</h2><p>{said}</p></section>'


# ---------------------------------------------------------------- where it shows


def where_html(explained: Explained) -> str:
    """The two charts over the layers."""
    where, of = explained.where, explained.of
    sides, ways = words.sides_said(where, of), words.ways_said(where, of)
    problem = f'<p class="warning">{escaped(where.problem)}</p>' if where.problem else ""
    content = (
        f"{_of(of)}"
        f'<div class="explain-two"><div><h3>{words.SIDES}</h3><p>{escaped(sides)}</p>{_chart(where.sides, sides, of)}'
        f"</div><div><h3>{words.WAYS}</h3><p>{escaped(ways)}</p>{_chart(where.ways, ways, of)}{problem}</div>"
        f"</div>{_csv('profile.csv', where.csv, words.WHERE)}" + _more([words.WHERE_FIELD, *where.said])
    )
    return section(words.WHERE, content)


def _chart(curves: Mapping[str, Curve], said: str, of: Of) -> str:
    drawn = [
        Line(name, words.look(name), range(len(curve.mean)), curve.mean, curve.spread) for name, curve in curves.items()
    ]
    return _drawn(drawn, said, of, "cosine")


def _drawn(lines: Sequence[Line], said: str, of: Of, up: str) -> str:
    """A chart, twice: the page shows the one that it has room for."""
    mark = (float(of.layer), f"layer {of.layer}") if of.layer < of.n_layers else None
    wide = chart(lines, said, "layer", up, mark, width=WIDE)
    narrow = chart(lines, said, "layer", up, mark, width=NARROW, named=False)
    legend = "".join(f"<li>{swatch(int(line.look))}{escaped(line.name)}</li>" for line in lines)
    return (
        f'<div class="explain-wide">{wide}</div><div class="explain-narrow">{narrow}'
        f'<ul class="explain-legend" role="list">{legend}</ul></div>'
    )


# ---------------------------------------------------------------- heads


def heads_html(explained: Explained, chosen: Head | None) -> str:
    """The map of heads, and those that wrote most."""
    heads = explained.heads
    if heads is None or chosen is None:
        return section(words.HEADS, problem_html(explained.heads_problem))
    content = (
        f"{_of(explained.of)}<p>{escaped(words.heads_said(heads))}</p>{head_buttons(heads, chosen)}"
        f"{head_squares(heads, chosen)}"
        '<div class="squares-foot explain-key"><span class="ramp"><span>against</span><i></i><span>along</span></span>'
        '<span class="key-suggested">wrote most</span><span>Press a square to see where that head looks.</span></div>'
        f"{_csv('heads.csv', heads.csv, words.HEADS)}" + _more([words.HEADS_FIELD, *heads.said])
    )
    return section(words.HEADS, content)


def looks_html(explained: Explained, head: Head | None) -> str:
    """Where one head looks: the prompt shaded by its attention, and the shares of its parts."""
    looks, heads = explained.looks, explained.heads
    if heads is None or head is None:
        return ""
    if looks is None:
        return section(words.looks_title(head), problem_html(explained.looks_problem))
    said = words.looks_said(looks, head)
    content = (
        f'<p role="status">{escaped(_wrote(heads, head))} {escaped(said)}</p>{_shares(looks.shares(head))}'
        f"<h3>The prompt, shaded by where it looks</h3>{_shaded(looks, looks.of(head))}"
        f"<p>{escaped(_named(looks, looks.of(head)))}</p>"
        f"{_csv('attention.csv', words.looks_csv(looks, head), words.looks_title(head))}" + _more([words.LOOKS_FIELD])
    )
    return section(words.looks_title(head), content)


def mlp_html(explained: Explained, layer: int) -> str:
    """In the place of where a head looks: that an MLP looks nowhere."""
    assert explained.heads is not None
    return section(
        f"The MLP of layer {layer}", f'<p role="status">{escaped(words.mlp_said(explained.heads, layer))}</p>'
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
        f'title="{escaped(shown_token(piece))}: {words.percent(weight)}">{escaped(_in_text(piece))}</span>'
        for piece, part, weight in zip(looks.pieces, looks.parts, weights, strict=True)
    )
    return f'<p class="explain-shaded">{spans}</p>'


def _in_text(piece: str) -> str:
    """A token as it stands in the shaded text: marks of the template as ‹ ›, line breaks to be seen and kept."""
    if re.fullmatch(r"<\|?(.+?)\|?>", piece.strip()):
        return visible_token(piece)
    return piece.replace("\n", "↵\n")


def shown_token(piece: str) -> str:
    """A token in a sentence."""
    return visible_token(piece.strip() or piece)


def _named(looks: Looks, weights: Sequence[float]) -> str:
    first = sorted(range(len(weights)), key=lambda place: -weights[place])[:MOST_NAMED]
    named = ", ".join(f"“{shown_token(looks.pieces[place])}” ({words.percent(weights[place])})" for place in first)
    return f"Most of it to {named}."


# ---------------------------------------------------------------- suffix


def suffix_html(found: SuffixFound) -> str:
    """What a suffix changes: the line over the layers, and the heads before and after."""
    said = words.suffix_said(found)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Head", "As it is", "With the suffix", "Random ones"))
    table = (
        '<div class="table-box" tabindex="0" role="region" aria-label="The heads, before and after">'
        f'<table class="pairs explain-beside"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_beside(one) for one in found.heads)}</tbody></table></div>"
    )
    return (
        f'<div class="explain-found">{_of(found.of)}<p class="hint">The suffix “{escaped(words.short(found.suffix))}”.'
        f'</p><p role="status">{escaped(said)}</p><div class="explain-two"><div>{_chart(found.curves, said, found.of)}'
        f"{_csv('suffix.csv', found.csv, 'the layers with the suffix')}</div>"
        f"<div><h3>The heads that wrote most without it</h3>{table}"
        f"{_csv('suffix-heads.csv', found.heads_csv, 'the heads with the suffix')}</div></div>"
        f"{_more([words.suffix_field(found), *found.said])}</div>"
    )


def _beside(one: HeadBeside) -> str:
    plain, suffixed, random = one.wrote
    wrote = (words.wrote(plain), words.wrote(suffixed), f"{words.wrote(random)} ± {one.wrote_spread:.2g}")
    first = "".join(f"<td>{value}</td>" for value in wrote)
    parts = [part for part in one.looks[1] if part != words.TEMPLATE] + [words.TEMPLATE]
    more = "".join(
        f'<tr class="part"><th scope="row">looks to the {escaped(part)}</th>'
        + "".join(f"<td>{words.percent(shares[part]) if part in shares else '–'}</td>" for shares in one.looks)
        + "</tr>"
        for part in parts
    )
    return f'<tr><th scope="row">{escaped(words.head_name(one.head))} wrote</th>{first}</tr>{more}'


# ---------------------------------------------------------------- tokens, presets, base


def speaks_html(explained: Explained) -> str:
    """Promoted and demoted tokens, and the presets that the direction is like."""
    speaks = explained.speaks
    said = words.tokens_said(explained)
    lists = "".join(
        f'<div><h3>{title}</h3><ol class="explain-tokens">'
        + "".join(
            f"<li><code>{escaped(visible_token(text))}</code><span>{words.number(value)}</span></li>"
            for text, value in side
        )
        + "</ol></div>"
        for title, side in (("Likelier", speaks.promoted), ("Less likely", speaks.demoted))
    )
    presets = "".join(
        f'<div class="explain-share"><dt>{escaped(title)}</dt><dd>'
        f'<i class="{"against" if cosine < 0 else ""}" style="--value:{abs(cosine):.3f}"></i>'
        f"<span>{words.number(cosine)}</span></dd></div>"
        for title, cosine in speaks.presets
    )
    like = words.presets_said(speaks.presets)
    content = (
        f'{_of(explained.of)}<div class="explain-two"><div><p>{escaped(said)}</p>'
        f'<div class="explain-sides">{lists}</div>'
        f"{_csv('tokens.csv', speaks.tokens_csv, 'the tokens')}</div>"
        f'<div><h3>Like which other ideas</h3><p>{escaped(like)}</p><dl class="explain-shares">{presets}</dl>'
        f"{_csv('presets.csv', speaks.presets_csv, 'the other ideas') if speaks.presets else ''}</div></div>"
        + _more([words.SPEAKS_FIELD])
    )
    return section(words.SPEAKS, content)


def base_html(found: BaseFound) -> str:
    """How well both models tell the sides apart, layer by layer."""
    said = words.base_lead(found)
    lines = [Line(name, words.look(name), range(len(values)), values) for name, values in found.curves.items()]
    return (
        f'<div class="explain-found">{_of(found.of)}<p class="hint">Beside {escaped(found.base)}.</p>'
        f'<p role="status">{escaped(said)}</p>{_drawn(lines, said, found.of, "AUROC")}'
        f"{_csv('base.csv', found.csv, words.BASE)}{_more([found.said])}</div>"
    )


def base_off_html() -> str:
    """In the place of the base model where none is loaded."""
    return section(
        words.BASE, f'<p>{words.BASE_OFF}</p><pre class="home-code" tabindex="0">{escaped(words.BASE_COMMAND)}</pre>'
    )


# ---------------------------------------------------------------- parts


def _of(of: Of) -> str:
    return f'<p class="hint">{escaped(words.of_words(of))}</p>'


def _more(sentences: Sequence[str]) -> str:
    """One step deeper: the field’s words."""
    listed = "".join(f"<p>{escaped(sentence)}</p>" for sentence in sentences)
    return f"<details><summary>In the field’s words</summary>{listed}</details>"


def _csv(file: str, text: str, of_what: str) -> str:
    """A link that holds a table; ``file`` and ``of_what`` are ours."""
    return (
        f'<p class="explain-csv"><a download="{file}" href="{csv_address(text)}">Download CSV'
        f'<span class="unseen">: {of_what}</span></a></p>'
    )
