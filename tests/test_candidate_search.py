"""The search that stops early finds what the plain loop over everything finds, whatever the limits."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_scoring import CHECK, CHECK_REPLIES, TOKENS, TRAIN, TRAIN_REPLIES

from steering.candidate_search import CandidateSearch
from steering.directions import Candidates, difference_in_means
from steering.errors import Cancelled, OutOfMemoryError
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.progress import Tick
from steering.score_store import ScoreStore
from steering.scoring import INDUCE, KL, Scorer, scorer_for
from steering.selection import CandidateScore, Limits, NoCandidateError, select_candidate
from steering.step_costs import MOST_AT_ONCE, Outlook, StepCosts

Tiny = Callable[[str], ChatModel]
FAMILIES = ("qwen2", "gemma2", "gpt-neox")
KINDS = ("prompts", "responses")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def prepared(tiny: Tiny) -> Callable[[str, str], tuple[Candidates, Scorer, list[CandidateScore]]]:
    """Candidates, scorer and the whole table of scores of a family and a kind of set; made once."""

    def make(name: str, kind: str) -> tuple[Candidates, Scorer, list[CandidateScore]]:
        chat = tiny(name)
        train, check = (TRAIN, CHECK) if kind == "prompts" else (TRAIN_REPLIES, CHECK_REPLIES)
        tokens = FirstTokens(TOKENS, ("a", "b"), "for this test") if kind == "prompts" else None
        candidates = difference_in_means(chat, train)
        scorer = scorer_for(chat, check, tokens)
        return candidates, scorer, CandidateSearch(candidates, scorer).run()

    return cache(make)


def quantile(scores: list[CandidateScore], name: str, part: float) -> float:
    """A value of this score that ``part`` of the candidates lie below; on a candidate's own value for ties."""
    values = sorted(getattr(score, name) for score in scores if getattr(score, name) == getattr(score, name))
    return values[min(int(part * len(values)), len(values) - 1)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(induce=st.floats(0, 1), kl=st.floats(0, 1), depth=st.sampled_from([0.5, 0.8, 1.0]), nudge=st.booleans())
def test_any_limits(
    name: str,
    kind: str,
    prepared: Callable[[str, str], tuple[Candidates, Scorer, list[CandidateScore]]],
    induce: float,
    kl: float,
    depth: float,
    nudge: bool,
) -> None:
    """Limits lie among the candidates' own scores, exactly on one or (nudged) just beside it."""
    candidates, scorer, table = prepared(name, kind)
    off = 1e-6 if nudge else 0.0
    limits = Limits(quantile(table, "induce_score", induce) - off, quantile(table, "kl_score", kl) + off, depth)
    scores = CandidateSearch(candidates, scorer).run(limits)
    check_known_scores(scores, table)
    # A score that lies on a limit is on either side of it by rounding: another pass sums it in another order.
    within_rounding = {
        place_of(table, candidates.n_layers, Limits(limits.induce + i, limits.kl + k, depth))
        for i in (-1e-6, 0.0, 1e-6)
        for k in (-1e-6, 0.0, 1e-6)
    }
    expected = {place_of(table, candidates.n_layers, limits)} if nudge else within_rounding
    assert place_of(scores, candidates.n_layers, limits) in expected


def place_of(scores: list[CandidateScore], n_layers: int, limits: Limits) -> tuple[int, int] | None:
    """Where the rule chooses, or None where nothing passes."""
    try:
        return select_candidate(scores, n_layers, limits).place
    except NoCandidateError:
        return None


def check_known_scores(scores: list[CandidateScore], table: list[CandidateScore]) -> None:
    for score, whole in zip(scores, table, strict=True):
        assert score.place == whole.place
        for part in ("bypass_score", "induce_score", "kl_score"):
            if getattr(score, part) is not None:
                assert getattr(score, part) == pytest.approx(getattr(whole, part), abs=1e-5, nan_ok=True)
        assert not score.kl_at_least > whole.kl_score + 1e-6


def test_work_is_saved(prepared: Callable[..., tuple[Candidates, Scorer, list[CandidateScore]]]) -> None:
    candidates, scorer, table = prepared("qwen2", "prompts")
    limits = Limits(induce=quantile(table, "induce_score", 0.8), kl=1e9, depth=0.5)
    scores = CandidateSearch(candidates, scorer).run(limits)
    late = [score for score in scores if not limits.allows_layer(score.layer, candidates.n_layers)]
    assert late
    assert all(score.bypass_score is score.induce_score is score.kl_score is None for score in late if score.layer)
    assert sum(score.is_complete for score in scores) < len(scores) / 2


def test_two_identical_candidates_tie_and_the_first_wins(prepared: Callable[..., tuple]) -> None:
    """The same vector at two positions of a layer: all scores are equal, and the lower position wins both ways."""
    candidates, scorer, _ = prepared("qwen2", "prompts")
    twins = candidates.vectors.clone()
    twins[:] = twins[-1:]
    double = Candidates(twins, candidates.positions, candidates.positive, candidates.negative, candidates.card)
    limits = Limits(induce=-1e9, kl=1e9)
    table = CandidateSearch(double, scorer).run()
    scores = CandidateSearch(double, scorer).run(limits)
    expected = select_candidate(table, double.n_layers, limits)
    assert expected.position == candidates.positions[0]
    assert select_candidate(scores, double.n_layers, limits).place == expected.place


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    prepared: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, scorer, table = prepared("qwen2", "prompts")
    run = type(scorer).run

    def cramped(self: Scorer, step: str, directions: list, tick: Tick) -> list:
        if len(directions) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, step, directions, tick)

    monkeypatch.setattr(type(scorer), "run", cramped)
    search = CandidateSearch(candidates, scorer)
    for costs in search._costs.values():
        costs.rows = 8
    check_known_scores(search.run(), table)
    assert search.notes == [
        "Memory ran out, so candidates were scored 4 at a time.",
        "Memory ran out, so candidates were scored 2 at a time.",
    ]

    def full(self: Scorer, step: str, directions: list, tick: Tick) -> list:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(type(scorer), "run", full)
    with pytest.raises(OutOfMemoryError, match="even one candidate"):
        CandidateSearch(candidates, scorer).run()


def test_rows_double_while_that_pays() -> None:
    costs = StepCosts()
    for rows, seconds_each in ((1, 2.0), (1, 1.0), (2, 0.6), (2, 0.9), (4, 0.58), (4, 0.59)):
        assert costs.rows == rows
        costs.took(rows, 0.5, seconds_each * rows * 0.5)
    assert costs.rows == 2
    costs.took(2, 1.0, 0.1)
    costs.took(2, 1.0, 0.1)
    assert costs.rows == 2


def test_rows_have_an_end_and_memory_may_set_an_earlier_one() -> None:
    costs = StepCosts()
    for halvings in range(20):
        costs.took(costs.rows, 1.0, costs.rows * 0.5**halvings)
    assert costs.rows == MOST_AT_ONCE
    costs.allow(3)
    for halvings in range(20, 40):
        costs.took(costs.rows, 1.0, costs.rows * 0.5**halvings)
    assert costs.rows == 3


def test_the_step_that_costs_least_for_each_candidate_it_drops() -> None:
    cheap, sharp = StepCosts(), StepCosts()
    cheap.took(1, 1.0, 0.1)
    sharp.took(1, 1.0, 0.5)
    near, far = Outlook((-1, 5)), Outlook((-1, 25))
    assert cheap.per_drop(1.0, near) < sharp.per_drop(1.0, near)
    tries = [Outlook((-1, layer)) for layer in range(4, 7)]
    cheap.tried(tries, [False] * 3)
    sharp.tried(tries, [True] * 3)
    # Near those places 0.1 s a try that never drops against 0.5 s a drop; far from them the cheap one is still first.
    assert cheap.per_drop(1.0, near) > sharp.per_drop(1.0, near)
    assert cheap.per_drop(1.0, far) < sharp.per_drop(1.0, far)
    assert sharp.per_drop(0.5, near) == pytest.approx(sharp.per_drop(1.0, near) / 2)


def test_what_a_candidate_leans_to_tells_more_than_its_place() -> None:
    costs = StepCosts()
    costs.took(1, 1.0, 1.0)
    lost, safe = Outlook((-1, 5), 1.0), Outlook((-1, 5), -1.0)
    assert costs.per_drop(1.0, lost) == pytest.approx(1 + math.exp(-3))
    assert costs.per_drop(1.0, lost) < 1.1 < 20 < costs.per_drop(1.0, safe)
    # Experience with candidates that leaned as much counts wherever they were, and with others hardly.
    costs.tried([Outlook((-4, 25), -1.0)] * 20, [True] * 20)
    assert costs.per_drop(1.0, safe) < 1.2
    assert costs.per_drop(1.0, Outlook((-4, 25), -3.0)) > 50


def test_a_part_of_the_kl_tells_where_the_whole_will_be(prepared: Callable[..., tuple]) -> None:
    candidates, scorer, _ = prepared("qwen2", "prompts")
    search = CandidateSearch(candidates, scorer)
    one, limits = search._all[-1], Limits(-1e9, 0.1)
    first, second = [step for step in scorer.steps if KL in step.gives][:2]
    part = (first.gives[KL] + second.gives[KL]) / scorer.totals[KL]
    assert search._outlook(first, one, limits) == Outlook(one.place)
    one.known[first.name] = {KL: [0.3] * first.gives[KL]}
    outlook = search._outlook(second, one, limits)
    assert outlook.lean == pytest.approx(math.log(part * 0.3 / 0.1))
    assert search._outlook(second, one, None) == search._outlook(scorer.steps[0], one, limits) == Outlook(one.place)
    one.known[first.name] = {KL: [math.nan] * first.gives[KL]}
    assert math.isfinite(search._outlook(second, one, limits).lean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on(kind: str, prepared: Callable[..., tuple], tmp_path: Path) -> None:
    candidates, scorer, table = prepared("qwen2", kind)
    identity = {"model": "m", "data": "d"}
    decided: list[float] = []

    def stop_after_three(what: str, done: float, total: float) -> None:
        decided.append(done)
        if done >= 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        CandidateSearch(candidates, scorer, ScoreStore(tmp_path, identity)).run(progress=stop_after_three)
    taken: list[str] = []
    run = scorer.run

    def counted(step: str, directions: list, tick: Tick) -> list:
        taken.append(step)
        return run(step, directions, tick)

    resumed = CandidateSearch(candidates, scorer, ScoreStore(tmp_path, identity))
    resumed.scorer = type("Counted", (), {**vars(scorer), "run": staticmethod(counted)})()
    check_known_scores(resumed.run(), table)
    with_direction = [score for score in table if score.bypass_score == score.bypass_score]
    assert len(taken) <= (len(with_direction) - 1) * len(scorer.steps)
    check_known_scores(CandidateSearch(candidates, scorer, ScoreStore(tmp_path, identity)).scores(), table)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
from test_scoring import CHECK, TOKENS, TRAIN
from steering import load_model
from steering.directions import difference_in_means
from steering.finding import score_candidates
from steering.metrics import FirstTokens
from steering.selection import Limits, select_candidate
torch.set_num_threads(1)
chat = load_model(sys.argv[1], device="cpu", dtype=torch.float32)
candidates = difference_in_means(chat, TRAIN)
print("begin", flush=True)
scores = score_candidates(
    chat, candidates, CHECK, tokens=FirstTokens(TOKENS, ("a", "b"), "test"), store=Path(sys.argv[2]),
)
print(select_candidate(scores, chat.n_layers, Limits(-1e9, 1e9)).place)
"""


def scoring_process(folder: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(store), str(ROOT / "tests")]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env={**os.environ}
    )


def test_killed_at_random_moments_it_resumes_to_the_same_winner(
    family_folder: Callable[[str], Path], prepared: Callable[..., tuple], tmp_path: Path
) -> None:
    candidates, _, table = prepared("qwen2", "prompts")
    expected = select_candidate(table, candidates.n_layers, Limits(-1e9, 1e9)).place
    rng = random.Random(0)
    kills = 0
    for _ in range(10):
        process = scoring_process(family_folder("qwen2"), tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    process = scoring_process(family_folder("qwen2"), tmp_path)
    output, _ = process.communicate()
    assert output == f"begin\n{expected}\n"
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert INDUCE in next(tmp_path.glob("*.jsonl")).read_text()
    assert KL in next(tmp_path.glob("*.jsonl")).read_text()
