"""Which candidate is the direction: the paper's rule on three scores (section 2.3 and appendix C).

Every candidate has three scores on examples held out: **bypass** (the metric under ablation on the positive side, the
lower the better), **induce** (the metric under addition, c = 1, on the negative side) and **KL** (how far ablation
moves the next-token distribution on the negative side). Among the candidates within the limits the one with the lowest
bypass score wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steering.errors import SteeringError

# The paper's limits. As its text has them, all three are strict.
INDUCE_ABOVE = 0.0
KL_BELOW = 0.1
DEPTH_BELOW = 0.8


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep to; all strict.

    Attributes:
        induce: its induce score must be above this.
        kl: its KL score must be below this, nats.
        depth: its layer must be below this part of the number of layers.
        relaxed: what differs from the paper's limits and why, in a sentence for the direction's card; "" if nothing.
        is_relative: whether the limit on induce is what the model does anyway, as for sets other than refusal. What
            fails it turns nothing up, whereas too large a KL only costs something: there KL is relaxed first.
    """

    induce: float = INDUCE_ABOVE
    kl: float = KL_BELOW
    depth: float = DEPTH_BELOW
    relaxed: str = ""
    is_relative: bool = False

    def allows_layer(self, layer: int, n_layers: int) -> bool:
        """Whether a layer is early enough. (Rounded first, for 0.8 · 15 is a little more than 12 in floating point.)"""
        return layer < round(self.depth * n_layers, 9)

    def failed(self, score: CandidateScore, n_layers: int) -> tuple[str, ...]:
        """The limits a candidate is known to fail: of ``"layer"``, ``"induce"``, ``"kl"`` and ``"undefined"``."""
        kl = score.kl_at_least if score.kl_score is None else score.kl_score
        known = [x for x in (score.bypass_score, score.induce_score, score.kl_score) if x is not None]
        checks = {
            "undefined": any(math.isnan(x) for x in known),
            "layer": not self.allows_layer(score.layer, n_layers),
            "induce": score.induce_score is not None and score.induce_score <= self.induce,
            "kl": kl >= self.kl,
        }
        return tuple(name for name, fails in checks.items() if fails)


@dataclass(frozen=True)
class CandidateScore:
    """The scores of the candidate at one place; None where one was not needed to know that it cannot win.

    Attributes:
        bypass_score: mean metric under ablation on the positive side.
        induce_score: mean metric under addition (c = 1) on the negative side.
        kl_score: mean KL divergence, nats, of the next token under ablation on the negative side.
        kl_at_least: what the examples looked at prove of ``kl_score``.
    """

    position: int
    layer: int
    bypass_score: float | None = None
    induce_score: float | None = None
    kl_score: float | None = None
    kl_at_least: float = 0.0

    @property
    def place(self) -> tuple[int, int]:
        return self.position, self.layer

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of it."""
        return self.bypass_score is self.induce_score is self.kl_score is None and not self.kl_at_least

    @property
    def is_complete(self) -> bool:
        return None not in (self.bypass_score, self.induce_score, self.kl_score)


@dataclass(frozen=True)
class Miss:
    """A candidate that did not pass, and the limits it is known to fail."""

    score: CandidateScore
    failed: tuple[str, ...]


class NoCandidateError(SteeringError):
    """No candidate keeps to all limits.

    Attributes:
        misses: all candidates, the nearest misses first: those that fail fewest limits, then, where induce is relative,
            those that keep to it, then by how far they are off.
        in_the_way: the one limit without which a candidate would pass (``"induce"``, ``"kl"`` or ``"layer"``), or None;
            of several the nearest, where induce is relative KL.
        limits: what was asked for.
    """

    def __init__(self, misses: Sequence[Miss], in_the_way: str | None, limits: Limits) -> None:
        self.misses = list(misses)
        self.in_the_way = in_the_way
        self.limits = limits
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        if not self.misses:
            return "There is no candidate to choose from. Give sets that differ in one idea."
        nearest = self.misses[0]
        score = nearest.score
        words = {
            "layer": f"its layer is not below {self.limits.depth:g} of the depth",
            "induce": f"adding it brings the metric to {_number(score.induce_score)}, which must be above "
            f"{self.limits.induce:.3g}",
            "kl": f"its KL is {_number(score.kl_score, score.kl_at_least)}, which must be below {self.limits.kl:g}",
            "undefined": "one of its scores is not a number",
        }
        what = "; ".join(words[name] for name in nearest.failed)
        advice = {
            "induce": "Relax the limit on induce, or use a model that shows the idea more clearly.",
            "kl": "Relax the limit on KL, or give examples that differ in the idea alone.",
            "layer": "Relax the limit on the layer.",
            None: "Give more examples, or examples that differ in the idea alone.",
        }[self.in_the_way]
        where = f"position {score.position}" if score.position else "the mean of the response"  # RESPONSE is 0
        return (
            f"None of {len(self.misses)} candidates keeps to all limits. The nearest, {where} at layer {score.layer}, "
            f"fails: {what}. {advice}"
        )


def _number(value: float | None, at_least: float = 0.0) -> str:
    return f"at least {at_least:.3g}" if value is None else f"{value:.3g}"


def select_candidate(scores: Sequence[CandidateScore], n_layers: int, limits: Limits | None = None) -> CandidateScore:
    """The candidate within the limits whose bypass score is lowest; of equal ones that at the lowest (position, layer).

    A score that is not a number rules its candidate out, as in the paper's code. A score that is None must not be able
    to matter: its candidate fails a limit, or its bypass score is no better than the winner's.

    Raises:
        NoCandidateError: if none is within the limits; it carries the nearest misses.
        SteeringError: if a score that could matter is missing.
    """
    limits = limits or Limits()
    passing = [score for score in scores if score.is_complete and not limits.failed(score, n_layers)]
    open_ones = [score for score in scores if not score.is_complete and not limits.failed(score, n_layers)]
    best = min(passing, key=select_order, default=None)
    for score in open_ones:
        if best is None or score.bypass_score is None or select_order(score) < select_order(best):
            raise SteeringError(
                f"The candidate at position {score.position}, layer {score.layer} is not scored to the end, so it "
                "cannot be known whether it is the best. Let the scoring finish."
            )
    if best is None:
        raise no_candidate(scores, n_layers, limits)
    return best


def select_order(score: CandidateScore) -> tuple[float, int, int]:
    assert score.bypass_score is not None
    return score.bypass_score, *score.place


def no_candidate(scores: Sequence[CandidateScore], n_layers: int, limits: Limits) -> NoCandidateError:
    """The error for scores none of which is within ``limits``."""
    misses = [Miss(score, limits.failed(score, n_layers)) for score in scores]
    spread = {name: _spread([getattr(score, f"{name}_score") for score in scores]) for name in ("induce", "kl")}

    def distance(miss: Miss) -> tuple[bool, int, bool, float]:
        # One that was never scored, for its layer is too late, is not near: nothing is known of it.
        score, off = miss.score, 0.0
        unknown = "undefined" in miss.failed or score.is_unknown
        if "induce" in miss.failed and score.induce_score is not None:
            off += (limits.induce - score.induce_score) / spread["induce"]
        if "kl" in miss.failed:
            off += ((score.kl_at_least if score.kl_score is None else score.kl_score) - limits.kl) / spread["kl"]
        if "layer" in miss.failed:
            off += score.layer / n_layers - limits.depth
        return unknown, len(miss.failed), limits.is_relative and "induce" in miss.failed, off

    misses.sort(key=distance)
    single = [miss.failed[0] for miss in misses if len(miss.failed) == 1 and not distance(miss)[0]]
    return NoCandidateError(misses, single[0] if single else None, limits)


def _spread(values: Sequence[float | None]) -> float:
    """Range of the numbers among ``values``, so that distances from different limits can be added."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return (max(known) - min(known) if known else 0.0) or 1.0


def relaxed(limits: Limits, in_the_way: str, *, induce: float | None = None, kl: float | None = None) -> Limits:
    """``limits`` with the one in the way moved, and a sentence that says so for the direction's card.

    Args:
        in_the_way: ``"induce"`` or ``"kl"``, as :class:`NoCandidateError` names it, or ``"layer"``, which is lifted.
        induce, kl: where the limit goes.
    """
    if in_the_way == "induce" and induce is not None:
        words = f"Induce had to be above {induce:.3g} and not {limits.induce:.3g}: no candidate reached that."
        return replace(limits, induce=induce, relaxed=f"{limits.relaxed} {words}".strip())
    if in_the_way == "kl" and kl is not None:
        words = f"KL had to be below {kl:.3g} and not {limits.kl:.3g}: no candidate kept to that."
        return replace(limits, kl=kl, relaxed=f"{limits.relaxed} {words}".strip())
    if in_the_way == "layer":
        words = f"Layers beyond {limits.depth:g} of the depth were allowed: no earlier candidate passed."
        return replace(limits, depth=1.0, relaxed=f"{limits.relaxed} {words}".strip())
    raise ValueError(f"no new value for the limit on {in_the_way}")
