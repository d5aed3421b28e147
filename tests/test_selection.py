"""The paper's rule: limits, ties, missing scores, and what is said when nothing passes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steering.errors import SteeringError
from steering.selection import CandidateScore, Limits, NoCandidateError, relaxed, select_candidate

N_LAYERS = 10


def score(layer: int, bypass: float, induce: float = 1.0, kl: float = 0.05, position: int = -1) -> CandidateScore:
    return CandidateScore(position, layer, bypass, induce, kl)


def test_the_lowest_bypass_within_all_limits_wins() -> None:
    scores = [
        score(1, -9.0, induce=-0.1),  # does not induce
        score(2, -8.0, kl=0.2),  # moves harmless prompts too far
        score(8, -7.0),  # too late: 8 is not below 0.8 · 10
        score(3, -5.0),
        score(4, -6.0),
    ]
    assert select_candidate(scores, n_layers=N_LAYERS).place == (-1, 4)


@pytest.mark.parametrize(
    "on_the_limit", [score(1, -9.0, induce=0.0), score(1, -9.0, kl=0.1), score(8, -9.0)], ids=["induce", "kl", "layer"]
)
def test_limits_are_strict(on_the_limit: CandidateScore) -> None:
    assert select_candidate([on_the_limit, score(2, 0.0)], n_layers=N_LAYERS).layer == 2


@pytest.mark.parametrize(("n_layers", "last"), [(10, 7), (15, 11), (18, 14), (24, 19), (30, 23), (32, 25), (40, 31)])
def test_the_last_layer_allowed_is_the_last_below_four_fifths(n_layers: int, last: int) -> None:
    assert [layer for layer in range(n_layers) if Limits().allows_layer(layer, n_layers)] == list(range(last + 1))


def test_of_equal_bypass_scores_the_earliest_position_and_layer_wins_in_any_order() -> None:
    tied = [score(5, -3.0, position=-2), score(4, -3.0, position=-1), score(6, -3.0, position=-2)]
    assert select_candidate(tied, N_LAYERS).place == (-2, 5)
    assert select_candidate(tied[::-1], N_LAYERS).place == (-2, 5)


@pytest.mark.parametrize("name", ["bypass_score", "induce_score", "kl_score"])
def test_a_score_that_is_not_a_number_rules_out(name: str) -> None:
    values = {"bypass_score": -9.0, "induce_score": 9.0, "kl_score": 0.0, name: math.nan}
    assert select_candidate([CandidateScore(-1, 1, **values), score(2, 0.0)], N_LAYERS).layer == 2


def test_missing_scores_that_cannot_matter_are_no_obstacle() -> None:
    scores = [
        score(3, -5.0),
        CandidateScore(-1, 4, induce_score=-1.0),
        CandidateScore(-1, 5, kl_at_least=0.11),
        CandidateScore(-1, 6, bypass_score=-5.0),
        CandidateScore(-1, 9),
    ]
    assert select_candidate(scores, N_LAYERS).layer == 3


@pytest.mark.parametrize("open_one", [CandidateScore(-1, 4), CandidateScore(-1, 4, bypass_score=-5.1)])
def test_a_missing_score_that_could_matter_is_refused(open_one: CandidateScore) -> None:
    with pytest.raises(SteeringError, match="layer 4 is not scored to the end"):
        select_candidate([score(3, -5.0), open_one], N_LAYERS)


def test_when_nothing_passes_the_nearest_misses_come_first() -> None:
    scores = [
        score(9, -9.0),  # too late, but scored
        score(2, -3.0, induce=-4.0),
        score(3, -2.0, induce=-1.0),
        score(4, -2.0, induce=-1.0, kl=0.3),
        CandidateScore(-1, 8),  # too late and never scored: nothing is known of it
    ]
    with pytest.raises(NoCandidateError) as caught:
        select_candidate(scores, N_LAYERS)
    error = caught.value
    assert [(miss.score.layer, miss.failed) for miss in error.misses] == [
        (9, ("layer",)),
        (3, ("induce",)),
        (2, ("induce",)),
        (4, ("induce", "kl")),
        (8, ("layer",)),
    ]
    assert "None of 5 candidates" in str(error)


def test_the_sentence_names_the_limit_and_the_number() -> None:
    with pytest.raises(
        NoCandidateError, match=r"position -1 at layer 3, fails: adding it .* to -1, .* above 0"
    ) as caught:
        select_candidate([score(3, -2.0, induce=-1.0), score(4, -2.0, induce=-1.0, kl=0.3)], N_LAYERS)
    assert caught.value.in_the_way == "induce"
    with pytest.raises(NoCandidateError, match=r"its KL is at least 0.2, which must be below 0.1"):
        select_candidate([CandidateScore(-1, 3, kl_at_least=0.2)], N_LAYERS)


def test_where_induce_is_relative_kl_is_in_the_way_before_it() -> None:
    """What fails a relative limit on induce turns nothing up, so it is no way out, however near it is."""
    scores = [score(3, -5.0, induce=-0.01), score(4, -2.0, kl=0.4), score(5, -2.0, kl=0.3)]
    with pytest.raises(NoCandidateError) as caught:
        select_candidate(scores, N_LAYERS)
    assert caught.value.in_the_way == "induce"
    with pytest.raises(NoCandidateError) as caught:
        select_candidate(scores, N_LAYERS, Limits(is_relative=True))
    assert caught.value.in_the_way == "kl"
    assert [miss.score.layer for miss in caught.value.misses] == [5, 4, 3]


def test_no_single_limit_in_the_way() -> None:
    with pytest.raises(NoCandidateError, match="more examples") as caught:
        select_candidate([score(3, -2.0, induce=-1.0, kl=0.3)], N_LAYERS)
    assert caught.value.in_the_way is None
    with pytest.raises(NoCandidateError, match="no candidate to choose from"):
        select_candidate([], N_LAYERS)


def test_a_relaxed_limit_says_so() -> None:
    limits = relaxed(Limits(), "induce", induce=-2.5)
    assert (limits.induce, limits.kl, limits.depth) == (-2.5, 0.1, 0.8)
    assert limits.relaxed == "Induce had to be above -2.5 and not 0: no candidate reached that."
    twice = relaxed(limits, "kl", kl=0.3)
    assert twice.relaxed.startswith(limits.relaxed)
    assert "below 0.3" in twice.relaxed
    assert relaxed(Limits(), "layer").allows_layer(9, 10)


numbers = st.one_of(st.sampled_from([-1.0, 0.0, 0.05, 0.1, 1.0]), st.floats(-2, 2), st.just(math.nan))
tables = st.lists(
    st.builds(CandidateScore, st.integers(-3, -1), st.integers(0, N_LAYERS - 1), numbers, numbers, numbers),
    max_size=12,
    unique_by=lambda one: one.place,
)


@given(tables, st.floats(-1, 1), st.floats(0, 1), st.floats(0.1, 1))
def test_the_rule_against_a_plain_loop(scores: list[CandidateScore], induce: float, kl: float, depth: float) -> None:
    limits = Limits(induce, kl, depth)
    best = None
    for one in sorted(scores, key=lambda one: one.place):
        inside = one.induce_score > induce and one.kl_score < kl and limits.allows_layer(one.layer, N_LAYERS)
        if inside and not math.isnan(one.bypass_score) and (best is None or one.bypass_score < best.bypass_score):
            best = one
    if best is None:
        with pytest.raises(NoCandidateError):
            select_candidate(scores, N_LAYERS, limits)
    else:
        assert select_candidate(scores, N_LAYERS, limits) is best
