"""An evaluation beside the findings of Arditi et al. 2024 (arXiv 2406.11717): what agrees on a model, what does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steering.contestants import (
    ABLATED,
    ADDED,
    BASELINE,
    ORTHOGONALIZED,
    RANDOM_ABLATED,
    RANDOM_ADDED,
    SUBTRACTED,
)
from steering.evaluation_metrics import metric_of
from steering.evaluation_records import Record
from steering.evaluation_table import between, values_of
from steering.evaluation_words import words
from steering.figures import Figure

AGREES, OPEN, DISAGREES, NOT_MEASURED = "agrees", "open", "disagrees", "not measured"


@dataclass(frozen=True)
class Finding:
    """One finding of the paper and what was measured of it.

    Attributes:
        claim: the finding, in our words.
        metric, first, second: what is compared: the second variant with the first.
        rises: whether the second should be above the first; None for a control, which should not tell them apart.
    """

    claim: str
    metric: str
    first: str
    second: str
    rises: bool | None


@dataclass(frozen=True)
class Outcome:
    """A finding on one model: the difference of its two variants, pair by pair, and whether it agrees."""

    model: str
    finding: Finding
    difference: Figure

    @property
    def verdict(self) -> str:
        """Agrees or disagrees where the interval lies on one side of zero; open where zero is in it.

        A control agrees where zero is in it.
        """
        if not math.isfinite(self.difference.value):
            return NOT_MEASURED
        sure = not self.difference.low <= 0 <= self.difference.high
        if self.finding.rises is None:
            return DISAGREES if sure else AGREES
        if not sure:
            return OPEN
        return AGREES if (self.difference.value > 0) == self.finding.rises else DISAGREES

    def said(self) -> str:
        """The finding with the figure behind it, as a line."""
        form = metric_of(self.finding.metric).form
        title = metric_of(self.finding.metric).title
        return (
            f"{self.finding.claim}: **{self.verdict}** ({title}, {self.finding.second} − {self.finding.first}: "
            f"{words(self.difference, form)}, n = {self.difference.n})"
        )


FINDINGS = (
    Finding("Ablation ends refusal of harmful requests", "refusal_score_harmful", BASELINE, ABLATED, rises=False),
    Finding("Ablating a random direction does not", "refusal_score_harmful", BASELINE, RANDOM_ABLATED, rises=None),
    Finding("Addition makes it refuse harmless requests", "refusal_score_harmless", BASELINE, ADDED, rises=True),
    Finding("Adding a random direction as long does not", "refusal_score_harmless", BASELINE, RANDOM_ADDED, rises=None),
    Finding("Edited weights do what ablation does", "refusal_score_harmful", ABLATED, ORTHOGONALIZED, rises=None),
    Finding("Ablation costs less on plain text than adding the opposite", "ce_text", SUBTRACTED, ABLATED, rises=False),
    Finding("The same on harmless replies", "ce_replies", SUBTRACTED, ABLATED, rises=False),
)


def outcomes(records: Sequence[Record], seed: int = 0) -> list[Outcome]:
    """Every finding on every model, without a system prompt."""
    found = []
    for model in dict.fromkeys(record["model"] for record in records):
        own = [record for record in records if (record["model"], record["system"]) == (model, 0)]
        for finding in FINDINGS:
            metric = metric_of(finding.metric)
            first, second = (values_of(own, variant, metric) for variant in (finding.first, finding.second))
            difference, _ = between(metric, first, second, seed)
            found.append(Outcome(model, finding, difference))
    return found
