"""The work of “Find the best”: try every place on the model, measure the winner's strength, hold it against controls.

Runs on the model's thread and reports what it finds as it finds it, so that whoever ends it early keeps what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.paper_choices import paper_choice
from steering.ui.make_batches import SEED, batch_size
from steering.ui.make_words import GONE
from steering.ui.squares import row_words

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Candidates, Direction
    from steering.finding import Finder
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
        model: name and revision of the model that ``limits`` were relaxed for.
    """

    data: ContrastSet
    name: str
    first_tokens: tuple[str, ...] = ()
    is_refusal: bool | None = None
    limits: Limits | None = None
    model: tuple[str, str] | None = None


@dataclass(eq=False)
class Search:
    """What is known of a contrast set's candidates: enough to show them, to choose another, and to measure it.

    Attributes:
        scores: of the candidates that are decided.
        winner: the place the rule chose, once it has.
        problem: why it chose none, in a sentence.
        offer: the limits that one press would relax then.
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
    winner: Place | None = None
    problem: str = ""
    offer: Limits | None = None
    paper_words: str = ""
    measured: dict[Place, dict[str, Any]] = field(default_factory=dict)

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
        if self.problem:
            return "by the rule no place keeps to all limits"
        return "not every place had been tried"


@dataclass(frozen=True, eq=False)
class KeptSearch:
    """What a search was made with, for another under other limits: it goes on at once from the scores it has."""

    request: BestRequest
    finder: Finder
    separation: Separation

    def serves(self, request: BestRequest) -> bool:
        """Whether a request asks for the same texts, tokens and filter."""
        mine = self.request
        return (
            request.data.sha256 == mine.data.sha256
            and request.first_tokens == mine.first_tokens
            and request.is_refusal == mine.is_refusal
        )


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
    from steering.selection import NoCandidateError

    model = engine.ready_model()
    if request.model is not None:
        _require_model(model, request.model)
    model.thinking = False
    with engine.all_cores():
        kept = engine.kept_search
        if kept is None or not kept.serves(request):
            engine.kept_search = None  # frees what it holds before as much is needed anew
            engine.kept_search = kept = _prepared(engine, request, job)
        finder, limits = kept.finder, request.limits or kept.finder.limits
        candidates = replace(finder.candidates, card=finder.candidates.card | _told(model, request, kept.separation))
        search = Search(request, finder.prepared, candidates, kept.separation, finder.scorer.unsteered, limits)
        if (choice := paper_choice(model.name)) is not None:
            search.paper_words = choice.words
        job.report(search)
        try:
            selection = finder.find(limits, name=request.name, progress=_stage(engine, job, 1), on_score=job.report)
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
        _measure(engine, job, finder.prepared, direction, search.candidates, finder.scorer)


def _prepared(engine: Engine, request: BestRequest, job: Job) -> KeptSearch:
    """Read the texts: all that a search needs before it begins."""
    from steering.finding import Finder, scores_folder
    from steering.preparation import prepare
    from steering.separation import separation

    model = engine.ready_model()
    _reading(engine, job, 0, 1)("", 0, 1)
    prepared = prepare(
        model, request.data, tokens=request.first_tokens or None, is_refusal=request.is_refusal, seed=SEED
    )
    n_train, n_check = (len(part.positive) + len(part.negative) for part in (prepared.train, prepared.validation))
    rows = batch_size(request.data)
    learning = _reading(engine, job, 0, n_train + n_check)
    finder = Finder(model, prepared, store=scores_folder(), batch_size=rows, progress=learning)
    checking = _reading(engine, job, n_train, n_train + n_check)
    measured = separation(model, finder.candidates, prepared.validation, batch_size=rows, progress=checking)
    return KeptSearch(request, finder, measured)


def measure_place(engine: Engine, search: Search, direction: Direction, job: Job) -> None:
    """Measure the strength and the controls of a candidate chosen by hand; reports them as `find_best` does."""
    from steering.scoring import scorer_for

    model = engine.ready_model()
    _require_model(model, search.model)
    model.thinking = False
    with engine.all_cores():
        kept = engine.kept_search
        if kept is not None and kept.finder.prepared is search.prepared:
            scorer = kept.finder.scorer
        else:
            scorer = scorer_for(model, search.prepared.validation, search.prepared.tokens)
        _measure(engine, job, search.prepared, direction, search.candidates, scorer)


def _measure(
    engine: Engine, job: Job, prepared: Prepared, direction: Direction, candidates: Candidates, scorer: Scorer
) -> None:
    """Its strength, then its controls; reports the direction after each, and the scores its controls are held to."""
    from steering.calibration import calibrated
    from steering.selection import CandidateScore
    from steering.trust import WHAT, trust

    model = engine.ready_model()
    direction = calibrated(model, direction, progress=_stage(engine, job, 2))
    job.report(direction)
    trusted = trust(
        model,
        prepared,
        direction,
        candidates=candidates,
        scorer=scorer,
        seed=SEED,
        progress=_stage(engine, job, 3, WHAT),
    )
    bypass, induce, kl = (trusted.scores[score].value for score in ("bypass", "induce", "kl"))
    job.report(CandidateScore(direction.position, direction.layer, bypass, induce, kl, kl_at_least=kl))
    job.report(replace(direction, card=direction.card | {"trust": trusted.as_card()}))


def _told(model: ChatModel, request: BestRequest, separation: Separation) -> dict[str, Any]:
    return {
        "data": request.data.name,
        "data_sha256": request.data.sha256,
        "seed": SEED,
        "n_held_out": separation.total,
        "position_tokens": [model.tokenizer.decode([token]) for token in model.post_instruction_tokens],
    }


def _require_model(model: ChatModel, wanted: tuple[str, str]) -> None:
    """Raise SteeringError if another model has come into use since something was found."""
    if (model.name, model.revision) != wanted:
        raise SteeringError(GONE)


def _reading(engine: Engine, job: Job, before: int, of: int) -> Progress:
    """The progress callback of a part of the first stage, in texts.

    It ends the work when a stop was asked for, and lets visitors who wait for a reply go first.
    """

    def report(what: str, done: float, total: float) -> None:
        job.check()
        engine.let_others_go(job)
        job.report(Stage(0, before + done, of))

    return report


def _stage(engine: Engine, job: Job, number: int, counted: str = "") -> Progress:
    """The progress callback of a later stage; it ends the work or lets others go first, as that of the first does.

    ``counted``: what is counted; anything else is got ready for it. By default all.
    """

    def report(what: str, done: float, total: float) -> None:
        job.check()
        engine.let_others_go(job)
        job.report(Stage(number, done if counted in ("", what) else 0, total))

    return report
