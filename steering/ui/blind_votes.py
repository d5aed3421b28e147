"""What the blind test knows: a round whose labels are still secret, and the votes a visitor's browser keeps.

Votes are plain data, ``{tally: {question: variant}}``. A tally is one idea on one model; tallies and questions are
known by digests, so that nothing anybody wrote is stored. A variant is a place in `steering.ui.scope.VARIANTS`. A
question has one vote in a tally by construction: whoever asks it again has seen the labels.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steering.figures import Figure, wilson

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

Votes = dict[str, dict[str, int]]

LETTERS = "ABC"
SHORT_NAMES = ("as it is", "taken out", "turned up")
# The oldest go first. Full, they are half a megabyte, a tenth of what a browser keeps for a page.
TALLIES_KEPT, VOTES_KEPT = 50, 500


@dataclass(frozen=True)
class Round:
    """Three answers to vote on. Which variant stands at which place is known here, on the server, and nowhere else.

    Attributes:
        tally, question: digests, under which the vote is kept.
        title, model: of the idea and the model, for people.
        replies: as they are shown, A first.
        order: the variant at each place.
    """

    tally: str
    question: str
    title: str
    model: str
    replies: tuple[str, ...]
    order: tuple[int, ...]

    @property
    def problem(self) -> str:
        """Why no vote can be taken, in a sentence, or ""."""
        if not all(self.replies):
            return "One answer is empty; ask another question."
        different = len(set(self.replies))
        if different == len(self.replies):
            return ""
        return f"{'Two' if different > 1 else 'All three'} answers are the same; ask another question."

    def label(self, place: int) -> str:
        """What stands at a place, in words that fit into a sentence."""
        variant = self.order[place]
        return SHORT_NAMES[0] if variant == 0 else f"{self.title} {SHORT_NAMES[variant]}"


def shuffled(
    replies: Sequence[str], dice: random.Random, *, tally: str, question: str, title: str, model: str
) -> Round:
    """A round of three replies, given by variant, in an order all six of which are equally likely."""
    order = tuple(dice.sample(range(len(replies)), len(replies)))
    shown = tuple(replies[variant].strip() for variant in order)
    return Round(tally, digest(question), title, model, shown, order)


def digest(*parts: str) -> str:
    """A short name for texts that does not tell them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def tally_of(idea: str, own: Direction | None, model: ChatModel) -> str:
    """The tally of an idea on a model; a direction of the visitor's own is known by its numbers, not by its name."""
    direction = idea if own is None else hashlib.sha256(own.vector.numpy().tobytes()).hexdigest()
    return digest(model.name, model.revision, direction)


def sound_votes(stored: Any) -> Votes:
    """The votes in what a browser sent, which may be anything."""
    if not isinstance(stored, dict):
        return {}
    votes = {
        str(tally): {
            str(question): variant
            for question, variant in list(asked.items())[-VOTES_KEPT:]
            if type(variant) is int and 0 <= variant < len(SHORT_NAMES)
        }
        for tally, asked in list(stored.items())[-TALLIES_KEPT:]
        if isinstance(asked, dict)
    }
    return {tally: asked for tally, asked in votes.items() if asked}


def with_vote(votes: Votes, round_: Round, place: int) -> Votes:
    """The votes and one more, its tally last; the same votes if this question has one already."""
    asked = votes.get(round_.tally, {})
    if round_.question in asked:
        return votes
    others = {tally: other for tally, other in votes.items() if tally != round_.tally}
    return sound_votes({**others, round_.tally: {**asked, round_.question: round_.order[place]}})


def counts(votes: Votes, tally: str) -> list[int]:
    """How many votes each variant has."""
    found = Counter(votes.get(tally, {}).values())
    return [found[variant] for variant in range(len(SHORT_NAMES))]


def shares(counted: Sequence[int]) -> list[Figure]:
    """Each variant's share of the votes with its 95 % interval (Wilson)."""
    return [wilson(count, sum(counted)) for count in counted]


def share_words(share: Figure) -> str:
    """“25 % (9 to 53 %)”."""
    return f"{share.value:.0%} ({100 * share.low:.0f} to {share.high:.0%})".replace("%", " %")


def tally_words(counted: Sequence[int]) -> str:
    """The tally in one sentence; there must be a vote in it."""
    n = sum(counted)
    parts = [f"{name} {share_words(share)}" for name, share in zip(SHORT_NAMES, shares(counted), strict=True)]
    return f"Most human so far, {n} vote{'' if n == 1 else 's'}: {', '.join(parts)}."
