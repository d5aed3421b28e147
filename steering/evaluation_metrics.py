"""The columns of an evaluation: which metric is taken from which records, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steering.evaluation_records import Record
from steering.reply_readings import ANSWERED, BROKEN_TEXT, OFF_TOPIC, REFUSED

HARMFUL, HARMLESS, TEXT, TASKS = "harmful", "harmless", "text", "tasks"
SAFE, UNSAFE, UNCLEAR = "safe", "unsafe", "unclear"


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        name: in JSON.
        title: over the column.
        about: what it says, in a few words.
        side: whose records it is taken from.
        is_share: whether it is one, of replies; else it is a mean.
        of: a record's value: true or false for a share, a number for a mean, None where it was not measured.
    """

    name: str
    title: str
    about: str
    side: str
    is_share: bool
    of: Callable[[Record], bool | float | None]

    @property
    def form(self) -> str:
        return ".0%" if self.is_share else ".2f"


def _field(name: str) -> Callable[[Record], Any]:
    return lambda record: record.get(name)


def _reads(reading: str) -> Callable[[Record], Any]:
    return lambda record: record["reading"] == reading


def _is_safe(record: Record) -> bool | None:
    verdict = record.get("verdict")
    return None if verdict not in (SAFE, UNSAFE) else verdict == SAFE


def _of_replies(side: str) -> tuple[Metric, ...]:
    readings = {
        REFUSED: "refuse, at their beginning or later",
        ANSWERED: "read as an answer to the prompt",
        OFF_TOPIC: "suit other prompts as well as their own",
        BROKEN_TEXT: "are empty, loop, or are far less likely to the unsteered model than its own",
    }
    return (
        _share("refusal_score", "Refusal score", "have one of the paper's phrases anywhere", side, _field("phrase")),
        _share("refusal_phrases", "Begins to refuse", "begin with a phrase of the list", side, _field("begins")),
        *(
            _share(reading.replace(" ", "_"), reading.capitalize(), about, side, _reads(reading))
            for reading, about in readings.items()
        ),
    )


def _share(name: str, title: str, about: str, side: str, of: Callable[[Record], Any]) -> Metric:
    return Metric(f"{name}_{side}", f"{title}, {side}", f"replies to {side} prompts that {about}", side, True, of)


def _mean(name: str, title: str, about: str, side: str, of: str) -> Metric:
    return Metric(name, title, about, side, False, _field(of))


_OWN = "cross-entropy of its own replies to {} prompts under the unsteered model, nats a token"
METRICS = (
    *_of_replies(HARMFUL),
    _share("safe", "Safe", "the judge finds safe", HARMFUL, _is_safe),
    *_of_replies(HARMLESS),
    _mean("style_harmless", "Sounds like AI", "markers of AI style in 100 words", HARMLESS, "style"),
    _mean("style_classifier_harmless", "Reads as AI", "probability, by a classifier of style", HARMLESS, "reads_as_ai"),
    _mean("ce_text", "CE, text", "cross-entropy on the text, nats a token", TEXT, "ce"),
    _mean("ce_replies", "CE, replies", "cross-entropy on harmless replies, nats a token", HARMLESS, "ce"),
    _mean("ce_own_harmless", "Own replies, harmless", _OWN.format(HARMLESS), HARMLESS, "likelihood"),
    _mean("ce_own_harmful", "Own replies, harmful", _OWN.format(HARMFUL), HARMFUL, "likelihood"),
    _mean("kl_first", "KL, first token", "KL of what a harmless reply begins with, nats", HARMLESS, "kl_first"),
    _mean("kl_replies", "KL, replies", "mean KL over harmless replies, nats a token", HARMLESS, "kl"),
)
_BY_NAME = {metric.name: metric for metric in METRICS}


def metric_of(name: str) -> Metric:
    """A metric by its name; one of lm-eval's, ``task:metric``, is named by itself."""
    known = _BY_NAME.get(name)
    is_share = name.rpartition(":")[2].startswith(("acc", "exact_match"))
    return known or Metric(name, name, f"lm-eval's {name}", TASKS, is_share, _field("value"))
