"""The report as one HTML page: its words, tables and pictures, with every figure as CSV beside them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering import explain_tables as tables
from steering.report_pictures import STYLE, Line, chart, head_map
from steering.version import library_version
from steering.whole_files import written_whole

if TYPE_CHECKING:
    from steering.report import Report

_STYLE = """
:root { --bg: #f6f5f2; --surf: #fff; --ink: #1a1c1f; --ink2: #43474d; --ink3: #5d6168; --line: #dedcd6;
  --v0: #59626e; --v1: #1f5fbf; --v2: #b4470f; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --bg: #131416; --surf: #1b1d20; --ink: #eceae5; --ink2: #c6c8cc;
  --ink3: #a0a4ab; --line: #303338; --v0: #aab4c0; --v1: #7db4ff; --v2: #ffab70 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/22px Inter, system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px }
h1 { margin: 0; font-size: 26px; line-height: 34px }
h2 { margin: 40px 0 4px; font-size: 18px; line-height: 26px }
p { margin: 4px 0; max-width: 72ch; color: var(--ink2) }
.lead { font-size: 16px; line-height: 24px }
.card { margin-top: 12px; padding: 14px; background: var(--surf); border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { padding: 4px 18px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } tr:last-child > * { border-bottom: 0 }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 12px }
.three > div { padding: 10px 12px; background: var(--surf); border: 1px solid var(--line); border-top: 3px solid;
  border-radius: 6px; overflow-wrap: anywhere }
.three h3 { margin: 0 0 4px; font-size: 14px } .three p { white-space: pre-line; color: var(--ink) }
.look0 { border-top-color: var(--v0) !important } .look1 { border-top-color: var(--v1) !important }
.look2 { border-top-color: var(--v2) !important }
.asked { margin: 16px 0 6px; color: var(--ink3) }
code { font: 13px/20px ui-monospace, monospace } pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
a { color: inherit } .csv { font-size: 13px }
@media print { .csv { display: none } .card, .three > div { break-inside: avoid } }
"""


def page(report: Report) -> str:
    """The whole file; nothing in it asks another machine for anything."""
    name = html.escape(report.direction.name)
    sections = [
        _head(report),
        _examples(report),
        _found(report),
        _strength(report),
        _layers(report),
        _heads(report),
        _tokens(report),
        _trust(report),
        _made(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{name} · steering report</title><style>{_STYLE}{STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def write_report(report: Report, path: Path) -> Path:
    """Write the report as one HTML file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(page(report), encoding="utf-8")
    return path


def _head(report: Report) -> str:
    direction, card = report.direction, report.direction.card
    data = f", learned from “{html.escape(str(card['data']))}”" if card.get("data") else ""
    return (
        f"<h1>{html.escape(direction.name)}</h1>"
        f'<p class="lead">A direction in the residual stream of {html.escape(report.model_label)}, read and added at '
        f"layer {direction.layer} of {report.n_layers}{data}. Its length is {direction.norm:.3g}; the stream there is "
        f"{direction.mean_residual_norm:.3g} long on average.</p>"
    )


def _examples(report: Report) -> str:
    panes = ("As it is", "Taken out", f"Turned up ({report.coefficient:.3g})")
    found = [
        "<h2>What it does</h2><p>The same harmless questions to the same model three ways, the likeliest token each "
        "time.</p>"
    ]
    for question, replies in report.replies.items():
        found.append(f'<p class="asked">{html.escape(question)}</p><div class="three">')
        found += [
            f'<div class="look{look}"><h3>{pane}</h3><p>{html.escape(text.strip())}</p></div>'
            for look, (pane, text) in enumerate(zip(panes, replies, strict=True))
        ]
        found.append("</div>")
    return "".join(found)


def _found(report: Report) -> str:
    card = report.direction.card
    rows: list[tuple[str, Any]] = []
    if "n_positive" in card:
        rows.append(("examples with the idea, without it", f"{card['n_positive']}, {card.get('n_negative')}"))
    scores, limits = _part(card, "scores"), _part(card, "limits")
    for score, words in (
        ("bypass", "left of the idea when it is taken out"),
        ("induce", "of the idea when it is added"),
        ("kl", "change of other answers, nats"),
    ):
        if score in scores:
            limit = f" (limit {limits[score]:.3g})" if isinstance(limits.get(score), int | float) else ""
            rows.append((f"{score}: {words}", f"{_number(scores[score])}{limit}"))
    if card.get("relaxed"):
        rows.append(("what was relaxed", str(card["relaxed"])))
    for key, words in (
        ("auroc", "AUROC on examples held out"),
        ("data_sha256", "hash of the examples"),
        ("seed", "seed"),
    ):
        if key in card:
            rows.append((words, _number(card[key])))
    if not rows:
        return ""
    body = "".join(f"<tr><th scope=row>{html.escape(a)}</th><td>{html.escape(str(b))}</td></tr>" for a, b in rows)
    return f'<h2>How it was found</h2><div class="card"><table>{body}</table></div>'


def _strength(report: Report) -> str:
    strength = _part(report.direction.card, "strength")
    coefficients, rises = _numbers(strength.get("coefficients")), _numbers(strength.get("rises"))
    if len(coefficients) != len(rises) or len(rises) < 2:
        return ""
    start, end = strength.get("start"), strength.get("end")
    said = (
        f"Answers get {rises[0]:.2f} nats a token less likely at {coefficients[0]:.3g} and {rises[-1]:.2f} at "
        f"{coefficients[-1]:.3g}."
    )
    mark = (float(start), "start") if isinstance(start, int | float) else None
    picture = chart([Line("turned up", "2", coefficients, rises)], said, "coefficient", "nats", mark)
    ends = f" Beyond {end:.3g} they break." if isinstance(end, int | float) else ""
    return (
        "<h2>How strongly</h2><p>How much less likely, for the model as it is, its answers get when the direction is "
        f"turned up. {html.escape(said)}{ends}</p>"
        + _card(picture, "strength.csv", ("coefficient", "rise"), list(zip(coefficients, rises, strict=True)))
    )


def _layers(report: Report) -> str:
    looks = {"the prompt": "0", "without it": "1", "with the idea": "2"}
    lines = [
        Line(name, looks[name], range(report.n_layers), found.mean.tolist(), found.spread.tolist())
        for name, found in report.profiles.items()
    ]
    said = " ".join(
        tables.peak_said(report.n_layers, name[0].upper() + name[1:], found) for name, found in report.profiles.items()
    )
    mark = (float(report.direction.layer), f"layer {report.direction.layer}")
    return (
        "<h2>Where it shows</h2><p>Cosine of the residual stream with the direction at the last token, layer by layer; "
        f"the band is one standard deviation. {html.escape(said)}</p>"
        + _card(
            chart(lines, said, "layer", "cosine", mark),
            "profile.csv",
            tables.PROFILE,
            tables.profile_rows(report.profiles),
        )
    )


def _heads(report: Report) -> str:
    found = report.heads
    columns = [*[str(head) for head in range(found.n_heads)], "MLP"]
    rows = [
        [*found.heads[layer, :, -1].tolist(), float(found.mlps[layer, -1])] for layer in range(found.heads.shape[0])
    ]
    top = found.top_heads()
    said = " ".join(tables.heads_said(found))
    picture = head_map(rows, columns, said, {(layer, head) for layer, head, _ in top})
    return (
        f"<h2>Which heads write it</h2><p>What each head and MLP wrote along the direction into the last token of "
        f"“{html.escape(report.prompt)}”, before the direction’s layer; orange along it, blue against it. "
        f"{html.escape(said)}</p>" + _card(picture, "heads.csv", tables.HEADS, tables.head_rows(found))
    )


def _tokens(report: Report) -> str:
    def listed(tokens: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"<code>{html.escape(repr(text))}</code>" for text, _ in tokens[:12])

    return (
        "<h2>What it speaks for</h2><p>The tokens that the direction itself would make likelier and less likely, seen "
        "through the last norm and the output matrix alone (logit lens). For a direction of a middle layer that need "
        "not say much.</p>"
        + _card(
            f"<p>Promoted: {listed(report.tokens.promoted)}</p><p>Demoted: {listed(report.tokens.demoted)}</p>",
            "tokens.csv",
            tables.TOKENS,
            tables.neighbour_rows(report.tokens),
        )
    )


def _trust(report: Report) -> str:
    sentences = _part(report.direction.card, "trust").get("sentences")
    if not isinstance(sentences, list) or not sentences:
        return ""
    listed = "".join(f"<p>{html.escape(str(one))}</p>" for one in sentences)
    return f'<h2>How far to trust it</h2><div class="card">{listed}</div>'


def _made(report: Report) -> str:
    commit = report.direction.card.get("revision") or "unknown"
    return (
        '<h2>How this was made</h2><div class="card">'
        f"<pre><code>{html.escape(report.command)}</code></pre>"
        f"<p>steering {html.escape(library_version())}; {html.escape(report.model_label)}, revision "
        f"{html.escape(str(commit))}. A small model makes mistakes, in all three answers.</p></div>"
    )


# ---------------------------------------------------------------- parts


def _part(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the card that is a table; a stranger's card may hold anything."""
    found = card.get(name)
    return found if isinstance(found, dict) else {}


def _numbers(values: Any) -> list[float]:
    """The numbers of a list; none where it is not a list of numbers alone."""
    is_list = isinstance(values, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in values)
    return [float(x) for x in values] if is_list else []


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _card(content: str, file: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A picture with its figures as a file to take along."""
    link = tables.csv_address(tables.as_csv(head, rows))
    named = f'<a download="{file}" href="{link}">These figures as CSV</a>'
    return f'<div class="card">{content}</div><p class="csv">{named}</p>'
