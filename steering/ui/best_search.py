"""What “Find the best” is asked, and what it knows of a contrast set's candidates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steering.ui.squares import row_words

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Candidates, Direction
    from steering.finding import Finder
    from steering.models import ChatModel
    from steering.preparation import Prepared
    from steering.scoring import Unsteered
    from steering.selection import CandidateScore, Limits
    from steering.separation import Separation

Place = tuple[int, int]  # position, layer


@dataclass(frozen=True)
class BestRequest:
    """What is asked.

    Attributes:
        name: what to call the direction.
        first_tokens: texts that stand for the idea as the first of a reply; empty: to be found.
        is_refusal: whether the paper's own limits and filter hold; None: as the set's card says.
        limits: relaxed ones; None: the rule's own.
        model: name and revision of the model that ``limits`` were relaxed for.
    """

    data: ContrastSet
    name: str
    first_tokens: tuple[str, ...] = ()
    is_refusal: bool | None = None
    limits: Limits | None = None
    model: tuple[str, str] | None = None


@dataclass(frozen=True)
class Choice:
    """What the rule chose, or why it chose no place.

    Attributes:
        winner: the place.
        problem: why there is none, in a sentence.
        offer: the limits that one press would relax then.
    """

    winner: Place | None = None
    problem: str = ""
    offer: Limits | None = None


@dataclass(eq=False)
class Search:
    """What is known of a contrast set's candidates: enough to show them, to choose another, and to measure it.

    It grows with what the work reports, and only whoever reads the reports changes it.

    Attributes:
        scores: of the candidates that are decided.
        choice: the rule's, once it has made it.
        paper_words: what the paper chose for this model, for comparison.
        measured: by place, what a direction's card says of its strength and its controls.
    """

    request: BestRequest
    prepared: Prepared
    candidates: Candidates
    separation: Separation
    unsteered: Unsteered
    limits: Limits
    scores: dict[Place, CandidateScore] = field(default_factory=dict)
    choice: Choice = Choice()
    paper_words: str = ""
    measured: dict[Place, dict[str, Any]] = field(default_factory=dict)

    @property
    def winner(self) -> Place | None:
        """The place the rule chose."""
        return self.choice.winner

    @property
    def model(self) -> tuple[str, str]:
        """Name and revision of the model it was made on."""
        return self.candidates.card["model"], self.candidates.card["revision"]

    @property
    def n_places(self) -> int:
        return len(self.candidates.positions) * self.candidates.n_layers

    def direction_at(self, position: int, layer: int, name: str, score: CandidateScore | None = None) -> Direction:
        """The candidate at one place with what is known of it; raises DirectionError if there is none."""
        from steering.finding import scored_direction
        from steering.selection import CandidateScore

        place = (position, layer)
        score = score or self.scores.get(place) or CandidateScore(position, layer)
        direction = scored_direction(self.candidates, self.prepared, self.unsteered, score, self.limits, name)
        card = direction.card | self.separation.as_card(position, layer) | self.measured.get(place, {})
        if place != self.winner:
            card["overruled"] = f"Chosen by hand; {self._rule_words()}."
        return replace(direction, card=card)

    def _rule_words(self) -> str:
        """What the rule chose, for the card of a place that it did not choose."""
        if self.winner is not None:
            return f"the rule chose layer {self.winner[1]}, {row_words(self.winner[0])}"
        if self.choice.problem:
            return "by the rule no place keeps to all limits"
        return "not every place had been tried"


@dataclass(frozen=True, eq=False)
class KeptSearch:
    """What a search was made with, for another under other limits: it goes on at once from the scores it has."""

    request: BestRequest
    finder: Finder
    separation: Separation

    def serves(self, request: BestRequest, model: ChatModel) -> bool:
        """Whether a request asks for the same texts, tokens and filter, on the same model."""
        mine = self.request
        return (
            self.finder.model is model
            and _content(request.data) == _content(mine.data)
            and request.first_tokens == mine.first_tokens
            and request.is_refusal == mine.is_refusal
        )


def _content(data: ContrastSet) -> tuple[str, list[list[tuple[str, str | None]]]]:
    """All of a set that a direction's card shows or a split depends on: the pairs too, which its hash leaves out."""
    return data.name, [[(one.canonical, one.pair) for one in side] for side in (data.positive, data.negative)]
