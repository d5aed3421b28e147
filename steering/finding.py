"""The whole way from a contrast set to a direction: split, filter, difference in means, scores, the rule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.candidate_search import CandidateSearch, OnScore
from steering.contrast import ContrastSet
from steering.directions import Candidates, Direction, difference_in_means
from steering.errors import ContrastSetError
from steering.metrics import FirstTokens, first_token_log_odds, found_first_tokens, paper_refusal_tokens
from steering.progress import Progress, silent
from steering.score_store import ScoreStore
from steering.scoring import Unsteered, next_token_logits, scorer_for
from steering.selection import CandidateScore, Limits, NoCandidateError, relaxed, select_candidate
from steering.weights import cache_folder

if TYPE_CHECKING:
    from steering.models import ChatModel

N_TRAIN, N_VALIDATION = 128, 32  # examples a side, as in the paper
# With fewer a side left by the filter, a direction and its scores would be chance.
FEWEST_TO_LEARN, FEWEST_TO_CHECK = 16, 8
TOKEN_EXAMPLES = 64  # a side, from which first tokens are found


@dataclass(frozen=True, eq=False)
class Prepared:
    """A contrast set ready for selection.

    Attributes:
        train, validation: its two parts, filtered if it was to be.
        tokens: the first tokens of the metric; None for sets with responses.
        is_refusal: whether the paper's own limits hold; else the limit on induce is relative.
        notes: what was left out, in sentences.
    """

    train: ContrastSet
    validation: ContrastSet
    tokens: FirstTokens | None
    is_refusal: bool
    seed: int
    data: ContrastSet
    filtered: bool
    notes: tuple[str, ...] = ()

    def limits(self, unsteered: Unsteered) -> Limits:
        """The paper's limits; for sets other than refusal induce must rise by more than its standard error."""
        if self.is_refusal:
            return Limits()
        return Limits(induce=float(unsteered.negative.mean()) + unsteered.standard_error)


def prepare(
    model: ChatModel,
    data: ContrastSet,
    *,
    tokens: Sequence[str] | None = None,
    is_refusal: bool | None = None,
    filtered: bool | None = None,
    n_train: int = N_TRAIN,
    n_validation: int = N_VALIDATION,
    seed: int = 0,
) -> Prepared:
    """Split a set, settle its metric, and filter it.

    Args:
        tokens: texts of the first tokens of the metric; by default the paper's for a refusal set on one of its
            families, else found from the training part. Sets with responses have none.
        is_refusal: whether this is a refusal set; by default whether it is the preset of that name.
        filtered: leave out positives that score below 0 and negatives above 0 (section 2.3); by default for refusal.

    Raises:
        ContrastSetError: if the set is too small, or the filter leaves too few, as on a model that does not refuse.
        SteeringError: if a text of ``tokens`` is not one token.
    """
    refusal = is_refusal_set(data) if is_refusal is None else is_refusal
    train, validation = data.split(n_train, n_validation, seed)
    if train.has_responses:
        return Prepared(train, validation, None, refusal, seed, data, False, tuple(validation.notes))
    chosen = first_tokens(model, train, tokens, is_refusal=refusal)
    prepared = Prepared(train, validation, chosen, refusal, seed, data, False, tuple(validation.notes))
    return _filtered(model, prepared) if (refusal if filtered is None else filtered) else prepared


def _filtered(model: ChatModel, prepared: Prepared) -> Prepared:
    """Without the positives that score below 0 and the negatives above 0."""
    assert prepared.tokens is not None
    ids = prepared.tokens.ids

    def kept(whole: ContrastSet, fewest: int, use: str) -> ContrastSet:
        sides = []
        for side, sign in ((whole.positive, 1), (whole.negative, -1)):
            metric = first_token_log_odds(next_token_logits(model, side), ids).tolist()
            sides.append([one for one, value in zip(side, metric, strict=True) if sign * value >= 0])
            if len(sides[-1]) < min(fewest, len(side)):
                name = "positive" if sign > 0 else "negative"
                raise ContrastSetError(_too_few(model, prepared.tokens, use, name, len(sides[-1]), len(side)))
        return replace(whole, positive=sides[0], negative=sides[1])

    train = kept(prepared.train, FEWEST_TO_LEARN, "to learn from")
    validation = kept(prepared.validation, FEWEST_TO_CHECK, "to check with")
    left_out = [
        sum(len(getattr(whole, side)) for whole in (prepared.train, prepared.validation))
        - sum(len(getattr(part, side)) for part in (train, validation))
        for side in ("positive", "negative")
    ]
    note = (
        f"The filter left out {left_out[0]} positive examples that do not call for the idea on this model and "
        f"{left_out[1]} negative ones that do."
    )
    return replace(prepared, train=train, validation=validation, filtered=True, notes=(*prepared.notes, note))


def _too_few(model: ChatModel, tokens: FirstTokens | None, use: str, side: str, left: int, of: int) -> str:
    why = "does not begin its reply" if side == "positive" else "begins its reply"
    named = ", ".join(f"“{text}”" for text in (tokens.texts if tokens else ()))
    return (
        f"The filter leaves {left} of {of} {side} examples {use}: to the others {model.label} {why} with {named}. "
        "Use a model that shows the idea more clearly, choose other first tokens, or switch the filter off."
    )


@dataclass(frozen=True, eq=False)
class Selection:
    """What selection found.

    Attributes:
        direction: the winner, its scores and limits in its card.
        score: its three scores.
        scores: of all candidates, as far as they were needed.
    """

    direction: Direction
    score: CandidateScore
    scores: list[CandidateScore]
    limits: Limits
    unsteered: Unsteered
    candidates: Candidates
    prepared: Prepared


class Finder:
    """One selection, whose limits may be relaxed after a look at what they left; scores are taken once.

    Args:
        store: the folder for scores on disk; None keeps none.
    """

    def __init__(
        self,
        model: ChatModel,
        prepared: Prepared,
        *,
        store: Path | None = None,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> None:
        self.prepared = prepared
        self.model = model
        self.candidates = difference_in_means(model, prepared.train, batch_size=batch_size, progress=progress)
        self.scorer = scorer_for(model, prepared.validation, prepared.tokens)
        kept = None if store is None else ScoreStore(store, _identity(model, prepared))
        self.search = CandidateSearch(self.candidates, self.scorer, kept)
        self.limits = prepared.limits(self.scorer.unsteered)

    def find(
        self,
        limits: Limits | None = None,
        *,
        name: str | None = None,
        progress: Progress = silent,
        on_score: OnScore | None = None,
    ) -> Selection:
        """Score as far as needed and choose.

        Raises:
            NoCandidateError: if nothing is within the limits; :meth:`relaxed` then says what one press would change.
        """
        limits = limits or self.limits
        self.search.run(limits, progress=progress, on_score=on_score)
        best = self._selected(limits)
        return Selection(
            direction=self.direction(best, limits, name),
            score=best,
            scores=self.search.scores(),
            limits=limits,
            unsteered=self.scorer.unsteered,
            candidates=self.candidates,
            prepared=self.prepared,
        )

    def _selected(self, limits: Limits) -> CandidateScore:
        """The winner. If there is none, the nearest misses are scored to the end, for what they fail is to be known.

        A candidate dropped at one limit may fail another too; only one that fails a single limit shows which is in the
        way.
        """
        while True:
            try:
                return select_candidate(self.search.scores(), self.candidates.n_layers, limits)
            except NoCandidateError as error:
                nearest = next((miss.score for miss in error.misses if len(miss.failed) == 1), None)
                if nearest is None or nearest.is_complete or nearest.is_unknown:
                    raise
                self.search.complete(nearest.place)

    def relaxed(self, error: NoCandidateError) -> Limits | None:
        """``error.limits`` with the one in the way relaxed, or None if no single one is.

        Induce: above the midpoint of the two sides' unsteered means (for sets with responses, above the unsteered
        mean). KL: just above the smallest that is in the way.
        """
        unsteered = self.scorer.unsteered
        if error.in_the_way == "induce":
            floor = unsteered.midpoint
            return relaxed(error.limits, "induce", induce=floor) if floor < error.limits.induce else None
        if error.in_the_way == "kl":
            nearest = next(miss for miss in error.misses if miss.failed == ("kl",))
            kl = nearest.score.kl_score
            return None if kl is None else relaxed(error.limits, "kl", kl=round(kl + 0.005, 2))
        return relaxed(error.limits, "layer") if error.in_the_way == "layer" else None

    def direction(self, score: CandidateScore, limits: Limits, name: str | None = None) -> Direction:
        """The candidate of ``score`` as a direction, with how it was chosen in its card."""
        found = self.candidates.direction(score.position, score.layer, name)
        prepared, unsteered = self.prepared, self.scorer.unsteered
        card: dict[str, Any] = {
            "data_sha256": prepared.data.sha256,
            "seed": prepared.seed,
            "filtered": prepared.filtered,
            "n_validation": [len(prepared.validation.positive), len(prepared.validation.negative)],
            "scores": {
                "bypass": score.bypass_score,
                "induce": score.induce_score,
                "kl": score.kl_score,
                "unsteered_positive": float(unsteered.positive.mean()),
                "unsteered_negative": float(unsteered.negative.mean()),
            },
            "limits": {"induce": limits.induce, "kl": limits.kl, "depth": limits.depth},
        }
        if limits.relaxed:
            card["relaxed"] = limits.relaxed
        if prepared.tokens is not None:
            card["first_tokens"] = {"texts": list(prepared.tokens.texts), "source": prepared.tokens.source}
        if prepared.notes:
            card["notes"] = list(prepared.notes)
        return replace(found, card=found.card | card)


def score_candidates(
    model: ChatModel,
    candidates: Candidates,
    validation: ContrastSet,
    *,
    limits: Limits | None = None,
    tokens: FirstTokens | Sequence[str] | None = None,
    store: Path | None = None,
    progress: Progress = silent,
    on_score: OnScore | None = None,
) -> list[CandidateScore]:
    """The three scores of every candidate on ``validation``.

    Args:
        limits: score only as far as needed to know the winner under them, many times faster; by default all.
        tokens: of the metric for sets of prompts; by default the paper's for a refusal set on one of its families, else
            found from ``validation``.
        store: a folder for scores on disk; a run that was stopped goes on from there.
    """
    chosen = None
    if not validation.has_responses:
        chosen = tokens if isinstance(tokens, FirstTokens) else first_tokens(model, validation, tokens)
    identity = {
        "model": model.fingerprint,
        "data": hashlib.sha256((candidates.card.get("data_sha256", "") + validation.sha256).encode()).hexdigest(),
        "tokens": None if chosen is None else list(chosen.ids),
        **_how(model),
    }
    kept = None if store is None else ScoreStore(store, identity)
    search = CandidateSearch(candidates, scorer_for(model, validation, chosen), kept)
    return search.run(limits, progress=progress, on_score=on_score)


def first_tokens(
    model: ChatModel, data: ContrastSet, texts: Sequence[str] | None = None, *, is_refusal: bool | None = None
) -> FirstTokens:
    """The first tokens of the metric for a set of prompts: named, the paper's for refusal, or found in ``data``."""
    if texts is not None:
        return FirstTokens.from_texts(model, texts)
    known = paper_refusal_tokens(model) if (is_refusal_set(data) if is_refusal is None else is_refusal) else None
    if known is not None:
        return known
    positive, negative = (next_token_logits(model, side[:TOKEN_EXAMPLES]) for side in (data.positive, data.negative))
    return found_first_tokens(model, positive, negative)


def is_refusal_set(data: ContrastSet) -> bool:
    """Whether a set's card says that it is of requests a model refuses, so that the paper's own limits hold."""
    return data.card.get("metric") == "refusal"


def scores_folder() -> Path:
    """Where scores are kept between runs."""
    return cache_folder() / "scores"


def _identity(model: ChatModel, prepared: Prepared) -> dict[str, Any]:
    return {
        "model": model.fingerprint,
        "data": prepared.data.sha256,
        "seed": prepared.seed,
        "n_train": [len(prepared.train.positive), len(prepared.train.negative)],
        "n_validation": [len(prepared.validation.positive), len(prepared.validation.negative)],
        "filtered": prepared.filtered,
        "tokens": None if prepared.tokens is None else list(prepared.tokens.ids),
        **_how(model),
    }


def _how(model: ChatModel) -> dict[str, Any]:
    return {"dtype": str(model.dtype), "quantization": model.quantization, "thinking": model.thinking}
