"""The part of the quality card that says what the direction does: the verdict, three checks, and how far to trust it.

All of it is read from the direction's card, so that it stands there for a direction from a file too. Texts from the
card pass through `escaped`; numbers were checked by `make_work.sound_card`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steering.ui.make_words import escaped, verdict

LONGEST_SENTENCES, LONGEST_SENTENCE = 12, 600
FULL = 0.87  # of a bar's length is the longer of value and limit


@dataclass(frozen=True)
class Check:
    """One line: what is claimed, of which texts, by how much, and what that is held against."""

    claim: str
    where: str
    value: float | None
    limit: float | None
    needs: str

    def html(self) -> str:
        if self.value is None:
            return (
                f'<div class="check"><div><b>{escaped(self.claim)}</b><span>{escaped(self.where)}</span></div>'
                "<i></i><output>–</output><span>not measured here</span></div>"
            )
        longest = max(self.value, self.limit or 0.0, 1e-9) / FULL
        style = f"--value:{max(0.0, self.value) / longest:.3f}"
        tick = "" if self.limit is None else f";--limit:{max(0.0, self.limit) / longest:.3f}"
        return (
            f'<div class="check"><div><b>{escaped(self.claim)}</b><span>{escaped(self.where)}</span></div>'
            f'<i class="bar{"" if tick else " no-limit"}" style="{style}{tick}"></i>'
            f"<output>{self.value:.2f}</output><span>{escaped(self.needs)}</span></div>"
        )


def checks_html(name: str, card: Mapping[str, Any]) -> str:
    """Three checks from the card's scores, or "" if it has none."""
    scores, limits = card.get("scores"), card.get("limits")
    if scores is None or limits is None:
        return ""
    trust = card.get("trust") or {}
    lines = "".join(check.html() for check in _checks(name, scores, limits, trust))
    relaxed = f'<p class="warning"><b>Relaxed.</b> {escaped(card["relaxed"])}</p>' if card.get("relaxed") else ""
    return f'<h3>Three checks</h3>{lines}{relaxed}<p class="hint">{escaped(_metric_words(card))}</p>'


def _checks(
    name: str, scores: Mapping[str, Any], limits: Mapping[str, Any], trust: Mapping[str, Any]
) -> tuple[Check, Check, Check]:
    before_positive, before_negative = scores["unsteered_positive"], scores["unsteered_negative"]
    drop = None if scores["bypass"] is None else before_positive - scores["bypass"]
    gain = None if scores["induce"] is None else scores["induce"] - before_negative
    lowest = _of_controls(trust, "bypass", "low", min)
    best_control = None if lowest is None else before_positive - lowest
    needed = limits["induce"] - before_negative
    return (
        Check(
            f"Taken out, “{name}” goes away",
            "how far the metric falls on texts that show it",
            drop,
            best_control,
            "" if best_control is None else f"best control {best_control:.2f}",
        ),
        Check(
            f"Turned up, “{name}” appears",
            "how far the metric rises on texts that do not",
            gain,
            needed,
            f"needs {needed:.2f}",
        ),
        Check(
            "Everything else stays as it was",
            "change of the next token (KL) there; smaller is better",
            scores["kl"],
            limits["kl"],
            f"limit {limits['kl']:.2f}",
        ),
    )


def _of_controls(trust: Mapping[str, Any], score: str, end: str, choose: Any) -> float | None:
    """The most extreme of the random and the shuffled controls."""
    known = [trust[kind][score][end] for kind in ("random", "shuffled") if kind in trust]
    numbers = [number for number in known if number is not None]
    return choose(numbers) if numbers else None


def _metric_words(card: Mapping[str, Any]) -> str:
    tokens = card.get("first_tokens")
    if not tokens:
        return "Metric: log-odds of the reply with the idea against the one without, a token. In nats."
    texts = " ".join(f"“{text}”" for text in tokens["texts"])
    return f"Metric: log-odds that the answer begins with {texts} ({tokens['source']}). In nats."


def verdict_of(card: Mapping[str, Any]) -> tuple[str, str]:
    """(class, words): by the controls if it was held against them, else by how well it tells texts apart."""
    trust = card.get("trust")
    if not trust:
        auroc = card.get("auroc")
        return ("", "") if auroc is None else verdict(auroc)
    better = [trust["better_than_controls"][score] for score in ("bypass", "induce")]
    if not any(better):
        return "bad", "No better than chance"
    if not all(better):
        return "partly", "Works partly"
    if not _keeps_to_limits(card):
        return "partly", "Works, beyond a limit"
    return ("partly", "Works, with a relaxed limit") if card.get("relaxed") else ("good", "Works well")


def _keeps_to_limits(card: Mapping[str, Any]) -> bool:
    """Whether no score is known to be beyond its limit; a place chosen by hand may be."""
    scores, limits = card.get("scores"), card.get("limits")
    if scores is None or limits is None:
        return True
    induce, kl = scores["induce"], scores["kl"]
    return (induce is None or induce > limits["induce"]) and (kl is None or kl < limits["kl"])


def by_hand_html(card: Mapping[str, Any]) -> str:
    """That the place was chosen by hand, and what the rule chose; "" if the rule chose it."""
    return f'<p class="hint">{escaped(card["overruled"])}</p>' if card.get("overruled") else ""


def trust_html(card: Mapping[str, Any]) -> str:
    """How far to trust the direction, in sentences; what speaks against it stands open, the rest on demand."""
    trust = card.get("trust")
    if not trust:
        return ""
    doubts = "".join(f'<p class="warning"><b>Doubt.</b> {escaped(doubt)}</p>' for doubt in doubts_of(trust))
    sentences = "".join(f"<li>{escaped(sentence)}</li>" for sentence in trust["sentences"])
    return (
        f"{doubts}<details><summary>How far to trust it: held against "
        f'{_n_controls(trust)} controls</summary><ul class="trust">{sentences}</ul></details>'
    )


def _n_controls(trust: Mapping[str, Any]) -> int:
    return sum(trust[kind]["bypass"]["n"] for kind in ("random", "shuffled"))


def doubts_of(trust: Mapping[str, Any]) -> list[str]:
    """What the figures say against the direction, in short."""
    better = trust["better_than_controls"]
    doubts = [
        f"{how}, it does no better than random directions or shuffled labels."
        for score, how in (("bypass", "Taken out"), ("induce", "Turned up"))
        if not better[score]
    ]
    if (trust["separation"]["low"] or 0.0) <= 0.5:
        doubts.append("It tells texts it was not made from apart no better than chance.")
    ruler, separation = trust["length_ruler"]["value"], trust["separation"]["value"]
    if ruler is not None and separation is not None and ruler > 0.55 and ruler >= separation - 0.05:
        doubts.append("The length of the texts alone tells the sides apart as well.")
    halves = trust["split_half"]["value"]
    if halves is not None and halves < 0.5:
        doubts.append("Two halves of the texts give rather different directions: more texts would help.")
    return doubts


def is_trust(value: Any) -> bool:
    """Whether this is a trust card as `steering.trust` writes it, so far as the page reads it."""

    def is_figure(one: Any) -> bool:
        if not isinstance(one, dict) or not {"n", "value", "low", "high"} <= one.keys():
            return False
        n, *numbers = (one[key] for key in ("n", "value", "low", "high"))
        return isinstance(n, int) and is_number(n) and n >= 0 and all(x is None or is_number(x) for x in numbers)

    if not isinstance(value, dict):
        return False
    single = [value.get(key) for key in ("separation", "length_ruler", "split_half")]
    tables = [value.get(key) for key in ("random", "shuffled", "scores")]
    better, sentences = value.get("better_than_controls"), value.get("sentences")
    return (
        all(map(is_figure, single))
        and all(isinstance(t, dict) and all(is_figure(t.get(s)) for s in ("bypass", "induce", "kl")) for t in tables)
        and isinstance(better, dict)
        and all(isinstance(better.get(score), bool) for score in ("bypass", "induce"))
        and is_sentences(sentences)
    )


def is_sentences(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= LONGEST_SENTENCES
        and all(isinstance(one, str) and len(one) <= LONGEST_SENTENCE for one in value)
    )


def is_scores(value: Any) -> bool:
    """Whether these are a candidate's scores beside the unsteered means."""
    names = ("bypass", "induce", "kl", "unsteered_positive", "unsteered_negative")
    return isinstance(value, dict) and all(
        is_number(value.get(name)) or (value.get(name) is None and name in names[:3] and name in value)
        for name in names
    )


def is_limits(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(value.get(name)) for name in ("induce", "kl", "depth"))


def is_first_tokens(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("source"), str)
        and len(value["source"]) <= LONGEST_SENTENCE
        and isinstance(value.get("texts"), list)
        and len(value["texts"]) <= 32
        and all(isinstance(text, str) and len(text) <= 80 for text in value["texts"])
    )


def is_number(value: Any) -> bool:
    """Whether this is a number that can be shown: finite, and not a bool, which Python counts as one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
