"""The “Explain” tab: its work on tiny real models against the library, its words and markup, its handlers."""

from __future__ import annotations

import csv
import io
import math
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import oracle
import pytest
import torch

from steering.attribution import attribute
from steering.contrast import ContrastSet, Example
from steering.direction import Direction
from steering.explain import layer_profile
from steering.head_attention import TEMPLATE, attention_of_heads
from steering.interventions import Variant
from steering.models import ChatModel
from steering.suffixes import FEWEST_RANDOM
from steering.ui import explain_markup as markup
from steering.ui import explain_more as more
from steering.ui import explain_said as sentences
from steering.ui import explain_words as words
from steering.ui import second_model, zero_desk
from steering.ui.chat import Chat
from steering.ui.engine import Engine, ModelOptions
from steering.ui.explain_found import BaseFound, Explained, Question, SuffixFound
from steering.ui.explain_handlers import ExplainHandlers
from steering.ui.explain_work import explain, explain_suffix
from steering.ui.gpu_call import gpu_work, work_for
from steering.ui.limits import Limits
from steering.ui.operator import Operator
from steering.ui.session import Session, Sessions
from steering.ui.shared_slots import give_back, take_slot
from steering.ui.take_home_rules import TakeHome
from steering.ui.worker import Job, Worker

Tiny = Callable[[str], ChatModel]
EVIL = "<img src=x onerror=alert(1)> ${alert(1)} {{alert}} \"'"
PROMPT = "Why is the sea blue?"
HERE: dict[str, str] = {"host": "127.0.0.1:7860"}
SETTINGS = (1.5, "centred", "added")


def visitor(name: str = "a visitor", headers: dict[str, str] | None = None) -> Any:
    return SimpleNamespace(session_hash=name, client=None, headers=HERE if headers is None else headers)


def pressed(**data: Any) -> Any:
    return SimpleNamespace(_data=data)


def for_model(model: ChatModel, data: ContrastSet | None = None, seed: int = 0) -> Direction:
    direction = oracle.make_direction(model, seed, layer=2)
    card = {**direction.card, "model": model.name, "revision": model.revision, "model_label": model.label}
    return replace(direction, name="The sea", card=card | ({"data_sha256": data.sha256} if data else {}))


def a_set() -> ContrastSet:
    sides = [
        [Example(({"role": "user", "content": f"{text} {number}?"},)) for number in range(6)]
        for text in ("Where is the sea", "Where is the tea")
    ]
    return ContrastSet.from_examples("seas", *sides)


class Tab:
    """The tab's handlers over a tiny model, for visitors with an idea of their own whose texts are at hand."""

    def __init__(self, model: ChatModel, home: TakeHome, limits: Limits | None = None) -> None:
        self.engine = Engine(ModelOptions(device="cpu"))
        self.engine.model = model
        self.sessions = Sessions("poetic")
        self.data = a_set()
        self.direction = for_model(model, self.data)
        chat = Chat(self.engine, Operator(limits, take_home=home))
        self.handlers = ExplainHandlers(chat, self.sessions)
        self.session = self.visit()

    def visit(self, name: str = "a visitor") -> Session:
        session: Session = self.sessions.of(visitor(name))
        session.idea = session.add_own(self.direction)
        session.making.data = self.data
        return session

    def explain(self, prompt: str = PROMPT, name: str = "a visitor", settings: Any = SETTINGS) -> list[Any]:
        *_, last = self.handlers.explain(prompt, *settings, visitor(name))
        return last

    def compare(self, suffix: str, prompt: str = PROMPT) -> list[Any]:
        *_, last = self.handlers.compare(prompt, suffix, *SETTINGS, visitor())
        return last

    def compare_base(self, base: str, headers: dict[str, str] | None = None) -> list[Any]:
        *_, last = self.handlers.compare_base(base, *SETTINGS, visitor(headers=headers))
        return last

    @property
    def model_in_use(self) -> tuple[str, str]:
        model = self.engine.ready_model()
        return model.name, model.revision

    @property
    def shown(self) -> Explained:
        found = self.session.explaining.shown
        assert found is not None
        return found


@pytest.fixture
def tab(tiny: Tiny, tmp_path: Path) -> Tab:
    return Tab(tiny("llama3"), TakeHome(tmp_path / "exports"))


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """The CSV files that can be downloaded, by name."""
        found = {}
        for tag, attributes in self.tags:
            if tag == "a" and attributes.get("download"):
                text = unquote(str(attributes["href"]).removeprefix("data:text/csv;charset=utf-8,"))
                found[str(attributes["download"])] = list(csv.DictReader(io.StringIO(text)))
        return found


# ---------------------------------------------------------------- the work, against the library


@pytest.mark.parametrize("family", ["llama3", "gemma2", "qwen3", "gpt-neox"])
def test_what_is_found_is_what_the_library_finds(family: str, tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny(family), TakeHome(tmp_path))
    model, direction = tab.engine.ready_model(), tab.direction
    page = "".join(part for part in tab.explain() if isinstance(part, str))
    found = tab.shown
    messages = [{"role": "user", "content": PROMPT}]
    ids = model.encode(messages)

    written = attribute(model, ids, direction, direction.layer)
    assert found.heads is not None
    torch.testing.assert_close(torch.tensor(found.heads.values), written.heads[:, :, -1])
    assert found.heads.top == [(layer, head) for layer, head, _ in written.top_heads(3)]
    tables = Reader(page).tables()
    parts = {(row["layer"], row["part"]): float(row["along the direction"]) for row in tables["heads.csv"]}
    total = parts.pop(("", "total"))
    assert sum(parts.values()) == pytest.approx(total, abs=1e-4 * 2 * direction.norm)

    assert found.looks is not None
    assert "".join(found.looks.pieces) == model.format(messages)
    layer, head = found.heads.top[1]
    weights = attention_of_heads(model, ids, [(layer, head)])[0]
    torch.testing.assert_close(torch.tensor(found.looks.of((layer, head))), weights)
    shares = found.looks.shares((layer, head))
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert set(shares) == {"instruction", TEMPLATE}
    assert words.TEMPLATE == TEMPLATE

    prompt = [Example(tuple(messages))]
    expected = {
        "as it is": layer_profile(model, direction, prompt),
        "taken out": layer_profile(model, direction, prompt, Variant.ablated(direction)),
        "turned up (1.5)": layer_profile(model, direction, prompt, Variant.added(direction, 1.5)),
    }
    for name, profile in expected.items():
        torch.testing.assert_close(torch.tensor(found.where.ways[name].mean), profile.mean, atol=1e-5, rtol=0)
        rows = [float(row["cosine"]) for row in tables["profile.csv"] if row["group"] == f"your prompt, {name}"]
        assert rows == pytest.approx(profile.mean.tolist(), abs=1e-5)
    assert found.where.texts is not None
    for name, side in (("with the idea", tab.data.positive), ("without it", tab.data.negative)):
        profile = layer_profile(model, direction, side)
        curve = found.where.texts.curves[name]
        assert curve.n == 6
        torch.testing.assert_close(torch.tensor(curve.mean), profile.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(curve.spread), profile.spread, atol=1e-5, rtol=0)
    assert oracle.count_hooks(model.model) == 0


def test_the_opposite_and_a_prompt_that_is_measured_along_what_is_taken_out(tab: Tab) -> None:
    tab.session.sign = -1
    tab.explain(settings=(1.0, "plain", "keep_norm"))
    assert list(tab.shown.where.ways) == ["as it is", "taken out", "its opposite (1)"]
    assert tab.shown.where.ways["taken out"].mean == pytest.approx([0.0] * tab.shown.of.n_layers, abs=1e-5)


def test_the_texts_are_read_once_for_all_prompts(tab: Tab) -> None:
    tab.explain()
    texts = tab.shown.where.texts
    tab.explain("Hello there")
    assert tab.shown.of.prompt == "Hello there"
    assert tab.shown.where.texts is texts
    tab.explain(settings=(1.0, "plain", "added"))  # along another direction
    assert tab.shown.where.texts is not texts


def test_texts_that_nobody_knows_are_left_out_and_that_is_said(tab: Tab) -> None:
    tab.session.making.data = None
    where = Reader(tab.explain()[4])
    assert tab.shown.where.texts is None
    assert "The texts it was made from are not known here." in where.text
    assert {row["group"] for row in where.tables()["profile.csv"]} == {
        f"your prompt, {way}" for way in ("as it is", "taken out", "turned up (1.5)")
    }


def test_a_way_that_cannot_be_leaves_the_others(tab: Tab) -> None:
    found = tab.explain(settings=(1.0, "affine", "added"))  # this direction does not know where texts without it lie
    assert list(tab.shown.where.ways) == ["as it is"]
    assert tab.shown.where.problem in Reader(found[4]).text
    assert tab.shown.heads is not None


def test_a_suffix_is_held_against_random_ones(tab: Tab) -> None:
    tab.explain()
    found = tab.compare("and of boats")[3]
    page = Reader(found)
    tables = page.tables()
    assert len({row["prompt"] for row in tables["suffix.csv"]}) == 2 + FEWEST_RANDOM
    plain = [float(row["cosine"]) for row in tables["suffix.csv"] if row["prompt"] == "as it is"]
    assert plain == pytest.approx(tab.shown.where.prompt.mean, abs=1e-5)
    heads = {(int(row["layer"]), int(row["head"])) for row in tables["suffix-heads.csv"]}
    assert tab.shown.heads is not None
    assert heads == set(tab.shown.heads.top)
    assert "looks to the suffix" in page.text
    assert "random text of the same length" in page.text
    assert tab.shown.of.prompt == PROMPT  # what was found of the prompt stays


def test_a_base_model_is_read_with_the_same_texts(tab: Tab, family_folder: Callable[[str], Path]) -> None:
    found = tab.compare_base(str(family_folder("llama3")))[3]
    page = Reader(found)
    rows = page.tables()["base.csv"]
    assert len(rows) == tab.engine.ready_model().n_layers
    assert all(row["chat"] == row["base"] for row in rows)  # it is its own base here
    assert "in the chat model; 1 is always, 0.5 is chance." in page.text


def test_all_of_it_crosses_to_the_process_that_has_the_gpu_and_back(tab: Tab) -> None:
    question = Question(PROMPT, "The sea", "own:1", tab.direction, tab.data, 1.0, "centred", "added", tab.model_in_use)
    work_for(tab.engine)
    for work, arguments, kind in (
        (explain, (question, None), Explained),
        (explain_suffix, (question, "and of boats"), SuffixFound),
    ):
        slot = take_slot()
        crossed = pickle.loads(ForkingPickler.dumps((work, arguments)))
        reports = [
            pickle.loads(ForkingPickler.dumps(report))
            for report in gpu_work(crossed[0], crossed[1], slot, zero_desk.SECONDS)
        ]
        give_back(slot)
        assert isinstance([one for one in reports if one is not None][-1], kind)


# ---------------------------------------------------------------- what is said when it cannot be


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ("", SETTINGS, words.NO_PROMPT),
        (" \n ", SETTINGS, words.NO_PROMPT),
        ("x" * 2_001, SETTINGS, "The prompt has 2,001 characters; at most 2,000 are read here."),
        (PROMPT, (None, "centred", "added"), "The strength must be a number"),
        (PROMPT, (math.nan, "centred", "added"), "The strength must be a number"),
        (PROMPT, (1.0, EVIL, "added"), "not what the page sends"),
    ],
)
def test_what_is_asked_wrongly_gets_a_sentence_and_nothing_is_lost(
    tab: Tab, prompt: str, settings: Any, said: str
) -> None:
    tab.explain()
    before = tab.shown
    note, run, cancel, *others = tab.explain(prompt, settings=settings)
    assert said in Reader(note).text
    assert 'role="alert"' in note
    assert (run["visible"], cancel["visible"]) == (True, False)
    assert all("value" not in update for update in others)
    assert tab.shown is before


def test_a_prompt_of_more_tokens_than_are_looked_at(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("llama3"), TakeHome(tmp_path), Limits(characters=100_000))
    note = tab.explain("a b " * 2_000)[0]
    assert re.search(r"The prompt has [\d,]+ tokens; at most [\d,]+ are looked at here\. Shorten it\.", note)
    note = tab.compare("a b " * 2_000)[0]
    assert re.search(r"With the suffix the prompt has [\d,]+ tokens; at most", note)
    assert words.NO_SUFFIX in tab.compare("  ")[0]


def test_a_model_that_came_meanwhile(tab: Tab, tiny: Tiny) -> None:
    other = tiny("qwen3")
    waiting, release = threading.Event(), threading.Event()

    def hold(job: Job) -> None:
        waiting.set()
        release.wait(20)
        tab.engine.model = other

    tab.engine.worker.submit(hold)
    assert waiting.wait(20)
    updates = tab.handlers.explain(PROMPT, *SETTINGS, visitor())
    next(updates)
    release.set()
    *_, last = updates
    assert words.OTHER_MODEL in Reader(last[0]).text


def test_a_direction_of_another_model(tab: Tab, tiny: Tiny) -> None:
    tab.engine.model = tiny("qwen3")
    assert "Another model is in use now" in tab.explain()[0]
    tab.engine.model = None
    assert "The model is still loading" in tab.explain()[0]


def test_heads_that_several_processes_hold_are_not_looked_at(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab.engine.ready_model(), "leader", object())
    monkeypatch.setattr("steering.explain.layer_profile", lambda *args, **kwargs: _profile(tab))
    tab.explain()
    assert tab.shown.heads is None
    assert "Several processes hold this model" in Reader(markup.heads_html(tab.shown, None)).text
    assert "Several processes hold this model" in tab.compare("and of boats")[0]


def _profile(tab: Tab) -> Any:
    from steering.explain import Profile

    return Profile(*(torch.zeros(1, tab.engine.ready_model().n_layers),) * 2)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("", "No base model is named yet"),
        ("/nowhere/at/all", "/nowhere/at/all"),
        ("../x", "“../x” could not be loaded"),
        (EVIL, "img"),
    ],
)
def test_a_base_model_that_is_none(tab: Tab, base: str, said: str) -> None:
    note = tab.compare_base(base)[0]
    assert said in Reader(note).text
    assert not [tag for tag, _ in Reader(note).tags if tag == "img"]
    assert words.SAYINGS.unforeseen not in Reader(note).text


def test_a_base_model_of_another_width(tab: Tab, family_folder: Callable[[str], Path]) -> None:
    assert "was made for a model of width 64" in tab.compare_base(str(family_folder("gemma2-narrow")))[0]


def test_who_may_have_a_second_model_loaded(tab: Tab, tiny: Tiny, tmp_path: Path) -> None:
    off = Tab(tiny("llama3"), TakeHome())
    assert not off.handlers.may_load_base
    assert words.BASE_COMMAND in Reader(off.compare_base("bundled")[0]).text
    here = Tab(tiny("llama3"), TakeHome(tmp_path, only_here=True))
    assert words.BASE_COMMAND in Reader(here.compare_base("bundled", {"host": "example.org"})[0]).text
    few = Tab(tiny("llama3"), TakeHome(tmp_path), Limits(models=("one/model",)))
    assert "choose one of one/model" in Reader(few.compare_base("bundled")[0]).text
    with tab.handlers.engine.second_model:
        assert second_model.ONE_AT_A_TIME in tab.compare_base("bundled")[0]
    assert words.BASE_COMMAND in Reader(more.base_off_html()).text


def test_where_another_process_has_the_gpu_no_second_model_is_loaded(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("llama3"), TakeHome(tmp_path))
    elsewhere = Worker()
    elsewhere.in_this_process = False
    tab.engine.worker = elsewhere
    assert not tab.handlers.may_load_base


# ---------------------------------------------------------------- visitors


def test_two_visitors_do_not_mix(tab: Tab) -> None:
    tab.visit("another")
    turns: list[Iterator[list[Any]]] = [
        tab.handlers.explain(prompt, *SETTINGS, visitor(name))
        for name, prompt in (("a visitor", PROMPT), ("another", "Hello there"))
    ]
    for turn in turns:
        next(turn)  # both are in line
    for turn in turns:
        *_, _ = turn
    found = {name: tab.sessions.of(visitor(name)).explaining.shown for name in ("a visitor", "another")}
    assert [one.of.prompt for one in found.values() if one] == [PROMPT, "Hello there"]
    looks = tab.handlers.press(pressed(layer="0", position="1"), visitor("another"))
    assert "Hello there" in Reader(looks).text
    assert "value" not in tab.handlers.press(pressed(layer="0", position="1"), visitor("a stranger"))


def test_a_second_press_and_cancelling(tab: Tab) -> None:
    release = threading.Event()
    tab.engine.worker.submit(lambda job: release.wait(20) and None)
    updates = tab.handlers.explain(PROMPT, *SETTINGS, visitor())
    first = next(updates)
    assert (first[1]["visible"], first[2]["visible"]) == (False, True)
    assert words.SAYINGS.busy in tab.compare("and of boats")[0]
    tab.handlers.errands.cancel(visitor())
    *_, last = updates
    assert "Cancelled." in last[0]
    assert tab.session.explaining.shown is None
    assert not tab.session.explaining.busy
    release.set()
    assert tab.explain()[0] == ""


def test_who_leaves_ends_what_runs_for_them(tab: Tab) -> None:
    release = threading.Event()
    tab.engine.worker.submit(lambda job: release.wait(20) and None)
    updates = tab.handlers.explain(PROMPT, *SETTINGS, visitor())
    next(updates)
    job = tab.session.explaining.job
    assert job is not None
    tab.sessions.close(visitor())
    assert job.stopped
    release.set()
    end = time.monotonic() + 20
    while not job.ended.is_set():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert tab.session.explaining.shown is None


def test_pressing_squares(tab: Tab) -> None:
    tab.explain()
    shown = Reader(tab.handlers.press(pressed(layer="1", position="2"), visitor()))
    assert "Where layer 1, head 2 looks" in shown.text
    assert len(shown.tables()["attention.csv"]) == len(tab.shown.looks.pieces if tab.shown.looks else ())
    assert "The MLP of layer 0" in tab.handlers.press(pressed(layer=0, position="mlp"), visitor())
    for wrong in (
        {},
        {"layer": "x", "position": "0"},
        {"layer": "99", "position": "0"},
        {"layer": "0", "position": "-1"},
        {"layer": None, "position": EVIL},
    ):
        assert "value" not in tab.handlers.press(pressed(**wrong), visitor())
    assert "value" not in tab.handlers.press(SimpleNamespace(_data="nothing"), visitor())


def test_the_heading_says_of_what_else_something_is_shown(tab: Tab) -> None:
    what, suffix = tab.handlers.show(words.suffix_for("poetic"), visitor())  # as the page begins
    assert "“The sea” inside" in Reader(what).text
    assert suffix == words.OWN_SUFFIX
    assert "value" not in tab.handlers.show(suffix, visitor())[1]
    tab.explain()
    tab.session.idea = "poetic"
    what, suffix = tab.handlers.show(suffix, visitor())
    assert "What is shown below was found of “The sea”" in Reader(what).text
    assert suffix == words.suffix_for("poetic")
    assert "value" not in tab.handlers.show("my own words", visitor())[1]
    assert all("value" not in update for update in tab.handlers.refresh("", visitor()))  # it is the same model


def test_the_heading_names_the_model_once_it_is_there(tab: Tab) -> None:
    model, tab.engine.model = tab.engine.model, None
    assert all("value" not in update for update in tab.handlers.refresh("", visitor()))  # nobody has looked yet
    assert "inside the model" in tab.handlers.show("", visitor())[0]
    tab.engine.model = model
    assert f"inside {tab.engine.ready_model().label}" in tab.handlers.refresh("", visitor())[0]


# ---------------------------------------------------------------- markup and words


def test_nothing_that_was_typed_becomes_markup(tab: Tab) -> None:
    tab.direction = replace(tab.direction, name=EVIL)
    tab.session.own[tab.session.idea] = tab.direction
    page = "".join(part for part in tab.explain(EVIL) if isinstance(part, str))
    page += tab.compare("and " + EVIL, EVIL)[3]
    read = Reader(page)
    assert not {"img", "script"} & {tag for tag, _ in read.tags}
    assert EVIL in read.text
    assert all(not name.startswith("on") for _, attributes in read.tags for name in attributes)


def test_every_picture_has_a_name_a_table_and_a_sentence(tab: Tab) -> None:
    tab.explain()
    cards = {
        "where": (markup.where_html(tab.shown), sentences.ways_said(tab.shown.where, tab.shown.of)),
        "suffix": (tab.compare("and of boats")[3], "At layer 2 the suffix moves the prompt"),
    }
    for card, sentence in cards.values():
        read = Reader(card)
        pictures = [attributes for tag, attributes in read.tags if tag == "svg" and attributes.get("role") == "img"]
        assert len(pictures) >= 2
        assert all(attributes.get("aria-label") for attributes in pictures)
        assert any(sentence in str(attributes["aria-label"]) for attributes in pictures)
        assert sentence in read.text
        assert all(rows for rows in read.tables().values())
    heads = tab.shown.heads
    assert heads is not None
    squares = [
        attributes
        for tag, attributes in Reader(markup.heads_html(tab.shown, heads.top[0])).tags
        if tag == "button" and "title" in attributes
    ]
    assert len(squares) == len(heads.values) * (len(heads.values[0]) + 1)
    assert [one["tabindex"] for one in squares].count("0") == 1
    assert all(re.search(r"layer \d+, (head \d+|MLP): [+−]", str(one["aria-label"])) for one in squares)


@pytest.mark.parametrize(
    ("value", "said"), [(0.123, "+0.12"), (-0.126, "−0.13"), (0.0, "0.00"), (-0.001, "0.00"), (1.0, "+1.00")]
)
def test_numbers(value: float, said: str) -> None:
    assert words.number(value) == said


@pytest.mark.parametrize(("token", "said"), [(" sea", "sea"), ("\n", "↵"), (" ", "␣"), ("\ufe0f", "U+FE0F")])
def test_tokens_can_be_seen(token: str, said: str) -> None:
    assert words.shown_token(token) == said


def test_a_base_model_and_what_is_said_of_it(tab: Tab) -> None:
    tab.explain()
    of = replace(tab.shown.of, layer=1)
    for base, said in ((0.95, "apart already"), (0.8, "apart partly"), (0.5, "hardly tells")):
        curves = {words.CHAT_MODEL: [0.5, 1.0], words.BASE_MODEL: [0.5, base]}
        found = BaseFound(of, EVIL, curves, "said", "layer,chat,base\n")
        assert said in sentences.base_said(found)
        assert not [tag for tag, _ in Reader(more.base_html(found)).tags if tag == "img"]
