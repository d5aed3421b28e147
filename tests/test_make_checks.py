"""What a card says of a direction: its figures, its verdict, its doubts, and that no card from a file can break it."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steering.directions import Direction
from steering.errors import DirectionError, SteeringError
from steering.figures import UNKNOWN, Figure
from steering.models import ChatModel
from steering.trust_card import TrustCard
from steering.ui import make_card
from steering.ui.make_checks import (
    LONGEST_SENTENCE,
    LONGEST_SENTENCES,
    by_hand_html,
    checks_html,
    doubts_of,
    is_first_tokens,
    is_limits,
    is_number,
    is_scores,
    is_trust,
    trust_html,
    verdict_of,
)
from steering.ui.make_results import result
from steering.ui.make_work import load_direction, sound_card, write_files
from steering.ui.session import Making
from steering.ui.strengths import strength_of

Tiny = Callable[[str], ChatModel]
EVIL = "<img src=x onerror=alert(1)>"
HOSTILE = "&lt;img src=x onerror=alert(1)&gt;"


def figure(value: float, low: float, high: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


SCORES = {"bypass": -1.25, "induce": 0.75, "kl": 0.0421, "unsteered_positive": 2.5, "unsteered_negative": -1.5}
LIMITS = {"induce": -0.5, "kl": 0.1, "depth": 0.8}
TRUST = {
    "separation": figure(0.97, 0.91, 1.0, 64),
    "length_ruler": figure(0.52, 0.4, 0.6, 64),
    "split_half": figure(0.9, 0.85, 0.95, 20),
    "scores": {name: figure(0.0, -0.1, 0.1, 32) for name in ("bypass", "induce", "kl")},
    "random": {
        "bypass": figure(2.0, 1.5, 2.4, 20),
        "induce": figure(-1.4, -1.5, -1.2, 20),
        "kl": figure(0.1, 0.0, 0.2, 20),
    },
    "shuffled": {
        "bypass": figure(1.7, 0.9, 2.2, 19),
        "induce": figure(-1.2, -1.5, -0.9, 19),
        "kl": figure(0.1, 0.0, 0.2, 19),
    },
    "better_than_controls": {"bypass": True, "induce": True},
    "sentences": ["Learned from 128 positive examples.", "It goes beyond all of them."],
}
TOKENS = {"texts": ["Sea", " wave"], "source": "found: their probability rises most"}
STRENGTH = {"start": 1.25, "end": 3.5, "sweet": [0.75, 2.5]}
CARD: dict[str, Any] = {
    "auroc": 0.97,
    "sorted_right": [61, 64],
    "strength": STRENGTH,
    "data": "sea",
    "model_label": "A model",
    "scores": SCORES,
    "limits": LIMITS,
    "relaxed": "KL had to be below 0.1 and not 0.05: no candidate kept to that.",
    "overruled": "Chosen by hand; the rule chose layer 5, position −1.",
    "first_tokens": TOKENS,
    "trust": TRUST,
}


def checks(html: str) -> list[tuple[str, dict[str, float], str, str]]:
    """Of each check: its claim, the parts of its bar, its figure, and what that is held against."""
    found = []
    for part in html.split('<div class="check">')[1:]:
        claim = re.search("<b>(.*?)</b>", part)
        output = re.search("<output>(.*?)</output><span>(.*?)</span>", part)
        bars = {name: float(value) for name, value in re.findall(r"--(value|limit):([\d.]+)", part)}
        assert claim is not None
        assert output is not None
        found.append((claim[1], bars, output[1], output[2]))
    return found


# ---------------------------------------------------------------- the three checks


def test_the_three_checks_are_exact() -> None:
    taken_out, turned_up, the_rest = checks(checks_html("The sea", CARD))
    # 2.5 − (−1.25); the best control brings it to 0.9, so it takes away 1.6.
    assert taken_out == ("Taken out, “The sea” goes away", {"value": 0.87, "limit": 0.371}, "3.75", "best control 1.60")
    # 0.75 − (−1.5); to be reached is −0.5, so 1 has to be gained.
    assert turned_up == ("Turned up, “The sea” appears", {"value": 0.87, "limit": 0.387}, "2.25", "needs 1.00")
    assert the_rest == ("Everything else stays as it was", {"value": 0.366, "limit": 0.87}, "0.04", "limit 0.10")


def test_checks_without_controls_have_no_best_control() -> None:
    html = checks_html("The sea", {"scores": SCORES, "limits": LIMITS})
    taken_out, turned_up, _ = checks(html)
    assert taken_out[1:] == ({"value": 0.87}, "3.75", "")
    assert turned_up[3] == "needs 1.00"
    assert 'class="bar no-limit"' in html


def test_what_was_not_measured_is_said() -> None:
    scores = SCORES | {"bypass": None, "induce": None, "kl": None}
    html = checks_html("The sea", {"scores": scores, "limits": LIMITS, "trust": TRUST})
    assert [check[1:] for check in checks(html)] == [({}, "–", "not measured here")] * 3


def test_a_figure_below_zero_has_an_empty_bar() -> None:
    scores = SCORES | {"bypass": 3.0, "induce": -2.0}
    taken_out, turned_up, _ = checks(checks_html("The sea", {"scores": scores, "limits": LIMITS, "trust": TRUST}))
    assert taken_out[1:] == ({"value": 0.0, "limit": 0.87}, "-0.50", "best control 1.60")
    assert turned_up[1:] == ({"value": 0.0, "limit": 0.87}, "-0.50", "needs 1.00")


@pytest.mark.parametrize("lacking", ["scores", "limits"])
def test_a_card_without_scores_or_limits_has_no_checks(lacking: str) -> None:
    assert checks_html("The sea", {key: value for key, value in CARD.items() if key != lacking}) == ""


def test_the_metric_is_named() -> None:
    assert "begins with “Sea” “ wave” (found: their probability rises most). In nats." in checks_html("x", CARD)
    without = {key: value for key, value in CARD.items() if key != "first_tokens"}
    assert "log-odds of the reply with the idea against the one without, a token. In nats." in checks_html("x", without)


def test_a_relaxed_limit_and_a_choice_by_hand_stand_on_the_card() -> None:
    assert f"<b>Relaxed.</b> {CARD['relaxed']}" in checks_html("x", CARD)
    assert "Relaxed" not in checks_html("x", CARD | {"relaxed": ""})
    assert CARD["overruled"] in by_hand_html(CARD)
    assert by_hand_html({}) == ""


def test_texts_of_a_card_are_text() -> None:
    hostile = CARD | {
        "relaxed": EVIL,
        "overruled": EVIL,
        "first_tokens": {"texts": [EVIL], "source": EVIL},
        "trust": TRUST | {"sentences": [EVIL, EVIL]},
    }
    html = checks_html(EVIL, hostile) + by_hand_html(hostile) + trust_html(hostile)
    assert "<img" not in html
    assert html.count(HOSTILE) == 2 + 1 + 2 + 1 + 2  # the name twice, relaxed, token and source, overruled, sentences


# ---------------------------------------------------------------- the verdict


def better(bypass: bool, induce: bool) -> dict[str, Any]:
    return TRUST | {"better_than_controls": {"bypass": bypass, "induce": induce}}


CLEAN = {key: value for key, value in CARD.items() if key not in ("relaxed", "overruled")}


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CLEAN, ("good", "Works well")),
        (CLEAN | {"relaxed": "KL…"}, ("partly", "Works, with a relaxed limit")),
        (CLEAN | {"scores": SCORES | {"kl": 0.1}}, ("partly", "Works, beyond a limit")),
        (CLEAN | {"scores": SCORES | {"induce": -0.5}}, ("partly", "Works, beyond a limit")),
        (CLEAN | {"scores": SCORES | {"induce": None, "kl": None}}, ("good", "Works well")),
        (CLEAN | {"trust": better(True, False)}, ("partly", "Works partly")),
        (CLEAN | {"trust": better(False, True)}, ("partly", "Works partly")),
        (CLEAN | {"trust": better(False, False)}, ("bad", "No better than chance")),
        ({"auroc": 0.95}, ("good", "Tells them apart well")),
        ({"auroc": 0.5}, ("bad", "Hardly better than chance")),
        ({}, ("", "")),
    ],
)
def test_the_verdict(card: dict[str, Any], expected: tuple[str, str]) -> None:
    assert verdict_of(card) == expected


# ---------------------------------------------------------------- how far to trust it


def test_sentences_stand_on_demand_and_doubts_open() -> None:
    html = trust_html(CARD)
    assert "held against 39 controls" in html
    assert re.findall("<li>(.*?)</li>", html) == TRUST["sentences"]
    assert "Doubt" not in html
    doubtful = trust_html({"trust": better(False, True)})
    assert doubtful.index("Taken out, it does no better than random directions") < doubtful.index("<details>")
    assert trust_html({}) == ""


PARTS = st.floats(0, 1)


def ordered(value: float, other: float, n: int = 20) -> Figure:
    return Figure(value, min(value, other), max(value, other), n)


@given(
    separation=st.builds(ordered, PARTS, PARTS),
    ruler=st.one_of(st.just(UNKNOWN), st.builds(ordered, PARTS, PARTS)),
    halves=st.one_of(st.just(UNKNOWN), st.builds(ordered, PARTS, PARTS)),
    scores=st.fixed_dictionaries({name: st.builds(ordered, PARTS, PARTS) for name in ("bypass", "induce", "kl")}),
    random=st.fixed_dictionaries({name: st.builds(ordered, PARTS, PARTS) for name in ("bypass", "induce", "kl")}),
)
def test_the_page_doubts_what_the_library_doubts(
    separation: Figure, ruler: Figure, halves: Figure, scores: dict[str, Figure], random: dict[str, Figure]
) -> None:
    measured = TrustCard(
        data="sea",
        data_sha256="0",
        n_train=(128, 128),
        n_validation=(32, 32),
        seed=0,
        separation=separation,
        length_ruler=ruler,
        longer="positive",
        split_half=halves,
        wrong_way={name: Figure(0.0, 0.0, 0.1, 32) for name in ("bypass", "induce")},
        scores=scores,
        random=random,
        shuffled=random,
    )
    card = json.loads(json.dumps(measured.as_card(), allow_nan=False))
    assert is_trust(card)
    doubts = " ".join(doubts_of(card))
    no_better = {score for score, is_better in measured.better_than_controls.items() if not is_better}
    assert ("Taken out, it does no better" in doubts) == ("bypass" in no_better)
    assert ("Turned up, it does no better" in doubts) == ("induce" in no_better)
    assert ("apart no better than chance" in doubts) == ("no better than chance" in measured.sentences()[1])
    assert ("The length of the texts alone" in doubts) == measured.length_tells_as_much
    assert ("Two halves of the texts" in doubts) == measured.is_unstable


# ---------------------------------------------------------------- what is no card


NO_NUMBERS = (math.nan, math.inf, -math.inf, True, "1", [1.0], {}, 10**400, -(10**400), 1e9)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)


@pytest.mark.parametrize("value", [0, -3, 0.25, -999_999_999.0])
def test_what_is_a_number(value: float) -> None:
    assert is_number(value)


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The way to each entry of nested dictionaries, to the dictionaries too."""
    if not isinstance(value, dict):
        return [before]
    own = [before] if before else []
    return [*own, *(path for key, entry in value.items() for path in paths(entry, (*before, key)))]


def entry(card: dict[str, Any], path: tuple[str, ...]) -> Any:
    return reduce(getitem, path, card)


MISSING = object()


def with_entry(card: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at the end of a path, or none."""
    card = copy.deepcopy(card)
    *way, last = path
    place = entry(card, tuple(way))
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return card


CHECKED = {"scores": (is_scores, SCORES), "limits": (is_limits, LIMITS), "trust": (is_trust, TRUST)}
# A score that was not needed, and a figure that could not be measured, are None.
MAY_BE_NONE = {"scores": ("bypass", "induce", "kl"), "limits": (), "trust": ("value", "low", "high")}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in CHECKED for path in paths(CHECKED[name][1])])
def test_a_malformed_entry_is_refused(name: str, path: tuple[str, ...]) -> None:
    is_sound, sound = CHECKED[name]
    assert is_sound(sound)
    is_sentences, is_verdict = path[-1] == "sentences", path[0] == "better_than_controls"
    bad: list[Any] = [MISSING, None, "1", 7 if is_sentences or is_verdict else True, [[]], math.nan, 10**400, {}]
    if path[-1] in MAY_BE_NONE[name] and not isinstance(entry(sound, path), dict):
        bad.remove(None)
        assert is_sound(with_entry(sound, path, None))
    if is_sentences:
        bad += [["x"] * (LONGEST_SENTENCES + 1), ["x" * (LONGEST_SENTENCE + 1)], [1], "x"]
    if path[-1] == "n":
        bad += [-1, 20.0, 1.5]
    for value in bad:
        assert not is_sound(with_entry(sound, path, value)), value


@pytest.mark.parametrize("value", [None, 7, "x", [], [1], True, math.nan])
def test_what_is_no_dictionary_is_refused(value: Any) -> None:
    assert not any(is_sound(value) for is_sound in (is_scores, is_limits, is_trust, is_first_tokens))


@pytest.mark.parametrize(
    "change",
    [
        {"source": 7},
        {"source": "x" * (LONGEST_SENTENCE + 1)},
        {"texts": "Sea"},
        {"texts": [1]},
        {"texts": ["x" * 81]},
        {"texts": ["x"] * 33},
    ],
)
def test_malformed_first_tokens_are_refused(change: dict[str, Any]) -> None:
    assert is_first_tokens(TOKENS)
    assert not is_first_tokens(TOKENS | change)
    assert not is_first_tokens({key: value for key, value in TOKENS.items() if key not in change})


def test_a_sound_card_stays_whole_and_a_wrong_entry_takes_no_other_along() -> None:
    assert sound_card(CARD) == CARD
    for key in CARD:
        assert sound_card(CARD | {key: 10**400}) == {name: value for name, value in CARD.items() if name != key}


# ---------------------------------------------------------------- cards from files


GARBAGE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(10**400), 1e308, math.nan, math.inf, -math.inf, 0, -1, EVIL, ""]),
        st.floats(),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A whole card with entries missing or something else, at any depth, and with some that nobody asked for."""
    card = copy.deepcopy(CARD)
    for path in draw(st.lists(st.sampled_from(paths(CARD)), max_size=4, unique=True)):
        try:
            card = with_entry(card, path, draw(st.one_of(st.just(MISSING), GARBAGE)))
        except (KeyError, TypeError):  # what was there before is gone already
            continue
    more = st.sampled_from(["position_tokens", "notes", "seed", "n_positive", "projected", "norm", "refuses", EVIL])
    return card | draw(st.dictionaries(more, GARBAGE, max_size=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cards")


def saved(model: ChatModel, folder: Path, card: dict[str, Any], name: str = EVIL) -> str:
    of_model = {"model": model.name, "revision": model.revision, "n_layers": model.n_layers}
    return str(replace(oracle.make_direction(model), name=name, card=of_model | card).save(folder / "one.safetensors"))


def show_everywhere(direction: Direction, folder: Path) -> None:
    """All that the page does with a direction from a file; nothing of it may be markup."""
    card = make_card.loaded_card(direction)
    assert "<img" not in card
    assert HOSTILE in card  # its name
    assert result(Making(direction=direction), folder)[0] == card
    strength = strength_of(direction)
    assert strength.start >= 0
    assert strength.end > 0
    _, described = write_files(direction, folder)
    json.loads(described.read_text())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(card=spoilt())
def test_no_card_from_a_file_breaks_the_page(card: dict[str, Any], tiny: Tiny, folder: Path) -> None:
    model = tiny("llama3")
    direction = load_direction(saved(model, folder, card), model)
    show_everywhere(direction, folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["model", "revision", "n_layers", "model_label"]), value=GARBAGE)
def test_a_card_of_no_model_is_refused_in_a_sentence_or_shown(key: str, value: Any, tiny: Tiny, folder: Path) -> None:
    model = tiny("llama3")
    path = saved(model, folder, CARD | {key: value})
    sentence = ""
    try:
        direction = load_direction(path, model)
    except SteeringError as error:
        sentence = str(error)
    if sentence:
        assert sentence.endswith(".")
    else:
        show_everywhere(direction, folder)


def test_half_a_character_in_a_card_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama3")
    with pytest.raises(DirectionError, match="is not a direction file, or is damaged"):
        load_direction(saved(model, tmp_path, CARD | {"relaxed": "\ud800"}), model)


def test_a_card_from_a_file_says_what_it_said_before(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama3")
    html = make_card.loaded_card(load_direction(saved(model, tmp_path, CARD), model))
    assert [check[2:] for check in checks(html)] == [check[2:] for check in checks(checks_html("x", CARD))]
    for words in (CARD["relaxed"], CARD["overruled"], "61 of 64", "0.75 to 2.5", "above 3.5", *TRUST["sentences"]):
        assert words in html, words
