"""The whole way from a prepared contrast set to a direction: difference in means, scores, the rule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.activations import EXAMPLES_A_BATCH
from steering.candidate_search import CandidateSearch, OnScore
from steering.contrast import ContrastSet
from steering.directions import Candidates, Direction, difference_in_means
from steering.metrics import FirstTokens
from steering.preparation import Prepared, first_tokens, is_refusal_set, prepare
from steering.progress import Progress, silent
from steering.score_store import ScoreStore
from steering.scoring import Scorer, Unsteered, pairs_first, scorer_for
from steering.selection import CandidateScore, Limits, NoCandidateError, relaxed, select_candidate
from steering.weights import cache_folder

if TYPE_CHECKING:
    from steering.models import ChatModel

LOOKING = "Looking at the nearest"
UNSTEERED = "Reading the model as it is"
# Where the limit on KL goes when no candidate keeps to it, nats. Above the last the model's next token is as good as
# replaced, and no press helps.
RELAXED_KL = (0.25, 0.5, 1.0)
MOST_LOOKS = 24  # candidates that were dropped and are scored to the end after all, to know which limit is in the way


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
        batch_size: int = EXAMPLES_A_BATCH,
        progress: Progress = silent,
    ) -> None:
        self.prepared = prepared
        self.model = model
        self.candidates = difference_in_means(model, prepared.train, batch_size=batch_size, progress=progress)
        self.scorer = scorer_for(
            model, prepared.validation, prepared.tokens, lambda part: progress(UNSTEERED, part, 1.0)
        )
        kept = None if store is None else ScoreStore(store, _identity(model, prepared, self.scorer))
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
        best = self._selected(limits, progress)
        return Selection(
            direction=self.direction(best, limits, name),
            score=best,
            scores=self.search.scores(),
            limits=limits,
            unsteered=self.scorer.unsteered,
            candidates=self.candidates,
            prepared=self.prepared,
        )

    def find_relaxed(self, *, name: str | None = None, progress: Progress = silent) -> Selection:
        """:meth:`find`, and where nothing passes, again with the limit in the way relaxed, until something does.

        What was relaxed is said in ``limits.relaxed`` and stands on the direction's card.

        Raises:
            NoCandidateError: if no single limit is in the way.
        """
        limits = self.limits
        while True:
            try:
                return self.find(limits, name=name, progress=progress)
            except NoCandidateError as error:
                relaxed_limits = self.relaxed(error)
                if relaxed_limits is None:
                    raise
                limits = relaxed_limits

    def _selected(self, limits: Limits, progress: Progress) -> CandidateScore:
        """The winner. If there is none, the nearest misses are scored to the end, for what they fail is to be known.

        A candidate dropped at one limit may fail another too; only one that fails a single limit shows which is in the
        way.
        """
        looks = 0
        while True:
            try:
                return select_candidate(self.search.scores(), self.candidates.n_layers, limits)
            except NoCandidateError as error:
                nearest = next((miss.score for miss in error.misses if len(miss.failed) == 1), None)
                if nearest is None or nearest.is_complete or nearest.is_unknown or looks == MOST_LOOKS:
                    raise
                progress(LOOKING, len(error.misses), len(error.misses))
                self.search.complete(nearest.place)
                looks += 1

    def relaxed(self, error: NoCandidateError) -> Limits | None:
        """``error.limits`` with the one in the way relaxed, or None if no single one is or no press would help.

        Induce: above the midpoint of the two sides' unsteered means (for sets with responses, above the unsteered
        mean). KL: below the first of RELAXED_KL that lets a candidate through. (Just above the smallest KL would choose
        by KL alone, and so the candidate that does least.)
        """
        relaxing = {"induce": self._relaxed_induce, "kl": self._relaxed_kl, "layer": self._relaxed_layer}
        in_the_way = [miss.failed[0] for miss in error.misses if len(miss.failed) == 1 and not miss.score.is_unknown]
        for name in dict.fromkeys(in_the_way):  # the nearest first
            limits = relaxing[name](error) if name in relaxing else None
            if limits is not None:
                return limits
        return None

    def _relaxed_induce(self, error: NoCandidateError) -> Limits | None:
        floor = self.scorer.unsteered.midpoint
        misses = [miss.score.induce_score for miss in error.misses if miss.failed == ("induce",)]
        return (
            relaxed(error.limits, "induce", induce=floor) if any(x is not None and x > floor for x in misses) else None
        )

    def _relaxed_kl(self, error: NoCandidateError) -> Limits | None:
        nearest = next(miss for miss in error.misses if miss.failed == ("kl",))
        kl = nearest.score.kl_score
        limit = next((step for step in RELAXED_KL if kl is not None and kl < step), None)
        return None if limit is None else relaxed(error.limits, "kl", kl=limit)

    def _relaxed_layer(self, error: NoCandidateError) -> Limits | None:
        return relaxed(error.limits, "layer")

    def direction(self, score: CandidateScore, limits: Limits, name: str | None = None) -> Direction:
        """The candidate of ``score`` as a direction, with how it was chosen in its card."""
        return scored_direction(self.candidates, self.prepared, self.scorer.unsteered, score, limits, name)


def scored_direction(
    candidates: Candidates,
    prepared: Prepared,
    unsteered: Unsteered,
    score: CandidateScore,
    limits: Limits,
    name: str | None = None,
) -> Direction:
    """A scored candidate as a direction; its card has the scores, the limits they were held against, and the data.

    Raises:
        DirectionError: if the two sides do not differ there.
    """
    found = candidates.direction(score.position, score.layer, name)
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
    scorer = scorer_for(model, validation, chosen)
    identity = {
        "model": model.fingerprint,
        "data": _examples(candidates.card.get("data_sha256", ""), validation),
        "tokens": None if chosen is None else list(chosen.ids),
        **_how(model, scorer),
    }
    kept = None if store is None else ScoreStore(store, identity)
    search = CandidateSearch(candidates, scorer, kept)
    return search.run(limits, progress=progress, on_score=on_score)


def scores_folder() -> Path:
    """Where scores are kept between runs."""
    return cache_folder() / "scores"


def _identity(model: ChatModel, prepared: Prepared, scorer: Scorer) -> dict[str, Any]:
    return {
        "model": model.fingerprint,
        "data": prepared.data.sha256,
        "examples": _examples(prepared.train.sha256, prepared.validation),
        "tokens": None if prepared.tokens is None else list(prepared.tokens.ids),
        **_how(model, scorer),
    }


def _examples(train_sha256: str, validation: ContrastSet) -> str:
    """Hash of what scores are taken from.

    Scores are kept example by example, so the order of the validation examples counts, and which of them are pairs:
    the same texts may come in other pairs, and are split otherwise then.
    """
    sides = (validation.positive, validation.negative, *pairs_first(validation)[:2])
    content = [train_sha256, [[example.canonical for example in side] for side in sides]]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _how(model: ChatModel, scorer: Scorer) -> dict[str, Any]:
    """The steps too, for of which examples a score's parts are is theirs to say."""
    steps = [[step.name, step.gives] for step in scorer.steps]
    return {"dtype": str(model.dtype), "quantization": model.quantization, "thinking": model.thinking, "steps": steps}


__all__ = [
    "Finder",
    "Prepared",
    "Selection",
    "first_tokens",
    "is_refusal_set",
    "prepare",
    "score_candidates",
    "scored_direction",
    "scores_folder",
]
