"""The HTML of the “Explain” tab's other cards: a suffix, what the direction speaks for, and the base model.

Texts from people, models and the library pass through `escaped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steering.report_pictures import Line
from steering.ui import explain_said as sentences
from steering.ui import explain_words as words
from steering.ui.explain_pieces import csv_link, curves_chart, field_words, lines_chart, of_html, section
from steering.ui.make_words import escaped, shortened

if TYPE_CHECKING:
    from steering.ui.explain_found import BaseFound, Explained, HeadBeside, SuffixFound


def suffix_html(found: SuffixFound) -> str:
    """What a suffix changes: the line over the layers, and the heads before and after."""
    said = sentences.suffix_said(found)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Head", "As it is", "With the suffix", "Random ones"))
    table = (
        '<div class="table-box" tabindex="0" role="region" aria-label="The heads, before and after">'
        f'<table class="pairs explain-beside"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_beside(one) for one in found.heads)}</tbody></table></div>"
    )
    return (
        f'<div class="explain-found">{of_html(found.of)}'
        f'<p class="hint">The suffix “{escaped(shortened(found.suffix))}”</p><p role="status">{escaped(said)}</p>'
        f'<div class="explain-two"><div>{curves_chart(found.curves, said, found.of)}'
        f"{csv_link('suffix.csv', found.csv, 'the layers with the suffix')}</div>"
        f"<div><h3>The heads that wrote most without it</h3>{table}"
        f"{csv_link('suffix-heads.csv', found.heads_csv, 'the heads with the suffix')}</div></div>"
        f"{field_words([sentences.suffix_field(found), *found.said])}</div>"
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
    said = sentences.tokens_said(speaks)
    lists = "".join(
        f'<div><h3>{title}</h3><ol class="explain-tokens">'
        + "".join(
            f"<li><code>{escaped(words.shown_token(text))}</code><span>{words.number(value)}</span></li>"
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
    like = sentences.presets_said(speaks.presets)
    content = (
        f'{of_html(explained.of)}<div class="explain-two"><div><p>{escaped(said)}</p>'
        f'<div class="explain-sides">{lists}</div>'
        f"{csv_link('tokens.csv', speaks.tokens_csv, 'the tokens')}</div>"
        f'<div><h3>Like which other ideas</h3><p>{escaped(like)}</p><dl class="explain-shares">{presets}</dl>'
        f"{csv_link('presets.csv', speaks.presets_csv, 'the other ideas') if speaks.presets else ''}</div></div>"
        + field_words([words.SPEAKS_FIELD])
    )
    return section(words.SPEAKS, content)


def base_html(found: BaseFound) -> str:
    """How well both models tell the sides apart, layer by layer."""
    said = sentences.base_said(found)
    lines = [Line(name, words.look(name), range(len(values)), values) for name, values in found.curves.items()]
    return (
        f'<div class="explain-found"><p class="hint">{escaped(words.beside_words(found.of, found.base))}</p>'
        f'<p role="status">{escaped(said)}</p>{lines_chart(lines, said, found.of, "AUROC")}'
        f"{csv_link('base.csv', found.csv, words.BASE)}{field_words([found.said])}</div>"
    )


def base_off_html() -> str:
    """In the place of the base model where none is loaded."""
    return section(
        words.BASE, f'<p>{words.BASE_OFF}</p><pre class="home-code" tabindex="0">{escaped(words.BASE_COMMAND)}</pre>'
    )
