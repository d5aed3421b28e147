"""The table of an evaluation: each variant's figures with intervals, beside the baseline's on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steering.contestants import BASELINE
from steering.evaluation_metrics import METRICS, TASKS, Metric
from steering.evaluation_records import Record
from steering.figures import UNKNOWN, Figure, bootstrapped, wilson
from steering.paired import mcnemar, newcombe, paired_difference, paired_shares, sign_flip


@dataclass(frozen=True)
class TableRow:
    """One figure of one variant.

    Attributes:
        system: the place of the system prompt in the run's list.
        difference: from the baseline on the same prompts; unknown for the baseline and for tasks.
        p: of no difference: McNemar's exact test of shares, the permutation test of means; None where there is none.
    """

    model: str
    system: int
    variant: str
    metric: str
    figure: Figure
    difference: Figure = UNKNOWN
    p: float | None = None

    def as_json(self) -> dict[str, Any]:
        figure, difference = self.figure.as_card(), self.difference.as_card()
        return {
            "model": self.model,
            "system": self.system,
            "variant": self.variant,
            "metric": self.metric,
            **figure,
            "difference": difference["value"],
            "difference_low": difference["low"],
            "difference_high": difference["high"],
            "p": self.p if self.p is None or math.isfinite(self.p) else None,
        }


def table(records: Sequence[Record], seed: int = 0) -> list[TableRow]:
    """Every metric of every variant, in the order in which they were measured; what was not measured is left out."""
    found = []
    for model, system in dict.fromkeys((record["model"], record["system"]) for record in records):
        own = [record for record in records if (record["model"], record["system"]) == (model, system)]
        variants = list(dict.fromkeys(record["variant"] for record in own))
        for metric in METRICS:
            values = {variant: values_of(own, variant, metric) for variant in variants}
            for variant in variants:
                if values[variant]:
                    found.append(_row(model, system, variant, metric, values[variant], values.get(BASELINE, {}), seed))
        found += [_task_row(record) for record in own if record["side"] == TASKS]
    return found


def values_of(records: Iterable[Record], variant: str, metric: Metric) -> dict[str, float]:
    """The metric of each prompt where it was measured."""
    found = {}
    for record in records:
        if record["side"] == metric.side and record["variant"] == variant:
            value = metric.of(record)
            if value is not None:
                found[record["prompt"]] = float(value)
    return found


def _row(
    model: str,
    system: int,
    variant: str,
    metric: Metric,
    own: Mapping[str, float],
    base: Mapping[str, float],
    seed: int,
) -> TableRow:
    figure = _figure(metric, list(own.values()), seed)
    if variant == BASELINE or not base:
        return TableRow(model, system, variant, metric.name, figure)
    difference, p = between(metric, base, own, seed)
    return TableRow(model, system, variant, metric.name, figure, difference, p)


def _figure(metric: Metric, values: Sequence[float], seed: int) -> Figure:
    if metric.is_share:
        return wilson(int(sum(values)), len(values))
    return bootstrapped([np.array(values)], np.mean, seed)


def between(
    metric: Metric, first: Mapping[str, float], second: Mapping[str, float], seed: int
) -> tuple[Figure, float | None]:
    """The difference of the second from the first, and p: pair by pair over the prompts that both answered.

    Where they share none, shares are compared as independent ones, and of means nothing is told.
    """
    shared = [prompt for prompt in first if prompt in second]
    a, b = (np.array([values[prompt] for prompt in shared]) for values in (first, second))
    if metric.is_share:
        if not shared:
            counts = [(int(sum(values.values())), len(values)) for values in (first, second)]
            return newcombe(*counts[0], *counts[1]), None
        return paired_shares(a > 0.5, b > 0.5), mcnemar(a > 0.5, b > 0.5)
    if not shared:
        return UNKNOWN, None
    return paired_difference(a, b, seed), sign_flip(a, b, seed)


def _task_row(record: Record) -> TableRow:
    value, low, high = (math.nan if record[name] is None else record[name] for name in ("value", "low", "high"))
    figure = Figure(value, low, high, record["n"])
    return TableRow(
        record["model"], record["system"], record["variant"], f"{record['task']}:{record['metric']}", figure
    )


def _task_figures(records: Iterable[Record], variant: str) -> dict[str, Figure]:
    rows = [_task_row(record) for record in records if (record["side"], record["variant"]) == (TASKS, variant)]
    return {row.metric: row.figure for row in rows}


@dataclass(frozen=True)
class ComparedRow:
    """One figure in two runs."""

    model: str
    system: int
    variant: str
    metric: str
    first: Figure
    second: Figure
    difference: Figure
    p: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "system": self.system,
            "variant": self.variant,
            "metric": self.metric,
            "first": self.first.as_card(),
            "second": self.second.as_card(),
            "difference": self.difference.as_card(),
            "p": self.p if self.p is None or math.isfinite(self.p) else None,
        }


def compare(first: Sequence[Record], second: Sequence[Record], seed: int = 0) -> list[ComparedRow]:
    """Two runs side by side, what both have measured: by model if they share one, else the only model of each.

    Of lm-eval's tasks both figures stand there without a test: single documents are not in the records.
    """
    models = [list(dict.fromkeys(record["model"] for record in run)) for run in (first, second)]
    shared = [model for model in models[0] if model in models[1]]
    pairs = [(model, model) for model in shared]
    if not shared and [len(one) for one in models] == [1, 1]:
        pairs = [(models[0][0], models[1][0])]
    found = []
    for one, other in pairs:
        runs = [[r for r in run if r["model"] == model] for run, model in ((first, one), (second, other))]
        kinds = [list(dict.fromkeys((r["system"], r["variant"]) for r in run)) for run in runs]
        for system, variant in [kind for kind in kinds[0] if kind in kinds[1]]:
            name = one if one == other else f"{one} → {other}"
            parts = [[r for r in run if r["system"] == system] for run in runs]
            for metric in METRICS:
                values = [values_of(part, variant, metric) for part in parts]
                if all(values):
                    difference, p = between(metric, values[0], values[1], seed)
                    figures = [_figure(metric, list(own.values()), seed) for own in values]
                    found.append(ComparedRow(name, system, variant, metric.name, figures[0], figures[1], difference, p))
            tasks = [_task_figures(part, variant) for part in parts]
            found += [
                ComparedRow(name, system, variant, task, figure, tasks[1][task], UNKNOWN, None)
                for task, figure in tasks[0].items()
                if task in tasks[1]
            ]
    return found
