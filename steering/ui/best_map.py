"""The map of “Find the best”: it fills as candidates are decided, and says of each why it was not chosen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steering.selection import CandidateScore
from steering.ui.make_words import escaped, signed, visible_token
from steering.ui.squares import row_words, squares, squares_table, tokens_of

if TYPE_CHECKING:
    from steering.ui.best_search import Place, Search


def search_squares(search: Search, chosen: Place | None) -> str:
    """The map; ``chosen`` is the direction in view."""
    drops = [drop for score in search.scores.values() if (drop := _drop(search, score)) is not None]
    largest = max([*drops, 1e-9])
    entry = _entry(search, chosen)

    def cell(position: int, layer: int) -> str:
        place = (position, layer)
        score = search.scores.get(place)
        if score is None and place != chosen:
            late = not search.limits.allows_layer(layer, search.candidates.n_layers)
            return f'<td class="empty{" late" if late else ""}"></td>'
        score = score or CandidateScore(position, layer)
        words = f"layer {layer}, {row_words(position)}: {_reason(search, score)}"
        if "undefined" in search.limits.failed(score, search.candidates.n_layers):
            return f'<td class="empty same" title="{escaped(words)}">–</td>'
        classes = " ".join(_classes(search, score, chosen))
        shade = min(1.0, max(0.0, (_drop(search, score) or 0.0) / largest))
        pressed, tab = "true" if place == chosen else "false", 0 if place == entry else -1
        return (
            f'<td class="{classes}" style="--value:{shade:.3f}"><button type="button" data-position="{position}" '
            f'data-layer="{layer}" tabindex="{tab}" aria-pressed="{pressed}" aria-label="{escaped(words)}" '
            f'title="{escaped(words)}"></button></td>'
        )

    tokens = tokens_of(search.candidates.card)
    table = squares(
        search.candidates.positions, tokens, search.candidates.n_layers, cell, chosen[1] if chosen else None,
        "How well each place does",
    )  # fmt: skip
    return f"{table}{_foot(search, chosen)}"


def _entry(search: Search, chosen: Place | None) -> Place | None:
    """The square that the Tab key leads to: the chosen one, else the first that can be pressed."""
    if chosen is not None:
        return chosen
    n_layers = search.candidates.n_layers
    pressable = (
        place for place, score in search.scores.items() if "undefined" not in search.limits.failed(score, n_layers)
    )
    return min(pressable, default=None)


def _classes(search: Search, score: CandidateScore, chosen: Place | None) -> list[str]:
    failed = search.limits.failed(score, search.candidates.n_layers)
    named = {
        "late": "layer" in failed,
        "rejected": bool({"induce", "kl"} & set(failed)),
        "suggested": score.place == search.winner,
        "chosen": score.place == chosen,
    }
    return [name for name, holds in named.items() if holds]


def _drop(search: Search, score: CandidateScore) -> float | None:
    """How far ablation lowers the metric, if that is known of a candidate that keeps to the limits."""
    if score.bypass_score is None or not math.isfinite(score.bypass_score):
        return None
    if search.limits.failed(score, search.candidates.n_layers):
        return None
    return float(search.unsteered.positive.mean()) - score.bypass_score


def _reason(search: Search, score: CandidateScore) -> str:
    """Why a candidate was chosen or not, in words."""
    failed = search.limits.failed(score, search.candidates.n_layers)
    if score.place == search.winner:
        return "chosen by the rule"
    if "undefined" in failed:
        return "the sides do not differ here"
    if "layer" in failed:
        return "too late to use"
    reasons = []
    if "kl" in failed:
        at_least = "" if score.kl_score is not None else "at least "
        known = score.kl_score if score.kl_score is not None else score.kl_at_least
        reasons.append(f"changes other answers too much (KL {at_least}{known:.2f}, limit {search.limits.kl:.2f})")
    if "induce" in failed:
        reasons.append(f"turned up, it shows too little ({score.induce_score:.2f}, needs {search.limits.induce:.2f})")
    if reasons:
        return "; ".join(reasons)
    if score.is_unknown:
        return "not tried"
    bypass = "" if score.bypass_score is None else f"taken out, the metric is {score.bypass_score:.2f}"
    return bypass or "keeps to the limits so far"


def _foot(search: Search, chosen: Place | None) -> str:
    parts = []
    if chosen is not None:
        by_rule = " by the rule" if chosen == search.winner else " by hand"
        parts.append(f"<b>chosen{by_rule}: layer {chosen[1]}, {row_words(chosen[0])}</b>")
    if search.winner is not None and chosen != search.winner:
        parts.append(
            f'<span class="key-suggested">the rule’s: layer {search.winner[1]}, {row_words(search.winner[0])}</span>'
        )
    n_layers = search.candidates.n_layers
    failed = [search.limits.failed(score, n_layers) for score in search.scores.values()]
    if any({"kl", "induce"} & set(names) for names in failed):
        parts.append("<span>✕ fails a limit; point at it for which</span>")
    if not search.limits.allows_layer(n_layers - 1, n_layers):
        parts.append('<span class="key-late">too late to use</span>')
    return f'<div class="squares-foot">{"".join(parts)}</div>'


def search_table(search: Search) -> str:
    """All candidates as a table, in the order of positions and layers."""
    tokens = tokens_of(search.candidates.card)
    rows = []
    for place in sorted(search.scores):
        score = search.scores[place]
        position = (
            "mean over the reply" if not place[0] else f"{signed(place[0])} {visible_token(tokens.get(place[0], ''))}"
        )
        numbers = (score.bypass_score, score.induce_score, score.kl_score)
        cells = "".join(f"<td>{'–' if x is None or not math.isfinite(x) else f'{x:.3f}'}</td>" for x in numbers)
        rows.append(
            f"<tr><td>{escaped(position)}</td><td>{place[1]}</td>{cells}<td>{escaped(_reason(search, score))}</td></tr>"
        )
    return squares_table(("Position", "Layer", "Bypass", "Induce", "KL", ""), rows)
