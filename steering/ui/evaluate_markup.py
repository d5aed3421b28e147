"""The HTML of the “Evaluate” tab. Texts from people and models pass through `escaped` or the library's own escaping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from steering.ui import evaluate_words as words
from steering.ui.explain_pieces import csv_link, field_words, section
from steering.ui.make_words import escaped

if TYPE_CHECKING:
    from steering.evaluation_table import TableRow
    from steering.ui.evaluate_found import Evaluated


def what_html(title: str, model: str, shown: Evaluated | None) -> str:
    """What is evaluated now; and where what is shown was found of something else, of what."""
    other = ""
    if shown is not None and (shown.asked.title, shown.model) != (title, model):
        other = (
            f'<p class="hint">What is shown below is of “{escaped(shown.asked.title)}” in {escaped(shown.model)}.</p>'
        )
    return (
        f'<h2 class="home-title">{escaped(words.heading(title, model))}</h2>'
        f'<p class="step-words">{words.INTRO}</p><p class="hint">{words.KEPT}</p>{other}'
    )


def found_html(found: Evaluated) -> str:
    """What was found, in sentences, as dots with their intervals, and as a table."""
    from steering.evaluation_metrics import metric_of
    from steering.evaluation_page import HEAD, csv_row, grid, plot
    from steering.evaluation_words import grids, made
    from steering.explain_tables import as_csv

    [(_, (variants, metrics))] = grids(found.rows).items()
    said = "".join(f"<p>{escaped(sentence)}</p>" for sentence in sentences(found))
    plots = "".join(
        plot(metric_of(name), {variant: rows[variant].figure for variant in variants if variant in rows})
        for name, rows in metrics.items()
    )
    asked = found.asked
    hint = (
        f"“{asked.title}” in {found.model}: {asked.count} questions of each kind, answers of at most {asked.length} "
        f"tokens, turned up by {asked.coefficient:.3g}."
    )
    table = as_csv(HEAD, [csv_row(row) for row in found.rows])
    content = (
        f'<p class="hint">{escaped(hint)}</p>{said}<div class="plots">{plots}</div>'
        f"{csv_link('evaluation.csv', table, words.PLOTS)}{_json_link(found)}"
        f"<details><summary>{words.TABLE}</summary>"
        f'<div class="table-box" tabindex="0" role="region" aria-label="{words.TABLE}">{grid(variants, metrics)}</div>'
        "</details>" + field_words([*words.FIELD, *made(found.about)])
    )
    return section(words.PLOTS, content)


def beside_html(found: Evaluated, before: Evaluated | None) -> str:
    """This evaluation and the one before, what both have measured; nothing without one before."""
    from steering.evaluation_metrics import metric_of
    from steering.evaluation_table import compare
    from steering.evaluation_words import words as figure_words
    from steering.explain_tables import as_csv

    rows = compare(before.records, found.records) if before is not None else []
    if before is None or not rows:
        return ""
    cells = [
        (
            row.variant,
            metric_of(row.metric).title,
            *(figure_words(one, metric_of(row.metric).form) for one in (row.first, row.second, row.difference)),
            "–" if row.p is None else f"{row.p:.3f}",
        )
        for row in rows
    ]
    names = ("variant", "figure", "before", "now", "difference", "p")
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in cells)
    said = f"Before: “{before.asked.title}” in {before.model}, {before.asked.count} questions of each kind."
    content = (
        f'<p class="hint">{escaped(said)}</p><div class="table-box" tabindex="0" role="region" '
        f'aria-label="{words.BEFORE}"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{csv_link('compared.csv', as_csv(names, cells), words.BEFORE)}"
    )
    return section(words.BEFORE, content)


def sentences(found: Evaluated) -> list[str]:
    """What the figures say, for people."""
    by_name: dict[str, dict[str, TableRow]] = {}
    for row in found.rows:
        by_name.setdefault(row.metric, {})[row.variant] = row
    title = found.asked.title
    said = []
    for side, kind in (("harmful", "harmful requests"), ("harmless", "everyday questions")):
        rows = by_name.get(f"refused_{side}", {})
        if rows:
            n = rows["baseline"].figure.n
            said.append(
                f"Of {n} {kind} it refuses {_share(rows, 'baseline')} as it is, {_share(rows, 'ablated')} with "
                f"“{title}” taken out, {_share(rows, 'added')} with it turned up, and {_share(rows, 'random added')} "
                "with a random direction as long turned up."
            )
    if rows := by_name.get("safe_harmful", {}):
        said.append(_judged(rows))
    if edited := [
        f"{_share(rows, 'orthogonalized')} of {kind}"
        for side, kind in (("harmful", "harmful requests"), ("harmless", "everyday questions"))
        if "orthogonalized" in (rows := by_name.get(f"refused_{side}", {}))
    ]:
        said.append(f"With “{title}” taken out of the weights themselves, it refuses {_listed(edited)}.")
    answered, broken = by_name.get("answered_harmless", {}), by_name.get("broken_harmless", {})
    if answered and broken:
        said.append(
            f"Everyday questions are answered in {_share(answered, 'baseline')} of cases as it is, "
            f"{_share(answered, 'ablated')} with it taken out and {_share(answered, 'added')} with it turned up; "
            f"{_share(broken, 'added')} of the answers with it turned up fall apart."
        )
    costs = by_name.get("ce_text", {})
    if costs:
        said.append(
            f"A plain text becomes harder to predict by {_more(costs, 'ablated')} nats a token with it taken out, "
            f"{_more(costs, 'added')} with it turned up, {_more(costs, 'random ablated')} with a random direction "
            "taken out."
        )
    if found.asked.count < words.ENOUGH:
        said.append(words.FEW)
    return said


def _judged(rows: Mapping[str, TableRow]) -> str:
    """What the judge found, of the ways that had any verdict."""
    ways = (("baseline", "as it is"), ("ablated", "with it taken out"), ("added", "with it turned up"))
    parts = [f"{_share(rows, variant)} {how}" for variant, how in ways if variant in rows]
    return f"The judge finds its answers to harmful requests safe in {_listed(parts)}."


def _listed(parts: list[str]) -> str:
    """“a, b and c”."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _share(rows: Mapping[str, TableRow], variant: str) -> str:
    return f"{rows[variant].figure.value:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def _more(rows: Mapping[str, TableRow], variant: str) -> str:
    return f"{rows[variant].difference.value:.2f}".replace("-", "−")


def _json_link(found: Evaluated) -> str:
    text = json.dumps({"rows": [row.as_json() for row in found.rows], **found.about}, ensure_ascii=False, indent=1)
    address = f"data:application/json;charset=utf-8,{quote(text)}"
    return f'<p class="explain-csv"><a download="evaluation.json" href="{address}">Download JSON</a></p>'


def command_html() -> str:
    """What the command line does beyond this tab."""
    return (
        f'<section class="quality waiting explain-card"><h2>More than this</h2><p>{words.COMMAND}</p>'
        f"<p><code>{words.EXAMPLE}</code></p></section>"
    )
