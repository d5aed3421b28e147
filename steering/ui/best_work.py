"""The work of “Find the best”: try every place on the model, measure the winner's strength, hold it against controls.

Runs on the model's thread and reports what it finds as it finds it, so that whoever ends it early keeps what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steering.paper_choices import paper_choice
from steering.ui.make_work import SEED, batch_size

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Candidates, Direction
    from steering.models import ChatModel
    from steering.preparation import Prepared
    from steering.progress import Progress
    from steering.scoring import Scorer, Unsteered
    from steering.selection import CandidateScore, Limits
    from steering.separation import Separation
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

Place = tuple[int, int]  # position, layer

# What part of all the work each stage is, about, on the bundled model.
STAGES = ("Reading the texts", "Trying candidates", "Measuring the strength", "Holding it against controls")
ENDS = (0.05, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class BestRequest:
    """What is asked.

    Attributes:
        name: what to call the direction.
        first_tokens: texts that stand for the idea as the first of a reply; empty: to be found.
        is_refusal: whether the paper's own limits and filter hold; None: as the set's card says.
        limits: relaxed ones; None: the rule's own.
    """

    data: ContrastSet
    name: str
    first_tokens: tuple[str, ...] = ()
    is_refusal: bool | None = None
    limits: Limits | None = None


@dataclass(eq=False)
class Search:
    """What is known of a contrast set's candidates: enough to show them, to choose another, and to measure it.

    Attributes:
        scores: of the candidates that are decided.
        winner: the place the rule chose, once it has.
        problem: why it chose none, in a sentence.
        offer: the limits that one press would relax then.
        paper_words: what the paper chose for this model, for comparison.
    """

    request: BestRequest
    prepared: Prepared
    candidates: Candidates
    separation: Separation
    unsteered: Unsteered
    limits: Limits
    scores: dict[Place, CandidateScore] = field(default_factory=dict)
    winner: Place | None = None
    problem: str = ""
    offer: Limits | None = None
    paper_words: str = ""

    @property
    def n_places(self) -> int:
        return len(self.candidates.positions) * self.candidates.n_layers

    def direction_at(self, position: int, layer: int, name: str, score: CandidateScore | None = None) -> Direction:
        """The candidate at one place with what is known of it; raises DirectionError if there is none."""
        from steering.finding import scored_direction
        from steering.selection import CandidateScore

        score = score or self.scores.get((position, layer)) or CandidateScore(position, layer)
        direction = scored_direction(self.candidates, self.prepared, self.unsteered, score, self.limits, name)
        card = direction.card | self.separation.as_card(position, layer)
        if self.winner is not None and (position, layer) != self.winner:
            card["overruled"] = f"Chosen by hand; the rule chose layer {self.winner[1]}."
        return replace(direction, card=card)


@dataclass(frozen=True)
class Stage:
    """How far the work is: the stage's number, what is done of it, and how much it is."""

    number: int
    done: float
    total: float

    @property
    def part(self) -> float:
        """Of all the work."""
        begin = ENDS[self.number - 1] if self.number else 0.0
        return begin + (ENDS[self.number] - begin) * min(1.0, self.done / self.total if self.total else 0.0)


def find_best(engine: Engine, request: BestRequest, job: Job) -> None:
    """Find the best place and measure it.

    Reports `Stage`s; a `Search` once there is a map to fill; a `CandidateScore` each time one is decided; the `Search`
    again when the rule has chosen, or could not; then the `Direction` with its strength, and with its controls.
    """
    from steering.finding import Finder, scores_folder
    from steering.preparation import prepare
    from steering.selection import NoCandidateError
    from steering.separation import separation

    model = engine.ready_model()
    model.thinking = False
    with engine.all_cores():
        reading = _stage(job, 0)
        reading("", 0, 1)
        prepared = prepare(
            model,
            request.data,
            tokens=request.first_tokens or None,
            is_refusal=request.is_refusal,
            seed=SEED,
        )
        finder = Finder(model, prepared, store=scores_folder(), batch_size=batch_size(request.data), progress=reading)
        measured = separation(
            model, finder.candidates, prepared.validation, batch_size=batch_size(request.data), progress=reading
        )
        limits = request.limits or finder.limits
        candidates = replace(finder.candidates, card=finder.candidates.card | _told(model, request, measured))
        search = Search(request, prepared, candidates, measured, finder.scorer.unsteered, limits)
        if (choice := paper_choice(model.name)) is not None:
            search.paper_words = choice.words
        job.report(search)
        try:
            selection = finder.find(limits, name=request.name, progress=_stage(job, 1), on_score=job.report)
        except NoCandidateError as error:
            for miss in error.misses:
                job.report(miss.score)
            search.problem, search.offer = str(error), finder.relaxed(error)
            job.report(search)
            return
        for score in selection.scores:
            job.report(score)
        search.winner = selection.score.place
        job.report(search)
        direction = search.direction_at(*search.winner, request.name, selection.score)
        _measure(model, prepared, direction, search.candidates, finder.scorer, job)


def measure_place(engine: Engine, search: Search, direction: Direction, job: Job) -> None:
    """Measure the strength and the controls of a candidate chosen by hand."""
    from steering.scoring import scorer_for

    model = engine.ready_model()
    model.thinking = False
    with engine.all_cores():
        scorer = scorer_for(model, search.prepared.validation, search.prepared.tokens)
        _measure(model, search.prepared, direction, search.candidates, scorer, job)


def _measure(
    model: ChatModel, prepared: Prepared, direction: Direction, candidates: Candidates, scorer: Scorer, job: Job
) -> None:
    """Its strength, then its controls; reports the direction after each."""
    from steering.calibration import calibrated
    from steering.trust import trust

    direction = calibrated(model, direction, progress=_stage(job, 2))
    job.report(direction)
    trusted = trust(
        model, prepared, direction, candidates=candidates, scorer=scorer, seed=SEED, progress=_stage(job, 3)
    )
    job.report(replace(direction, card=direction.card | {"trust": trusted.as_card()}))


def _told(model: ChatModel, request: BestRequest, separation: Separation) -> dict[str, Any]:
    return {
        "data": request.data.name,
        "data_sha256": request.data.sha256,
        "seed": SEED,
        "n_held_out": separation.total,
        "position_tokens": [model.tokenizer.decode([token]) for token in model.post_instruction_tokens],
    }


def _stage(job: Job, number: int) -> Progress:
    """The progress callback of one stage; ends the work when a stop was asked for."""

    def report(what: str, done: float, total: float) -> None:
        job.check()
        job.report(Stage(number, done, total))

    return report
