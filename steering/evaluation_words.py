"""An evaluation for people: its table in Markdown, what the figures say, and how they were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steering.contestants import BASELINE
from steering.evaluation_metrics import metric_of
from steering.evaluation_table import ComparedRow, TableRow
from steering.figures import Figure

SURE = 0.05  # below it a difference is marked
LEGEND = (
    "In brackets 95 % intervals (shares: Wilson; means: bootstrap over prompts). * differs from the baseline on the "
    "same prompts with p < 0.05 (shares: McNemar, exact; means: permutation of signs), for each figure by itself: of "
    "twenty figures that do not differ, one is marked on average."
)


def words(figure: Figure, form: str) -> str:
    """A figure for a cell: the value, and the interval in brackets."""
    if not math.isfinite(figure.value):
        return "–"
    value = format(figure.value, form)
    if not figure.has_interval:
        return value
    return f"{value} [{format(figure.low, form)}, {format(figure.high, form)}]"


def is_sure(row: TableRow) -> bool:
    """Whether a variant differs from the baseline beyond chance."""
    return row.p is not None and row.p < SURE


def grids(rows: Sequence[TableRow]) -> dict[tuple[str, int], tuple[list[str], dict[str, dict[str, TableRow]]]]:
    """By model and system prompt: the variants, and by metric the row of each variant."""
    found: dict[tuple[str, int], tuple[list[str], dict[str, dict[str, TableRow]]]] = {}
    for row in rows:
        variants, metrics = found.setdefault((row.model, row.system), ([], {}))
        if row.variant not in variants:
            variants.insert(0 if row.variant == BASELINE else len(variants), row.variant)
        metrics.setdefault(row.metric, {})[row.variant] = row
    return found


def markdown(rows: Sequence[TableRow], about: dict[str, Any]) -> str:
    """The table: a metric a line, a variant a column; one table a model and system prompt."""
    systems: list[str] = about.get("systems", [""])
    parts = overview_markdown(rows, systems) if len(grids(rows)) > 1 else []
    for (model, system), (variants, metrics) in grids(rows).items():
        parts.append(f"### {one_line(heading(model, systems, system))}\n")
        parts.append(f"| | n | {' | '.join(map(one_line, variants))} |")
        parts.append(f"| --- | --- |{' --- |' * len(variants)}")
        for name, found in metrics.items():
            metric = metric_of(name)
            counts = sorted({row.figure.n for row in found.values()})
            n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            cells = [_cell(found.get(variant), metric.form) for variant in variants]
            parts.append(f"| {metric.title} | {n} | {' | '.join(cells)} |")
        parts.append("")
    if about.get("findings"):
        parts += ["### Beside the paper\n", *(f"- {line}" for line in about["findings"]), ""]
    parts += [LEGEND, "", *(f"- {line}" for line in made(about))]
    return "\n".join(parts) + "\n"


OVERVIEW = (
    "refusal_score_harmful",
    "refused_harmful",
    "safe_harmful",
    "refusal_score_harmless",
    "answered_harmless",
    "style_harmless",
    "ce_text",
    "ce_replies",
    "kl_first",
)


def overview(rows: Sequence[TableRow], systems: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Several models or system prompts in one table: the metrics' titles, and a line a model, prompt and variant."""
    found = grids(rows)
    measured = {name for _, metrics in found.values() for name in metrics}
    names = [name for name in OVERVIEW if name in measured]
    lines = [
        [heading(model, systems, system), variant]
        + [_cell(metrics.get(name, {}).get(variant), metric_of(name).form) for name in names]
        for (model, system), (variants, metrics) in found.items()
        for variant in variants
    ]
    return [metric_of(name).title for name in names], lines


def overview_markdown(rows: Sequence[TableRow], systems: Sequence[str]) -> list[str]:
    """The overview as lines of Markdown."""
    titles, lines = overview(rows, systems)
    return [
        "### All together\n",
        f"| model | variant | {' | '.join(titles)} |",
        f"| --- | --- |{' --- |' * len(titles)}",
        *(f"| {' | '.join(map(one_line, line))} |" for line in lines),
        "",
    ]


def one_line(text: str) -> str:
    """A text from a person as a cell of a Markdown table, which neither a bar nor a line break may end."""
    return " ".join(text.split()).replace("|", "\\|")


def heading(model: str, systems: Sequence[str], system: int) -> str:
    """Over one table."""
    if len(systems) < 2 and not any(systems):
        return model
    return f"{model}, {f'system prompt “{systems[system]}”' if systems[system] else 'no system prompt'}"


def made(about: dict[str, Any]) -> list[str]:
    """How an evaluation was made, a line each."""
    found = [f"`{about['command']}`"] if about.get("command") else []
    found += [str(one) for one in about.get("data", [])]
    judged = f"safety: judged by {about['judge']}" if about.get("judge") else "safety: no judge"
    unclear = about.get("unclear_verdicts", 0)
    found.append(f"{judged}; {unclear} verdicts were neither safe nor unsafe and do not count" if unclear else judged)
    found.append(f"data SHA-256 {about.get('data_sha256', 'unknown')}, seed {about.get('seed', 'unknown')}")
    versions = about.get("versions", {})
    if versions:
        found.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return found


def compared_parts(rows: Sequence[ComparedRow], systems: Sequence[str]) -> dict[str, list[ComparedRow]]:
    """The rows by what stands over them: model and system prompt, or nothing where there is one of each."""
    parts: dict[tuple[str, int], list[ComparedRow]] = {}
    for row in rows:
        parts.setdefault((row.model, row.system), []).append(row)
    if len(parts) == 1:
        return {"": list(rows)}
    return {heading(model, systems, system): part for (model, system), part in parts.items()}


def compared_markdown(rows: Sequence[ComparedRow], names: tuple[str, str], systems: Sequence[str] = ("",)) -> str:
    """Two runs side by side, a figure a line; one table a model and system prompt."""
    lines = []
    for over, part in compared_parts(rows, systems).items():
        lines += [f"### {one_line(over)}\n"] if over else []
        lines.append(f"| variant | figure | {one_line(names[0])} | {one_line(names[1])} | difference | p |")
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for row in part:
            metric = metric_of(row.metric)
            cells = [words(figure, metric.form) for figure in (row.first, row.second, row.difference)]
            p = "–" if row.p is None else f"{row.p:.3f}"
            lines.append(f"| {one_line(row.variant)} | {metric.title} | {' | '.join(cells)} | {p} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: TableRow | None, form: str) -> str:
    if row is None:
        return "–"
    return words(row.figure, form) + (" *" if row.variant != BASELINE and is_sure(row) else "")
