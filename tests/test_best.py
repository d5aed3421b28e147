"""“Find the best”: the handlers on tiny real models, the map, and what they are made of."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import oracle
import pytest
import torch

from steering.activations import RESPONSE, ClassMeans
from steering.calibration import REPLY_TOKENS, WHAT, coefficient_range
from steering.contrast import ContrastSet, Example
from steering.directions import Candidates, Direction
from steering.errors import Cancelled
from steering.finding import Finder
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.paper_choices import PAPER_CHOICES, paper_choice
from steering.preparation import Prepared, prepare
from steering.scoring import Unsteered
from steering.selection import CandidateScore, Limits, NoCandidateError, relaxed, select_candidate
from steering.separation import Separation
from steering.ui import best_handlers, make_card, make_handlers, worker
from steering.ui.best_handlers import BestHandlers
from steering.ui.best_map import search_squares, search_table
from steering.ui.best_search import BestRequest, Choice, Search
from steering.ui.engine import Engine, ModelOptions
from steering.ui.limits import Limits as PageLimits
from steering.ui.make_handlers import NO_TEXTS, MakeHandlers
from steering.ui.make_results import result
from steering.ui.make_words import GONE, SEED
from steering.ui.make_work import load_direction, write_files
from steering.ui.session import Making, Sessions

Tiny = Callable[[str], ChatModel]
EVIL = "<img src=x onerror=alert(1)>"
REQUEST: Any = SimpleNamespace(session_hash="a visitor")
SOME_TRIED = r"Trying candidate [2-9]\d of"  # the first 17 are at layer 0, where most sides do not differ
ROWS = 20  # enough for 20 different halvings of what is left to learn from

# What a handler of the tab yields, in this order.
BAR, COMPUTE, BEST, CANCEL, CARD, _POSITION, _LAYER, ACTIONS, WEIGHTS, CARD_FILE, RELAX, MEASURE, TOKENS, _NOTE = range(
    14
)

# Where the rule finds a place at once, where it has to be relaxed, and where relaxing does not help.
AT_ONCE, AFTER_KL, REPLIES_AFTER_KL = ("qwen3-moe", "prompts"), ("gemma2", "prompts"), ("gemma2", "responses")
AFTER_INDUCE, NEVER = ("gpt-neox", "responses"), ("llama3", "responses")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scores of no other test, and of no person; what the machine does best is measured once for all."""
    monkeypatch.setenv("STEERING_CACHE", str(cache))
    yield
    shutil.rmtree(cache / "scores", ignore_errors=True)


@pytest.fixture(autouse=True)
def shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report is shown, however fast the work is."""
    monkeypatch.setattr(best_handlers, "UPDATE_EVERY", 0.0)
    monkeypatch.setattr(best_handlers, "REDRAW_EVERY", 0.0)


class InStep(worker.Job):
    """A job whose work waits until its reader has shown what it reported, so that a test can act between the two."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._shown = threading.Semaphore(0)

    def report(self, value: Any) -> None:
        super().report(value)
        while not self.stopped and not self._shown.acquire(timeout=0.05):
            pass

    def reports(self, patience: float = 0.25) -> Iterator[Any]:
        for value in super().reports(patience):
            yield value
            if value is not None:
                self._shown.release()


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "Job", InStep)


@dataclass
class Tab:
    """One visitor's tab with a tiny model in use."""

    model: ChatModel
    folder: Path
    engine: Engine = field(default_factory=lambda: Engine(ModelOptions()))

    def __post_init__(self) -> None:
        self.engine.model = self.model
        self.handlers = MakeHandlers(self.engine, Sessions("sea"), PageLimits())
        self.best = BestHandlers(self.handlers)

    @property
    def making(self) -> Making:
        return self.handlers.sessions.of(REQUEST).making

    @property
    def search(self) -> Search:
        assert self.making.search is not None
        return self.making.search

    @property
    def direction(self) -> Direction:
        assert self.making.direction is not None
        return self.making.direction

    def give(self, kind: str, rows: int = ROWS) -> ContrastSet:
        text = "positive,negative\n" + "\n".join(f"tell the sea {row},file the tax {row}" for row in range(rows))
        if kind == "responses":
            text = "instruction,response,label,pair\n" + "\n".join(
                f"what of {row},{reply} {row},{label},{row}"
                for row in range(rows)
                for reply, label in (("the sea is", "positive"), ("soup and tea", "negative"))
            )
        path = self.folder / f"{kind}.csv"
        path.write_text(text, encoding="utf-8")
        self.handlers.read(str(path), None, "", REQUEST)
        assert self.making.data is not None
        return self.making.data

    def find(self, tokens: list[str] | None = None, is_refusal: bool = False) -> Iterator[list[Any]]:
        return self.best.find("The sea", tokens, is_refusal, REQUEST)

    def press(self, place: tuple[int, int]) -> list[Any]:
        return self.handlers.press(gr.EventData(None, {"position": str(place[0]), "layer": str(place[1])}), REQUEST)

    def require_free(self) -> None:
        """The model's thread takes up other work."""
        assert self.engine.worker.submit(lambda job: None).ended.wait(60)


@pytest.fixture
def tab_with(tiny: Tiny, tmp_path: Path) -> Callable[..., Tab]:
    def make(name: str, kind: str, rows: int = ROWS) -> Tab:
        tab = Tab(tiny(name), tmp_path)
        tab.give(kind, rows)
        return tab

    return make


def plain(html: str) -> str:
    """The words of a piece of HTML."""
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def bar_words(update: list[Any]) -> str:
    return plain(update[BAR])


def bar_percent(update: list[Any]) -> int | None:
    found = re.search(r'aria-valuenow="(\d+)"', update[BAR])
    return int(found[1]) if found else None


def cards(updates: list[list[Any]]) -> list[str]:
    """The cards that were shown, without those left as they were."""
    return [update[CARD] for update in updates if isinstance(update[CARD], str)]


def decided(card: str) -> int | None:
    found = re.search(r"<h3>(\d+) of \d+ places decided</h3>", card)
    return int(found[1]) if found else None


def squares(card: str) -> dict[tuple[int, int], str]:
    """The squares that can be pressed, by place."""
    cells = re.findall(r"<td[^>]*><button[^>]*></button></td>", card)
    return {(int(attribute(cell, "data-position")), int(attribute(cell, "data-layer"))): cell for cell in cells}


def attribute(cell: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', cell)
    assert found is not None, (name, cell)
    return found[1]


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("where", [AT_ONCE, REPLIES_AFTER_KL], ids=["prompts", "responses"])
def test_from_the_texts_to_the_card(
    where: tuple[str, str], tab_with: Callable[..., Tab], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tab = tab_with(*where)
    updates = list(tab.find())
    check_progress(updates, tab.search.n_places, stages=4 if tab.making.direction else 2)
    if where == REPLIES_AFTER_KL:
        updates = list(tab.best.relax(REQUEST))
        check_progress(updates, tab.search.n_places, stages=4)
    last = updates[-1]
    assert bar_words(last).startswith("Found.")
    assert (last[COMPUTE]["visible"], last[BEST]["visible"], last[CANCEL]["visible"]) == (True, True, False)
    assert (last[ACTIONS]["visible"], last[RELAX]["visible"], last[MEASURE]["visible"]) == (True, False, False)
    check_card(last[CARD], tab.direction)
    check_choice(tab)
    check_files(last, tab, tmp_path)
    assert not caplog.records


def check_progress(updates: list[list[Any]], n_places: int, stages: int) -> None:
    """The map fills, the words change, the bar goes one way."""
    counts = [count for card in cards(updates[:-1]) if (count := decided(card)) is not None]
    assert counts == sorted(counts)
    assert counts[0] < n_places / 2
    assert counts[-1] == n_places
    assert len(set(counts)) > min(n_places, 10) / 2
    seen = [re.split(r" (?:\d+ of|·)", bar_words(update))[0] for update in updates[:-1]]
    words = ["Reading the texts", "Trying candidate", "Measuring the strength", "Holding it against controls"]
    assert list(dict.fromkeys(word for word in seen if word != "Starting…")) == words[:stages]
    percents = [percent for update in updates[:-1] if (percent := bar_percent(update)) is not None]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == (100 if stages == 4 else 40)
    usable = [update[ACTIONS]["visible"] for update in updates[:-1] if "visible" in update[ACTIONS]]
    assert usable == sorted(usable)  # from the moment its strength is known
    assert not usable[0]


def check_card(card: str, direction: Direction) -> None:
    words = plain(card)
    assert card.count('<div class="check">') == 3
    assert "not measured here" not in card
    assert set(direction.card["strength"]) >= {"start", "end", "sweet"}
    low, high = direction.card["strength"]["sweet"]
    assert f"{low:.2g} to {high:.2g} the sweet spot when turned up" in words
    trust = direction.card["trust"]
    assert [trust[kind]["bypass"]["n"] for kind in ("random", "shuffled")] == [20, 20]
    assert "held against 40 controls" in words
    for sentence in trust["sentences"]:
        assert plain(sentence) in words
    chosen = [place for place, cell in squares(card).items() if attribute(cell, "aria-pressed") == "true"]
    assert chosen == [(direction.position, direction.layer)]
    assert "chosen by the rule" in words


def check_choice(tab: Tab) -> None:
    """The direction is the one that the library's own selection gives on these texts."""
    search = tab.search
    finder = Finder(tab.model, prepare(tab.model, search.request.data, seed=SEED))
    own = finder.limits if search.limits.relaxed else search.limits
    assert own.induce == pytest.approx(finder.limits.induce, abs=1e-4)
    expected = finder.find(search.limits).direction
    direction = tab.direction
    assert (direction.position, direction.layer) == (expected.position, expected.layer) == search.winner
    assert torch.allclose(direction.vector, expected.vector, atol=1e-4)
    for name, value in expected.card["scores"].items():
        assert direction.card["scores"][name] == pytest.approx(value, abs=1e-4), name
    assert direction.card["limits"] == expected.card["limits"]
    assert {place: score.is_complete for place, score in search.scores.items()}.keys() == {
        (position, layer) for position in finder.candidates.positions for layer in range(tab.model.n_layers)
    }


def check_files(last: list[Any], tab: Tab, folder: Path) -> None:
    """What is downloaded says what the card says, and is taken up again with it."""
    loaded = load_direction(str(last[WEIGHTS]), tab.model)
    for key in ("scores", "limits", "strength", "trust", "relaxed", "first_tokens"):
        assert loaded.card.get(key) == tab.direction.card.get(key), key
    assert json.loads(last[CARD_FILE].read_text())["trust"] == tab.direction.card["trust"]
    again = Tab(tab.model, folder)
    card = again.handlers.load(str(last[WEIGHTS]), REQUEST)[0]
    for part in ("Three checks", "held against 40 controls", "the sweet spot when turned up"):
        assert part in card
    assert re.findall(r"<output>.*?</output>", card) == re.findall(r"<output>.*?</output>", last[CARD])
    if tab.search.limits.relaxed:
        assert f"<b>Relaxed.</b> {tab.search.limits.relaxed}" in card


# ---------------------------------------------------------------- when no place passes


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (AFTER_KL, "Allow KL up to {after.kl:g} instead of 0.1"),
        (AFTER_INDUCE, "Ask for less when turned up: above {after.induce:.3g} instead of {before.induce:.3g}"),
    ],
    ids=["kl", "induce"],
)
def test_a_limit_is_relaxed_by_one_press_and_the_card_says_so(
    where: tuple[str, str], words: str, tab_with: Callable[..., Tab]
) -> None:
    tab = tab_with(*where)
    *_, missed = tab.find()
    before, after = tab.search.limits, tab.search.choice.offer
    assert after is not None
    assert bar_words(missed).startswith("None passes.")
    assert missed[RELAX]["visible"]
    assert missed[RELAX]["value"] == words.format(before=before, after=after)
    assert not missed[ACTIONS]["visible"]
    assert tab.making.direction is None
    assert tab.search.choice.problem in missed[CARD]
    assert "None passes" in missed[CARD]
    check_reasons(missed[CARD], tab.search)

    *_, found = tab.best.relax(REQUEST)
    assert tab.search.limits == after
    assert f"<b>Relaxed.</b> {after.relaxed}" in found[CARD]
    assert "Works well" not in found[CARD]
    assert tab.direction.card["relaxed"] == after.relaxed
    assert not found[RELAX]["visible"]
    *_, again = tab.best.relax(REQUEST)
    assert "There is no limit to relax." in again[BAR]


def check_reasons(card: str, search: Search) -> None:
    """Each square says why it was not chosen."""
    reasons = {place: attribute(cell, "aria-label").partition(": ")[2] for place, cell in squares(card).items()}
    n_layers = search.candidates.n_layers
    for place, score in search.scores.items():
        failed = search.limits.failed(score, n_layers)
        if "undefined" in failed:
            assert place not in reasons
        elif "layer" in failed:
            assert reasons[place] == "too late to use"
        else:
            assert ("changes other answers too much" in reasons[place]) == ("kl" in failed)
            assert ("turned up, it shows too little" in reasons[place]) == ("induce" in failed)
    assert reasons
    assert len(search.scores) == search.n_places


def test_where_no_press_helps_none_is_offered(tab_with: Callable[..., Tab]) -> None:
    tab = tab_with(*NEVER)
    *_, missed = tab.find()
    assert tab.search.choice.offer is None
    assert not missed[RELAX]["visible"]
    assert make_card.NO_OFFER in missed[CARD]
    *_, refused = tab.best.relax(REQUEST)
    assert "There is no limit to relax." in refused[BAR]


def test_a_place_that_fails_can_be_chosen_and_measured(tab_with: Callable[..., Tab], tmp_path: Path) -> None:
    tab = tab_with(*NEVER)
    *_, missed = tab.find()
    place = next(iter(squares(missed[CARD])))
    card, *_ = shown = tab.press(place)
    assert (tab.direction.position, tab.direction.layer) == place
    assert "Chosen by hand; by the rule no place keeps to all limits." in card
    assert shown[ACTIONS - CARD]["visible"]
    assert shown[MEASURE - CARD]["visible"]
    *_, last = tab.best.measure(REQUEST)
    assert bar_words(last).startswith("Measured.")
    assert "not measured here" not in last[CARD]
    assert "Works well" not in last[CARD]
    weights, _ = write_files(tab.direction, tmp_path)
    assert "by the rule no place keeps" in make_card.loaded_card(load_direction(str(weights), tab.model))


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize(
    ("stage", "stays"),
    [
        ("Reading the texts", "texts"),
        (SOME_TRIED, "scores"),
        ("Measuring the strength", "direction"),
        ("Holding it against controls", "strength"),
    ],
)
@pytest.mark.usefixtures("in_step")
def test_cancelling_keeps_what_was_found(
    stage: str, stays: str, tab_with: Callable[..., Tab], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tab = tab_with(*AT_ONCE)
    updates = []
    for update in tab.find():
        updates.append(update)
        if re.match(stage, bar_words(update)):
            tab.handlers.cancel(REQUEST)
    last = updates[-1]
    assert bar_words(last).startswith("Cancelled.")
    assert (last[COMPUTE]["visible"], last[BEST]["visible"], last[CANCEL]["visible"]) == (True, True, False)
    assert not caplog.records
    check_what_stays(tab, last, stays)
    tab.require_free()
    restarted = Tab(tab.model, tab.folder)
    restarted.give("prompts")
    *_, last = restarted.find()
    assert bar_words(last).startswith("Found.")
    check_card(last[CARD], restarted.direction)
    steps = [json.loads(line) for path in (cache / "scores").iterdir() for line in path.read_text().splitlines()[1:]]
    taken = [(step["position"], step["layer"], step["step"]) for step in steps]
    assert taken
    assert len(taken) == len(set(taken))  # what was scored before is not scored again


def check_what_stays(tab: Tab, last: list[Any], stays: str) -> None:
    making = tab.making
    words = "Your texts are still here." if stays == "texts" else "What was found so far stays."
    assert bar_words(last) == f"Cancelled. {words}"
    assert making.data is not None
    assert (making.search is None) == (stays == "texts")
    assert (making.direction is None) == (stays in ("texts", "scores"))
    if stays == "scores":
        assert 0 < len(tab.search.scores) < tab.search.n_places
        assert decided(last[CARD]) == len(tab.search.scores)
        differing = [place for place, one in tab.search.scores.items() if not math.isnan(one.bypass_score or 0.0)]
        assert len(differing) == len(squares(last[CARD])) > 0
        assert "Chosen by hand; not every place had been tried." in tab.press(differing[0])[0]
    if stays in ("direction", "strength"):
        assert ("strength" in tab.direction.card) == (stays == "strength")
        assert "trust" not in tab.direction.card
        assert last[MEASURE]["visible"]
        assert last[ACTIONS]["visible"]


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("begins", [False, True], ids=["still in line", "begun only to be ended"])
def test_cancelling_in_line(begins: bool, let_go: threading.Event, tab_with: Callable[..., Tab]) -> None:
    tab = tab_with(*AT_ONCE)
    before = tab.engine.worker.submit(lambda job: let_go.wait() and None)
    before.started.wait()
    shown = tab.find()
    first = next(shown)
    assert "1 person is before you" in first[BAR]
    assert (first[COMPUTE]["visible"], first[CANCEL]["visible"]) == (False, True)
    job = tab.handlers._bench(tab.handlers.sessions.of(REQUEST)).job
    assert job is not None
    tab.handlers.cancel(REQUEST)
    if begins:
        let_go.set()
        assert job.ended.wait(60)
    *_, last = shown
    assert bar_words(last) == "Cancelled. Your texts are still here."
    assert last[BEST]["visible"]
    assert tab.making.search is None


@pytest.mark.usefixtures("in_step")
def test_closing_the_page_ends_the_work(tab_with: Callable[..., Tab]) -> None:
    tab = tab_with(*AT_ONCE)
    shown = tab.find()
    for update in shown:
        if bar_words(update).startswith("Trying candidate"):
            break
    job = tab.handlers._bench(tab.handlers.sessions.of(REQUEST)).job
    assert job is not None
    shown.close()  # type: ignore[attr-defined]
    assert job.stopped
    assert job.ended.wait(60)
    tab.require_free()


# ---------------------------------------------------------------- choosing by hand


@pytest.fixture
def found(tab_with: Callable[..., Tab]) -> Tab:
    tab = tab_with(*AT_ONCE)
    assert bar_words(list(tab.find())[-1]).startswith("Found.")
    return tab


def other_place(tab: Tab) -> tuple[int, int]:
    """A place that was not scored to the end, so that measuring has something to add."""
    return next(
        place for place, score in tab.search.scores.items() if score.bypass_score is None and place != tab.search.winner
    )


def test_a_place_chosen_by_hand_says_so_and_can_be_measured(found: Tab, tmp_path: Path) -> None:
    winner = found.search.winner
    assert winner is not None
    rule = found.direction
    place = other_place(found)
    shown = found.press(place)
    words = f"Chosen by hand; the rule chose layer {winner[1]}, position −{-winner[0]}."
    assert words in shown[0]
    assert found.direction.card["overruled"] == words
    assert f"the rule’s: layer {winner[1]}" in shown[0]
    assert "not measured here" in shown[0]
    assert shown[MEASURE - CARD]["visible"]
    assert found.direction.name == rule.name

    updates = list(found.best.measure(REQUEST))
    last = updates[-1]
    assert bar_words(last).startswith("Measured.")
    assert (found.direction.position, found.direction.layer) == place
    assert {"strength", "trust"} <= found.direction.card.keys()
    assert "not measured here" not in last[CARD]
    assert found.direction.card["scores"]["bypass"] == found.direction.card["trust"]["scores"]["bypass"]["value"]
    assert not last[MEASURE]["visible"]
    assert found.search.winner == winner
    loaded = make_card.loaded_card(load_direction(str(last[WEIGHTS]), found.model))
    assert words in loaded

    back = found.press(winner)
    assert found.direction.card == rule.card  # nothing that was measured is lost
    assert "overruled" not in found.direction.card
    assert not back[MEASURE - CARD]["visible"]
    found.press(place)
    assert "trust" in found.direction.card


def test_measuring_needs_a_place(tab_with: Callable[..., Tab]) -> None:
    (only,) = tab_with(*AT_ONCE).best.measure(REQUEST)
    assert "Choose a place on the map first." in only[BAR]


@pytest.mark.usefixtures("in_step")
def test_a_square_pressed_meanwhile_is_no_obstacle(tab_with: Callable[..., Tab]) -> None:
    tab = tab_with(*AT_ONCE)
    pressed: tuple[int, int] | None = None
    for update in tab.find():
        if pressed is None and bar_words(update).startswith("Measuring the strength"):
            pressed = other_place(tab)
            shown = tab.press(pressed)
            assert not shown[ACTIONS - CARD]["visible"], "nothing can be used while it is still being measured"
            assert not shown[MEASURE - CARD]["visible"]
    assert pressed is not None
    assert (tab.direction.position, tab.direction.layer) == pressed
    assert tab.search.winner is not None
    tab.press(tab.search.winner)
    assert {"strength", "trust"} <= tab.direction.card.keys()


@pytest.mark.parametrize("stage", [SOME_TRIED, "Measuring the strength"])
@pytest.mark.usefixtures("in_step")
def test_what_is_found_takes_the_place_of_a_file_taken_up_meanwhile(
    stage: str, tab_with: Callable[..., Tab], tmp_path: Path
) -> None:
    tab = tab_with(*AT_ONCE)
    other = oracle.make_direction(tab.model)
    card = {"model": tab.model.name, "revision": tab.model.revision, "n_layers": tab.model.n_layers}
    path = replace(other, name="Loaded", card=card).save(tmp_path / "loaded.safetensors")
    loaded = False
    for update in tab.find():
        if not loaded and re.match(stage, bar_words(update)):
            assert "<h2>Loaded</h2>" in tab.handlers.load(str(path), REQUEST)[0]
            loaded = True
    assert loaded
    assert "<h2>The sea</h2>" in update[CARD]
    assert len(tab.search.scores) == tab.search.n_places
    check_card(update[CARD], tab.direction)


@pytest.mark.usefixtures("in_step")
def test_a_second_press_says_that_it_is_still_working(tab_with: Callable[..., Tab]) -> None:
    tab = tab_with(*AT_ONCE)
    shown = tab.find()
    next(shown)
    (second,) = tab.find()
    assert "Still working." in second[BAR]
    assert second[CANCEL]["visible"]
    tab.handlers.cancel(REQUEST)
    *_, last = shown
    assert "Cancelled." in last[BAR]


def test_computing_takes_the_searchs_place(found: Tab) -> None:
    *during, last = found.handlers.compute("The sea", REQUEST)
    assert found.making.search is None
    assert "Found." in last[BAR]
    assert all(not update[part]["visible"] for update in during for part in (ACTIONS, RELAX, MEASURE))


# ---------------------------------------------------------------- what can go wrong


def test_another_model_in_between_is_said(tab_with: Callable[..., Tab], tiny: Tiny) -> None:
    tab = tab_with(*AFTER_KL)
    *_, missed = tab.find()
    tab.press(next(iter(squares(missed[CARD]))))
    tab.engine.model = tiny("qwen2")
    *_, measured = tab.best.measure(REQUEST)
    assert GONE in measured[BAR]
    *_, relaxed_ = tab.best.relax(REQUEST)
    assert GONE in relaxed_[BAR]
    *_, again = tab.find()
    assert bar_words(again).startswith("None passes.")
    assert tab.search.model == (tab.engine.ready_model().name, tab.engine.ready_model().revision)


def test_without_texts_or_model_a_sentence_is_shown(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("llama3"), tmp_path)
    (only,) = tab.find()
    assert NO_TEXTS in only[BAR]
    tab.give("prompts")
    tab.engine.model = None
    (only,) = tab.find()
    assert "The model is still loading." in only[BAR]


def test_what_the_filter_leaves_is_too_little(tab_with: Callable[..., Tab], caplog: pytest.LogCaptureFixture) -> None:
    tab = tab_with("llama3", "prompts")
    *_, last = tab.find(is_refusal=True)
    assert re.search(r"The filter leaves \d+ of 16 positive examples to learn from", plain(last[BAR]))
    assert "Use a model that shows the idea more clearly" in last[BAR]
    assert last[BEST]["visible"]
    assert not caplog.records


def test_a_set_that_is_too_small_never_comes_this_far(tab_with: Callable[..., Tab], tmp_path: Path) -> None:
    tab = Tab(tab_with(*AT_ONCE).model, tmp_path)
    path = tmp_path / "one.csv"
    path.write_text("positive,negative\nsea,land\n")
    assert "too few positive examples to split" in tab.handlers.read(str(path), None, "", REQUEST)[0]
    (only,) = tab.find()
    assert NO_TEXTS in only[BAR]


def test_two_examples_a_side_are_enough_to_try(tab_with: Callable[..., Tab]) -> None:
    tab = tab_with("gemma2", "prompts", rows=2)
    *_, last = tab.find()
    assert bar_words(last).startswith(("Found.", "None passes."))
    assert "The set is small: it gave 1 + 1 positive" in last[CARD]


def test_first_tokens_named_by_hand(tab_with: Callable[..., Tab], caplog: pytest.LogCaptureFixture) -> None:
    tab = tab_with("llama3", "prompts")
    long = "tell me of the sea"
    *_, last = tab.find(tokens=[long])
    assert re.search(rf"“{long}” is \d+ tokens to llama3; a first token must be one", plain(last[BAR]))
    *_, last = tab.find(tokens=["a", ""])
    tokens = tab.search.prepared.tokens
    assert tokens is not None
    assert (tokens.texts, tokens.source) == (("a",), "named by hand")
    assert last[TOKENS]["choices"] == ["a"]
    assert not caplog.records


def test_what_nobody_foresaw_is_said_in_general_words(
    tab_with: Callable[..., Tab], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tab = tab_with(*AT_ONCE)
    monkeypatch.setattr(tab.engine, "all_cores", None)
    *_, last = tab.find()
    assert make_handlers.UNFORESEEN in plain(last[BAR])
    assert "Finding a direction failed" in caplog.text
    monkeypatch.undo()
    tab.require_free()


# ---------------------------------------------------------------- the map


N_LAYERS = 10
KNOWN = CandidateScore(-1, 5, bypass_score=-2.0, induce_score=1.0, kl_score=0.05)
WEAK = CandidateScore(-1, 4, bypass_score=1.0, induce_score=1.0, kl_score=0.05)
KL_KNOWN = CandidateScore(-1, 3, kl_score=0.25)
KL_AT_LEAST = CandidateScore(-1, 2, kl_at_least=0.31)
SHOWS_LITTLE = CandidateScore(-1, 6, induce_score=-3.5)
BOTH = CandidateScore(-1, 7, induce_score=-3.5, kl_at_least=0.31)
LATE = CandidateScore(-1, 8)
LATE_TOO = CandidateScore(-1, 9, bypass_score=-9.0, induce_score=2.0, kl_score=0.01)
UNDEFINED = CandidateScore(-1, 0, math.nan, math.nan, math.nan)
LOST = CandidateScore(-2, 5, bypass_score=3.0)


@pytest.fixture
def search() -> Search:
    """Two positions, ten layers, one candidate of each kind; the rest is not decided."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, N_LAYERS, 4, generator=generator)
    means = torch.randn(2, N_LAYERS, 4, generator=generator).double()
    norms = torch.ones(2, N_LAYERS, dtype=torch.float64)
    sides = [ClassMeans(part * 8, norms * 8, 8, [-2, -1]) for part in (means + vectors, means)]
    card = {"model": "m", "revision": "", "model_label": EVIL, "seed": 0, "position_tokens": [EVIL, "x<img>"]}
    candidates = Candidates(vectors, [-2, -1], *sides, card)
    examples = [Example(({"role": "user", "content": text},)) for text in "abcd"]
    data = ContrastSet("sea", examples[:2], examples[2:])
    ready = Prepared(data, data, FirstTokens((1,), (EVIL,), "found"), False, 0, data, False, (EVIL,))
    flat = np.full((2, N_LAYERS), 0.9)
    separation = Separation(flat, flat.astype(np.int64), 4, flat, [-2, -1])
    unsteered = Unsteered(torch.tensor([2.0, 4.0]).double(), torch.tensor([-3.0]).double())
    scores = (KNOWN, WEAK, KL_KNOWN, KL_AT_LEAST, SHOWS_LITTLE, BOTH, LATE, LATE_TOO, UNDEFINED, LOST)
    request = BestRequest(data, EVIL)
    return Search(
        *(request, ready, candidates, separation, unsteered, Limits(induce=-2.5)),
        scores={score.place: score for score in scores},
        choice=Choice(KNOWN.place),
        paper_words=EVIL,
    )


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (KNOWN, "chosen by the rule"),
        (WEAK, "taken out, the metric is 1.00"),
        (LOST, "taken out, the metric is 3.00"),
        (KL_KNOWN, "changes other answers too much (KL 0.25, limit 0.10)"),
        (KL_AT_LEAST, "changes other answers too much (KL at least 0.31, limit 0.10)"),
        (SHOWS_LITTLE, "turned up, it shows too little (-3.50, needs -2.50)"),
        (
            BOTH,
            "changes other answers too much (KL at least 0.31, limit 0.10); "
            "turned up, it shows too little (-3.50, needs -2.50)",
        ),
        (LATE, "too late to use"),
        (LATE_TOO, "too late to use"),
    ],
)
def test_every_square_says_why(score: CandidateScore, reason: str, search: Search) -> None:
    cell = squares(search_squares(search, KNOWN.place))[score.place]
    where = f"layer {score.layer}, position −{-score.position}: {reason}"
    assert attribute(cell, "aria-label") == attribute(cell, "title") == where
    assert f"<td>{reason}</td>" in search_table(search)


def test_a_place_without_a_direction_or_not_decided_has_no_button(search: Search) -> None:
    html = search_squares(search, KNOWN.place)
    assert squares(html).keys() == search.scores.keys() - {UNDEFINED.place}
    assert 'title="layer 0, position −1: the sides do not differ here">–</td>' in html
    assert html.count('<td class="empty"></td>') == 8  # of layers 0 to 7: seven at position −2, one at −1
    assert html.count('<td class="empty late"></td>') == 2


@pytest.mark.parametrize(
    ("score", "classes"),
    [
        (KNOWN, {"suggested"}),
        (WEAK, {"chosen"}),
        (LOST, set()),
        (KL_KNOWN, {"rejected"}),
        (KL_AT_LEAST, {"rejected"}),
        (SHOWS_LITTLE, {"rejected"}),
        (BOTH, {"rejected"}),
        (LATE, {"late"}),
        (LATE_TOO, {"late"}),
    ],
)
def test_classes_of_squares(score: CandidateScore, classes: set[str], search: Search) -> None:
    cell = squares(search_squares(search, WEAK.place))[score.place]
    assert set(attribute(cell, "class").split()) == classes


def test_the_colour_is_how_far_the_metric_falls(search: Search) -> None:
    cells = squares(search_squares(search, KNOWN.place))
    # Unsteered it is 3 on average: the winner takes away 5 of that, the weak one 2, the lost one nothing.
    shades = {score: float(attribute(cells[score.place], "style").removeprefix("--value:")) for score in (KNOWN, WEAK)}
    assert shades == {KNOWN: 1.0, WEAK: 0.4}
    for score in (LOST, KL_KNOWN, LATE_TOO):
        assert attribute(cells[score.place], "style") == "--value:0.000"


@pytest.mark.parametrize("chosen", [KNOWN.place, LATE.place, None])
def test_the_map_is_one_stop_of_the_tab_key(chosen: tuple[int, int] | None, search: Search) -> None:
    cells = squares(search_squares(search, chosen))
    stops = [place for place, cell in cells.items() if attribute(cell, "tabindex") == "0"]
    assert stops == [chosen or min(cells)]
    assert {place for place, cell in cells.items() if attribute(cell, "aria-pressed") == "true"} == (
        {chosen} if chosen else set()
    )


def test_a_place_chosen_before_it_was_tried_is_on_the_map(search: Search) -> None:
    cell = squares(search_squares(search, (-2, 2)))[-2, 2]
    assert attribute(cell, "class") == "chosen"
    assert attribute(cell, "aria-label").endswith(": not tried")
    assert attribute(cell, "tabindex") == "0"


def test_the_foot_says_what_the_map_shows(search: Search) -> None:
    assert "chosen by the rule: layer 5, position −1" in plain(search_squares(search, KNOWN.place))
    by_hand = plain(search_squares(search, WEAK.place))
    assert "chosen by hand: layer 4, position −1" in by_hand
    assert "the rule’s: layer 5, position −1" in by_hand
    assert "✕ fails a limit" in by_hand
    assert "too late to use" in by_hand
    search.limits = replace(search.limits, depth=1.0)
    search.scores = {score.place: score for score in (KNOWN, WEAK, UNDEFINED)}
    clean = plain(search_squares(search, KNOWN.place))
    assert "✕" not in clean
    assert "too late to use" not in clean


def test_the_table_has_every_score(search: Search) -> None:
    table = search_table(search)
    assert table.count("<tr>") == 1 + len(search.scores)
    assert "<td>5</td><td>-2.000</td><td>1.000</td><td>0.050</td><td>chosen by the rule</td>" in table
    assert "<td>0</td><td>–</td><td>–</td><td>–</td><td>the sides do not differ here</td>" in table


def test_texts_from_outside_are_text_on_every_card(search: Search) -> None:
    hostile = "&lt;img src=x onerror=alert(1)&gt;"
    search.choice = replace(search.choice, problem=EVIL)
    direction = search.direction_at(*WEAK.place, EVIL)
    for card in (
        make_card.searching_card(search),
        make_card.missed_card(search),
        make_card.search_card(search, direction, measuring=False),
        make_card.search_card(search, direction, measuring=True),
    ):
        assert "<img" not in card
        assert hostile in card


def test_replies_have_one_row(search: Search) -> None:
    place = (RESPONSE, 5)
    search.candidates = replace(search.candidates, vectors=search.candidates.vectors[:1], positions=[RESPONSE])
    search.scores, search.choice = {place: replace(KNOWN, position=RESPONSE)}, Choice(place)
    html = search_squares(search, place)
    assert "over the reply" in html
    assert "chosen by the rule: layer 5, mean over the reply" in plain(html)
    assert "<td>mean over the reply</td><td>5</td>" in search_table(search)


def test_overruling_names_what_the_rule_chose(search: Search) -> None:
    assert "overruled" not in search.direction_at(*KNOWN.place, "x").card
    # The same layer, at another position.
    assert search.direction_at(-2, 5, "x").card["overruled"] == "Chosen by hand; the rule chose layer 5, position −1."


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        (relaxed(Limits(), "kl", kl=0.25), "Allow KL up to 0.25 instead of 0.1"),
        (relaxed(Limits(), "layer"), "Allow later layers too"),
        (relaxed(Limits(induce=0.5), "induce", induce=-1.25), "above -1.25 instead of 0.5"),
    ],
)
def test_the_button_that_relaxes_names_both_limits(offer: Limits, words: str, search: Search, tmp_path: Path) -> None:
    search.limits, search.choice = Limits(induce=0.5 if offer.induce else 0.0), Choice(None, "None passes.", offer)
    making = Making(search=search)
    button = result(making, tmp_path)[RELAX - CARD]
    assert words in button["value"]
    assert button["visible"]
    assert not result(making, tmp_path, measuring=True)[RELAX - CARD]["visible"]


# ---------------------------------------------------------------- what is kept


def test_the_newest_search_is_kept_for_the_same_texts_alone(found: Tab, tiny: Tiny) -> None:
    kept, request = found.engine.kept_search, found.search.request
    assert kept is not None
    assert kept.serves(replace(request, name="Another name", limits=Limits(kl=0.5)), found.model)
    data = request.data
    unpaired = replace(data, positive=[replace(example, pair=None) for example in data.positive])
    assert unpaired.sha256 == data.sha256
    for other in (
        replace(request, data=unpaired),  # it is split otherwise
        replace(request, data=replace(data, name="another file")),  # whose name would stand on the card
        replace(request, first_tokens=("a",)),
        replace(request, is_refusal=True),
    ):
        assert not kept.serves(other, found.model)
    assert not kept.serves(request, tiny("qwen2"))
    *_, last = found.find()
    assert bar_words(last).startswith("Found.")
    assert found.engine.kept_search is kept


def test_scores_on_disk_are_those_of_the_very_examples(tiny: Tiny, tmp_path: Path) -> None:
    """The same texts in other pairs are split otherwise, so none of their scores may be taken for the others'."""
    model, texts = tiny("llama3"), [f"{n}" for n in range(10)]

    def side(word: str, shift: int, pairs: bool) -> list[Example]:
        return [
            Example(({"role": "user", "content": f"{word} {text}"},), pair=str((n + shift) % 10) if pairs else None)
            for n, text in enumerate(texts)
        ]

    def stored(pairs: bool, shift: int = 0, reverse: bool = False) -> tuple[str, Path]:
        order = -1 if reverse else 1
        data = ContrastSet.from_examples("s", side("sea", 0, pairs)[::order], side("tax", shift, pairs)[::order])
        finder = Finder(model, prepare(model, data, tokens=["a"], seed=SEED), store=tmp_path)
        finder.find(Limits(induce=-1e9, kl=1e9))
        assert finder.search._store is not None
        return data.sha256, finder.search._store.path

    first = stored(pairs=True)
    assert stored(pairs=True, reverse=True) == first  # the order of rows changes nothing
    others = [stored(pairs=False), stored(pairs=True, shift=3)]
    assert {sha for sha, _ in others} == {first[0]}
    assert len({path for _, path in (first, *others)}) == 3


# ---------------------------------------------------------------- the rule, relaxed


def test_a_relaxed_search_goes_on_from_what_is_scored(tab_with: Callable[..., Tab]) -> None:
    """Relaxing twice says both; what the rule then chooses is what it would choose of all scores."""
    tab = tab_with(*AFTER_KL)
    ready = prepare(tab.model, tab.give("prompts"), seed=SEED)
    finder = Finder(tab.model, ready)
    table = finder.search.run()
    finder = Finder(tab.model, ready)
    with pytest.raises(NoCandidateError) as raised:
        finder.find()
    offer = finder.relaxed(raised.value)
    assert offer is not None
    found = finder.find(offer)
    assert found.score.place == select_candidate(table, tab.model.n_layers, offer).place
    assert found.direction.card["relaxed"] == offer.relaxed
    twice = relaxed(offer, "layer")
    assert twice.relaxed.startswith(offer.relaxed)
    assert "Layers beyond 0.8 of the depth were allowed" in twice.relaxed


# ---------------------------------------------------------------- parts


def test_the_strength_reports_every_token_and_ends_within_one(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    direction = oracle.make_direction(chat)
    told: list[float] = []

    def progress(what: str, done: float, total: float) -> None:
        assert what == WHAT
        told.append(done)

    coefficient_range(chat, direction, ["Tell me about rivers."], progress=progress)
    steps = [later - earlier for earlier, later in pairwise(told)]
    assert len(told) > REPLY_TOKENS  # one reply before its marks are known, one after
    # A reply's own tokens are evenly apart; only from one reply to the next may more be skipped, where all rows ended.
    assert sum(step == pytest.approx(1 / REPLY_TOKENS) for step in steps) >= len(steps) - 1

    def stop(what: str, done: float, total: float) -> None:
        progress(what, done, total)
        if len(told) == 7:
            raise Cancelled("Stopped.")

    told.clear()
    with pytest.raises(Cancelled):
        coefficient_range(chat, direction, ["Tell me about rivers."], progress=stop)
    assert len(told) == 7
    assert oracle.count_hooks(chat.model) == 0


# As the paper's repository publishes them: model, position, layer, number of layers.
PUBLISHED = [
    ("google/gemma-2b-it", -2, 10, 18),
    ("meta-llama/Llama-2-7b-chat-hf", -1, 14, 32),
    ("meta-llama/Meta-Llama-3-8B-Instruct", -5, 12, 32),
    ("Qwen/Qwen-1_8B-Chat", -2, 15, 24),
    ("01-ai/Yi-6B-Chat", -5, 20, 32),
]


@pytest.mark.parametrize(("name", "position", "layer", "n_layers"), PUBLISHED)
def test_what_the_paper_chose(name: str, position: int, layer: int, n_layers: int) -> None:
    for spelling in (name, name.lower()):
        choice = paper_choice(spelling)
        assert choice is not None
        assert (choice.position, choice.layer, choice.n_layers) == (position, layer, n_layers)
        assert choice.words == (
            f"For refusal on this model the paper’s code chose position −{-position}, layer {layer} of {n_layers}."
        )


def test_what_the_paper_did_not_publish_is_not_known() -> None:
    assert len(PAPER_CHOICES) == len(PUBLISHED)
    for name in ("bundled", "", "google/gemma-7b-it", "someone/gemma-2b-it"):
        assert paper_choice(name) is None


def test_every_choice_of_the_paper_keeps_to_its_limits() -> None:
    for choice in PAPER_CHOICES.values():
        assert Limits().allows_layer(choice.layer, choice.n_layers)
        assert choice.position < 0
