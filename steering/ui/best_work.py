"""The work of “Find the best”: try every place on the model, measure the winner's strength, hold it against controls.

Runs on the model's thread and reports what it finds as it finds it, so that whoever ends it early keeps what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.paper_choices import paper_choice
from steering.ui.best_search import BestRequest, Choice, KeptSearch, Search
from steering.ui.make_words import GONE, SEED

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.models import ChatModel
    from steering.preparation import Prepared
    from steering.progress import Progress
    from steering.scoring import Scorer
    from steering.separation import Separation
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

# What part of all the work each stage is, about, on the bundled model.
STAGES = ("Reading the texts", "Trying candidates", "Measuring the strength", "Holding it against controls")
ENDS = (0.05, 0.4, 0.7, 1.0)


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

    Reports `Stage`s; a `Search` once there is a map to fill; a `CandidateScore` each time one is decided; a `Choice`
    when the rule has chosen, or could not; then the `Direction` with its strength, and with its controls.
    """
    from steering.selection import NoCandidateError

    model = engine.ready_model()
    if request.model is not None:
        _require_model(model, request.model)
    model.thinking = False
    with engine.all_cores():
        kept = engine.kept_search
        if kept is None or not kept.serves(request, model):
            engine.kept_search = None  # frees what it holds before as much is needed anew
            engine.kept_search = kept = _prepared(engine, request, job)
        finder, limits = kept.finder, request.limits or kept.finder.limits
        candidates = replace(finder.candidates, card=finder.candidates.card | _told(model, request, kept.separation))
        search = Search(request, finder.prepared, candidates, kept.separation, finder.scorer.unsteered, limits)
        published = paper_choice(model.name) if finder.prepared.is_refusal else None
        if published is not None:
            search.paper_words = published.words
        job.report(search)
        try:
            selection = finder.find(limits, name=request.name, progress=_stage(engine, job, 1), on_score=job.report)
        except NoCandidateError as error:
            for miss in error.misses:
                job.report(miss.score)
            job.report(Choice(problem=str(error), offer=finder.relaxed(error)))
            return
        for score in selection.scores:
            job.report(score)
        choice = Choice(selection.score.place)
        job.report(choice)
        chosen = replace(search, choice=choice)
        direction = chosen.direction_at(*selection.score.place, request.name, selection.score)
        _measure(engine, job, finder.prepared, direction, search.candidates, finder.scorer)


def _prepared(engine: Engine, request: BestRequest, job: Job) -> KeptSearch:
    """Read the texts: all that a search needs before it begins."""
    from steering.activations import WHAT as READING
    from steering.finding import UNSTEERED, Finder, scores_folder
    from steering.preparation import prepare
    from steering.separation import separation

    model = engine.ready_model()
    choosing = _reading(engine, job, 0.0, {"": 0.2})
    choosing("", 0, 1)
    prepared = prepare(
        model,
        request.data,
        tokens=request.first_tokens or None,
        is_refusal=request.is_refusal,
        seed=SEED,
        tick=lambda part: choosing("", part, 1.0),
    )
    learning = _reading(engine, job, 0.2, {READING: 0.4, UNSTEERED: 0.2})
    finder = Finder(model, prepared, store=scores_folder(), progress=learning)
    checking = _reading(engine, job, 0.8, {READING: 0.2})
    measured = separation(model, finder.candidates, prepared.validation, progress=checking)
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


def _reading(engine: Engine, job: Job, start: float, shares: dict[str, float]) -> Progress:
    """The progress callback of a part of the first stage, which begins at ``start`` of it.

    It ends the work when a stop was asked for, and lets visitors who wait for a reply go first.

    Args:
        shares: what is done one after another in this part, and how much of the stage each takes.
    """

    def report(what: str, done: float, total: float) -> None:
        job.check()
        engine.let_others_go(job)
        before = sum(list(shares.values())[: list(shares).index(what)])
        job.report(Stage(0, start + before + shares[what] * done / max(total, 1), 1))

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
