"""A small classifier of style, learned from a contrast set's responses, and what it is worth on those held out.

It knows which characters stand together and nothing of the model whose replies it is used on, so it is a second opinion
beside counted markers. Like them it reads the surface: it is as good as its set, of whose subjects it knows some too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from steering.contrast import ContrastSet
from steering.errors import ContrastSetError
from steering.figures import Figure, auroc, bootstrapped, wilson

__all__ = ["HeldOut", "StyleClassifier", "ai_style"]

CHARACTERS = (2, 5)  # in an n-gram: the ends of words, short words, marks of lists
INVERSE_PENALTY = 10.0  # C of the regression; texts are unit vectors, so that C = 1 leaves every score near the middle
POSITIVE_FROM = 0.5  # a score from which on a text counts as positive


@dataclass(frozen=True)
class HeldOut:
    """What a classifier is worth on examples it has not seen.

    Attributes:
        auroc: the chance that a positive text has the higher score, with its bootstrap interval.
        accuracy: the share of texts on the right side of POSITIVE_FROM, with Wilson's interval.
        length_ruler: AUROC of the length of the texts alone, by the same bootstrap, counted so that it is at least 0.5.
        longer: whose texts are the longer ones by it, ``"positive"``, ``"negative"`` or ``"neither"``.
        n: texts of both sides.
    """

    auroc: Figure
    accuracy: Figure
    length_ruler: Figure
    longer: str
    n: int


@dataclass(frozen=True, eq=False)
class StyleClassifier:
    """Logistic regression over tf-idf of character n-grams; made by :meth:`fit`.

    Attributes:
        seed: of the intervals. The fit itself draws nothing.
        texts: what it learned from.
    """

    pipeline: Pipeline
    seed: int
    texts: frozenset[str] = field(repr=False)

    @classmethod
    def fit(cls, train: ContrastSet, seed: int = 0) -> StyleClassifier:
        """Learn to tell the responses of ``train``'s sides apart.

        Raises:
            ContrastSetError: if the set has no responses.
        """
        positive, negative = _responses(train)
        pipeline = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=CHARACTERS, lowercase=False, sublinear_tf=True, min_df=2),
            LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1_000),
        )
        labels = [True] * len(positive) + [False] * len(negative)
        pipeline.fit([*positive, *negative], labels)
        return cls(pipeline, seed, frozenset([*positive, *negative]))

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The probability of the positive side, float64 ``[n_texts]`` in [0, 1]."""
        if not texts:
            return np.empty(0)
        positive = list(self.pipeline.classes_).index(True)
        return np.asarray(self.pipeline.predict_proba(list(texts))[:, positive], dtype=np.float64)

    def held_out(self, validation: ContrastSet, count: Callable[[str], int] = len) -> HeldOut:
        """Measure it on examples it did not learn from.

        Args:
            count: a text's length for the length ruler; by default in characters.

        Raises:
            ContrastSetError: if the set has no responses, or one that was learned from.
        """
        positive, negative = _responses(validation)
        if known := self.texts & {*positive, *negative}:
            raise ContrastSetError(
                f"{len(known)} of the responses of {validation.name} were learned from, the first “{min(known)[:40]}”, "
                "so they are not held out. Split the set first."
            )
        scores = [self.scores(side) for side in (positive, negative)]
        right = int((scores[0] >= POSITIVE_FROM).sum() + (scores[1] < POSITIVE_FROM).sum())
        lengths = [np.array([count(text) for text in side], dtype=np.float64) for side in (positive, negative)]
        positive_longer = float(auroc(lengths[0], lengths[1]))
        longer = "neither" if positive_longer == 0.5 else "positive" if positive_longer > 0.5 else "negative"
        return HeldOut(
            auroc=bootstrapped(scores, auroc, self.seed),
            accuracy=wilson(right, len(positive) + len(negative)),
            length_ruler=bootstrapped(lengths[::-1] if longer == "negative" else lengths, auroc, self.seed),
            longer=longer,
            n=len(positive) + len(negative),
        )


@cache
def ai_style() -> StyleClassifier:
    """The classifier that the preset “sounds like AI” teaches, learned from its training side at the first use."""
    train, _ = ContrastSet.load("sounds-like-ai").split(seed=0)
    return StyleClassifier.fit(train)


def _responses(data: ContrastSet) -> tuple[list[str], list[str]]:
    sides = [[one.response for one in side if one.response is not None] for side in (data.positive, data.negative)]
    if not all(sides):
        raise ContrastSetError(f"{data.name} lacks responses on a side, and a style is learned from them. Add some.")
    return sides[0], sides[1]
