"""An evaluation as one HTML page: a plot of each figure with its intervals, the tables, and how it was made."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steering.contestants import ABLATED, BASELINE, ORTHOGONALIZED, RANDOM_ABLATED, RANDOM_ADDED, SUBTRACTED
from steering.evaluation_metrics import HARMFUL, HARMLESS, Metric, metric_of
from steering.evaluation_table import ComparedRow, TableRow
from steering.evaluation_words import LEGEND, compared_parts, grids, heading, is_sure, made, overview, words
from steering.figures import Figure
from steering.report_pictures import Dot, dots
from steering.report_shell import document, with_csv
from steering.whole_files import written_whole

TAKEN_OUT = (ABLATED, ORTHOGONALIZED, SUBTRACTED, RANDOM_ABLATED)
HEAD = ("model", "system", "variant", "metric", "value", "low", "high", "n", "difference", "p")


def page(rows: Sequence[TableRow], about: dict[str, Any]) -> str:
    """The whole file.

    Args:
        about: as in the JSON: ``command``, ``data``, ``data_sha256``, ``seed``, ``systems``, ``judge``, ``versions``.
    """
    systems: list[str] = about.get("systems", [""])
    sections = [f'<h1>Evaluation</h1><p class="lead">{html.escape(_lead(rows))}</p>']
    if len(grids(rows)) > 1:
        titles, lines = overview(rows, systems)
        sections.append("<h2>All together</h2>")
        sections.append(with_csv(_overview(titles, lines), "overview.csv", ("model", "variant", *titles), lines))
    for (model, system), (variants, metrics) in grids(rows).items():
        name = html.escape(heading(model, systems, system))
        plots = "".join(
            plot(metric_of(metric), {v: found[v].figure for v in variants if v in found})
            for metric, found in metrics.items()
        )
        sections.append(f'<h2>{name}</h2><div class="plots">{plots}</div>')
        own = [row for found in metrics.values() for row in found.values()]
        sections.append(with_csv(grid(variants, metrics), "evaluation.csv", HEAD, [csv_row(row) for row in own]))
    sections.append(f"<p>{html.escape(LEGEND)}</p>")
    if about.get("findings"):
        found = "".join(f"<p>{html.escape(line).replace('**', '')}</p>" for line in about["findings"])
        sections.insert(1, f'<h2>Beside the paper</h2><div class="card">{found}</div>')
    how = "".join(f"<p>{html.escape(line).replace('`', '')}</p>" for line in made(about))
    sections.append(f'<h2>How this was made</h2><div class="card">{how}</div>')
    return document("Steering evaluation", sections)


def compared_page(rows: Sequence[ComparedRow], names: tuple[str, str], systems: Sequence[str] = ("",)) -> str:
    """Two runs side by side, as a page."""
    sections = [f'<h1>Two evaluations</h1><p class="lead">{html.escape(names[0])} and {html.escape(names[1])}.</p>']
    looks = {names[0]: "0", names[1]: "2"}
    parts = [
        (over, variant, [row for row in part if row.variant == variant])
        for over, part in compared_parts(rows, systems).items()
        for variant in dict.fromkeys(row.variant for row in part)
    ]
    for over, variant, own in parts:
        plots = "".join(plot(metric_of(row.metric), {names[0]: row.first, names[1]: row.second}, looks) for row in own)
        title = f"{over}: {variant}" if over else variant
        sections.append(f'<h2>{html.escape(title)}</h2><div class="plots">{plots}</div>')
        cells = [(row.metric, words(row.difference, metric_of(row.metric).form), _p(row.p)) for row in own]
        body = "".join(
            f"<tr><th scope=row>{html.escape(metric_of(name).title)}</th><td>{difference}</td><td>{p}</td></tr>"
            for name, difference, p in cells
        )
        head = "<tr><th scope=col>figure</th><th scope=col>difference</th><th scope=col>p</th></tr>"
        sections.append(
            with_csv(
                f'<table class="figures">{head}{body}</table>', "compared.csv", ("metric", "difference", "p"), cells
            )
        )
    return document("Two steering evaluations", sections)


def write_page(text: str, path: Path) -> Path:
    """Write a page, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def forest(figures: Mapping[str, Figure], metric: Metric, looks: Mapping[str, str] | None = None) -> str:
    """A dot and its interval for each variant, as SVG; random directions are hollow.

    Args:
        looks: "0", "1" or "2" for some of them, the page's three colours; by default what the variant does.
    """
    known = {name: figure for name, figure in figures.items() if math.isfinite(figure.value)}
    ends = _range(metric, list(known.values()))
    rows = [
        Dot(
            name,
            (looks or {}).get(name) or _look(name),
            figure.value,
            figure.low,
            figure.high,
            format(figure.value, metric.form),
            name in (RANDOM_ABLATED, RANDOM_ADDED),
        )
        for name, figure in known.items()
    ]
    said = f"{metric.title}: " + "; ".join(f"{name} {words(figure, metric.form)}" for name, figure in known.items())
    return dots(rows, said, ends, (format(ends[0], metric.form), format(ends[1], metric.form)))


def _range(metric: Metric, figures: Sequence[Figure]) -> tuple[float, float]:
    if metric.is_share:
        return 0.0, 1.0
    low = min((figure.low for figure in figures), default=0.0)
    high = max((figure.high for figure in figures), default=1.0)
    margin = 0.05 * (high - low) or 0.5
    return (0.0 if 0 <= low < high / 2 else low - margin), high + margin


def _look(name: str) -> str:
    return "0" if name == BASELINE else "1" if name in TAKEN_OUT else "2"


def plot(metric: Metric, figures: Mapping[str, Figure], looks: Mapping[str, str] | None = None) -> str:
    """The plot of one metric with its title, as HTML."""
    caption = f"<figcaption>{html.escape(metric.title)}<span>{html.escape(metric.about)}</span></figcaption>"
    return f"<figure>{caption}{forest(figures, metric, looks)}</figure>"


def grid(variants: Sequence[str], metrics: Mapping[str, Mapping[str, TableRow]]) -> str:
    """The table of one model and system prompt, a metric a line, as HTML."""
    head = "".join(f"<th scope=col>{html.escape(variant)}</th>" for variant in variants)
    body = []
    for name, found in metrics.items():
        metric = metric_of(name)
        cells = []
        for variant in variants:
            row = found.get(variant)
            sure = row is not None and is_sure(row)
            text = "–" if row is None else words(row.figure, metric.form) + (" *" if sure else "")
            cells.append(f"<td{' class=sure' if sure else ''}>{html.escape(text)}</td>")
        body.append(f"<tr><th scope=row>{html.escape(metric.title)}</th>{''.join(cells)}</tr>")
    return f'<table class="figures"><tr><td></td>{head}</tr>{"".join(body)}</table>'


def _overview(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope=col>{html.escape(title)}</th>" for title in ("model", "variant", *titles))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<table class="figures"><tr>{head}</tr>{body}</table>'


def _lead(rows: Sequence[TableRow]) -> str:
    models = list(dict.fromkeys(row.model for row in rows))
    prompts = max((row.figure.n for row in rows if metric_of(row.metric).side in (HARMFUL, HARMLESS)), default=0)
    return (
        f"{' and '.join(models)}: every way to answer, beside the model as it is. "
        + (f"Over at most {prompts} prompts of a kind, the same for all. " if prompts else "")
        + "Lines are 95 % intervals."
    )


def csv_row(row: TableRow) -> list[Any]:
    """A row of the table as CSV, under :data:`HEAD`."""
    figure, difference = row.figure.as_card(), row.difference.as_card()
    return [
        *(row.model, row.system, row.variant, row.metric),
        *(figure["value"], figure["low"], figure["high"], figure["n"]),
        *(difference["value"], row.p),
    ]


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}"
