"""The “Evaluate” tab: its work on a tiny real model, its sentences and markup, its handlers."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import oracle
import pytest

from steering.errors import SteeringError
from steering.evaluation_table import table
from steering.models import ChatModel, load_model
from steering.ui import evaluate_markup as markup
from steering.ui import evaluate_words as words
from steering.ui.chat import Chat
from steering.ui.engine import Engine, ModelOptions
from steering.ui.evaluate_found import HELD_OUT, Evaluated, ToEvaluate
from steering.ui.evaluate_handlers import EvaluateHandlers, named_choices
from steering.ui.evaluate_work import begin_evaluation
from steering.ui.ideas import OWN
from steering.ui.limits import Limits
from steering.ui.operator import Operator
from steering.ui.session import Sessions
from steering.ui.take_home_rules import TakeHome

ALL: dict[Any, str] = dict.fromkeys(("harmful", "harmless", "text"), HELD_OUT)
EVIL = "<img src=x onerror=alert(1)>"
VISITOR: Any = SimpleNamespace(session_hash="a visitor", client=None, headers={"host": "127.0.0.1:7860"})


@pytest.fixture(scope="module")
def engine(tiny: Callable[[str], ChatModel]) -> Engine:
    engine = Engine(ModelOptions())
    engine.model = tiny("qwen2")
    return engine


@pytest.fixture(scope="module")
def asked(engine: Engine) -> ToEvaluate:
    model = engine.ready_model()
    own = replace(oracle.make_direction(model, layer=1), name=EVIL)
    own = replace(own, card=own.card | {"model": model.name, "revision": model.revision})
    return ToEvaluate(EVIL, "own-1", own, 2.0, "Be a poet.", (model.name, model.revision), 4, 8, ALL)


@pytest.fixture(scope="module")
def found(engine: Engine, asked: ToEvaluate) -> Evaluated:
    reports = [report for report in begin_evaluation(engine, asked).reports() if report is not None]
    assert all(isinstance(report, tuple) for report in reports[:-1])
    parts = [done / total for _, done, total in reports[:-1]]
    assert parts == sorted(parts)
    assert len(parts) > 20
    assert isinstance(reports[-1], Evaluated)
    return reports[-1]


def test_every_way_is_read_and_no_answer_is_kept(found: Evaluated) -> None:
    variants = {row.variant for row in found.rows}
    assert variants == {*("baseline", "ablated", "added", "subtracted", "random ablated", "random added", "prompted")}
    assert {row.figure.n for row in found.rows if row.metric == "refused_harmful"} == {4}
    assert not any("reply" in record for record in found.records)
    assert table(found.records) == found.rows or len(table(found.records)) == len(found.rows)
    again = pickle.loads(pickle.dumps(found))
    assert [row.as_json() for row in again.rows] == [row.as_json() for row in found.rows]


def test_what_is_shown(found: Evaluated) -> None:
    html = markup.found_html(found)
    assert "<img" not in html
    assert html.count("<figure>") == len({row.metric for row in found.rows})
    said = markup.sentences(found)
    assert said[0].startswith("Of 4 harmful requests it refuses ")
    assert said[1].startswith("Of 4 everyday questions it refuses ")
    assert "nats a token" in said[3]
    assert said[-1] == words.FEW
    assert words.FEW not in markup.sentences(replace(found, asked=replace(found.asked, count=16)))
    [address] = re.findall(r'download="evaluation.csv" href="data:text/csv[^,]*,([^"]*)"', html)
    rows = list(csv.DictReader(io.StringIO(unquote(address))))
    assert len(rows) == len(found.rows)
    [address] = re.findall(r'download="evaluation.json" href="data:application/json[^,]*,([^"]*)"', html)
    assert len(json.loads(unquote(address))["rows"]) == len(found.rows)


def test_the_one_before_stands_beside_it(found: Evaluated) -> None:
    assert markup.beside_html(found, None) == ""
    html = markup.beside_html(found, found)
    assert "Beside the one before" in html
    assert "0% [" in html
    assert "<img" not in html
    heading = markup.what_html("Another", "a model", found)
    assert "What is shown below is of" in heading
    assert "<img" not in heading


def test_another_model_or_direction_is_refused(engine: Engine, asked: ToEvaluate) -> None:
    for changed, said in (
        (replace(asked, model=("another", "")), "Another model came into use"),
        (replace(asked, own=replace(asked.own, card={"model": "x", "revision": "y"})), "made for the one before"),  # type: ignore[type-var]
    ):
        with pytest.raises(SteeringError, match=said):
            list(begin_evaluation(engine, changed).reports())


@pytest.fixture
def handlers(engine: Engine) -> EvaluateHandlers:
    return EvaluateHandlers(Chat(engine, Operator(take_home=TakeHome(Path("exports")))), Sessions("poetic", 10))


def last(updates: Iterator[list[Any]]) -> list[Any]:
    *_, shown = updates
    return shown


def pressed(
    handlers: EvaluateHandlers,
    *chosen: Any,
    sets: Sequence[Any] = (HELD_OUT,) * 3,
    judge: Any = "",
    edited: Any = False,
    who: Any = VISITOR,
) -> Iterator[list[Any]]:
    """Evaluate, pressed with these choices and a strength, and what else may be chosen."""
    return handlers.evaluate(*chosen, *sets, judge, edited, who)


def test_what_the_page_does_not_send_is_refused(handlers: EvaluateHandlers) -> None:
    for count, length, which in ((5, 32, words.BOTH), (4, 33, words.BOTH), (4, 32, "all"), (None, None, None)):
        shown = last(pressed(handlers, count, length, which, 1.0))
        assert "not what the page sends" in shown[0]
    for sets in (
        ("xstest", "xstest", "xstest"),
        ("advbench", HELD_OUT, EVIL),
        ("pile", HELD_OUT, HELD_OUT),
        [None] * 3,
    ):
        assert "not what the page sends" in last(pressed(handlers, 4, 32, words.BOTH, 1.0, sets=sets))[0]
    shown = last(pressed(handlers, 4, 32, words.BOTH, None))
    assert 'role="alert"' in shown[0]


def test_strangers_may_ask_less(engine: Engine) -> None:
    handlers = EvaluateHandlers(Chat(engine, Operator()), Sessions("poetic", 10))
    assert (handlers.counts, handlers.lengths) == ((4, 8), (32, 64))
    assert "not what the page sends" in last(pressed(handlers, 32, 32, words.BOTH, 1.0))[0]


def test_it_can_be_cancelled(handlers: EvaluateHandlers) -> None:
    session = handlers.sessions.of(VISITOR)
    model = handlers.engine.ready_model()
    own = oracle.make_direction(model, layer=1)
    session.own[f"{OWN}1"] = replace(own, card=own.card | {"model": model.name, "revision": model.revision})
    session.idea = f"{OWN}1"
    updates = pressed(handlers, 32, 128, words.BOTH, 1.0)
    next(updates)
    handlers.errands.cancel(VISITOR)
    assert "Cancelled." in last(updates)[0]
    assert not session.evaluating.busy
    assert "How much" in handlers.show(VISITOR)


# ---------------------------------------------------------------- other questions, a judge, edited weights


def evaluated(engine: Engine, asked: ToEvaluate) -> Evaluated:
    *_, found = (report for report in begin_evaluation(engine, asked).reports() if report is not None)
    assert isinstance(found, Evaluated)
    assert not engine.second_model.locked()
    return found


def test_sets_are_offered_with_their_licences() -> None:
    assert named_choices("harmful")[:2] == [(words.COME_ALONG, HELD_OUT), ("JailbreakBench (MIT)", "jailbreakbench")]
    assert {name for _, name in named_choices("harmless")} == {HELD_OUT, "jailbreakbench", "alpaca", "xstest"}
    assert [name for _, name in named_choices("text")] == [HELD_OUT, "pile"]


def test_a_set_of_the_field_is_read_where_it_lies(
    engine: Engine, asked: ToEvaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERING_DATASETS", str(tmp_path))
    file = tmp_path / "jailbreakbench" / "benign-behaviors.csv"
    file.parent.mkdir()
    file.write_text("Index,Goal\n0,Plant a tree\n1,Bake a pie\n2,Mend a sock\n")
    found = evaluated(engine, replace(asked, sets={"harmless": "jailbreakbench", "text": HELD_OUT}, count=8))
    assert {row.figure.n for row in found.rows if row.metric == "answered_harmless"} == {3}
    assert not [row for row in found.rows if row.metric.endswith("harmful")]
    html = markup.found_html(found)
    assert "JailbreakBench, harmless: 3 of 3" in html
    assert "a file of your own, not the pinned one" in html


def test_a_set_out_of_reach_says_what_to_put_where(
    engine: Engine, asked: ToEvaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERING_DATASETS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SteeringError, match=f"cannot be reached.* put that file at {tmp_path}/jailbreakbench/"):
        evaluated(engine, replace(asked, sets={**ALL, "harmful": "jailbreakbench"}))


def test_a_judges_verdicts_are_in_the_table(
    engine: Engine, asked: ToEvaluate, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    class Judge:
        def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
            return ["safe" if place % 2 else "unclear" for place in range(len(pairs))]

    def judge_for(model: ChatModel) -> Judge:
        judged.append(model.name)
        return Judge()

    monkeypatch.setattr("steering.judges.judge_for", judge_for)
    folder = str(family_folder("llama3"))
    for name in (folder, asked.model[0]):  # another model, which is loaded; and the one in use, which is not again
        if name == asked.model[0]:
            monkeypatch.setattr("steering.ui.evaluate_work.load_second", lambda *_: pytest.fail("loaded again"))
        found = evaluated(engine, replace(asked, judge=name))
        assert {row.figure.value for row in found.rows if row.metric == "safe_harmful"} == {1.0}
        said = "The judge finds its answers to harmful requests safe in 100 % as it is, 100 % with it taken out and "
        assert said in markup.found_html(found).replace("\N{NO-BREAK SPACE}", " ")
        assert "14 verdicts were neither safe nor unsafe" in markup.found_html(found)
    assert judged == [folder, asked.model[0]]


def test_a_judge_that_is_none_is_a_sentence(
    engine: Engine, asked: ToEvaluate, family_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(SteeringError, match="answers nonsense"):
        evaluated(engine, replace(asked, judge=str(family_folder("llama3"))))
    assert not engine.second_model.locked()
    with pytest.raises(SteeringError, match=r"There is no|could not be loaded"):
        evaluated(engine, replace(asked, judge="../x"))
    with engine.second_model, pytest.raises(SteeringError, match="for someone else"):
        list(begin_evaluation(engine, replace(asked, edited=True)).reports())


def test_edited_weights_answer_as_the_hooks_do_and_are_thrown_away(
    family_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path))
    engine = Engine(ModelOptions(device="cpu", dtype="float32"))
    engine.model = model = load_model(str(family_folder("llama3")), device="cpu", dtype="float32")
    own = oracle.make_direction(model, layer=1)
    own = replace(own, card=own.card | {"model": model.name, "revision": model.revision})
    asked = ToEvaluate(EVIL, "own-1", own, 2.0, "Rhyme.", (model.name, model.revision), 4, 8, ALL, edited=True)
    found = evaluated(engine, asked)
    by_name = {(row.metric, row.variant): row.figure.value for row in found.rows}
    metrics = {metric for metric, variant in by_name if variant == "orthogonalized"}
    assert {"refused_harmful", "ce_text", "kl_replies"} <= metrics
    for metric in metrics:
        assert by_name[metric, "orthogonalized"] == pytest.approx(by_name[metric, "ablated"], abs=1e-4)
    assert by_name["ce_text", "ablated"] != pytest.approx(by_name["ce_text", "baseline"], abs=1e-3)
    assert "taken out of the weights themselves, it refuses" in markup.found_html(found)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_more_than_questions_is_for_the_person_at_the_machine(engine: Engine) -> None:
    def said(take_home: TakeHome, limits: Limits | None = None, **more: Any) -> str:
        chat = Chat(engine, Operator(limits or Limits(), take_home=take_home))
        which = more.pop("which", words.BOTH)
        return str(last(pressed(EvaluateHandlers(chat, Sessions("poetic", 10)), 4, 32, which, 1.0, **more))[0])

    here = TakeHome(Path("exports"), only_here=True)
    stranger = SimpleNamespace(session_hash="a stranger", client=None, headers={"host": "example.org"})
    for more in ({"sets": ["advbench", HELD_OUT, HELD_OUT]}, {"judge": "some/guard"}, {"edited": True}):
        assert words.AT_HOME in said(TakeHome(), **more)
        assert words.AT_HOME in said(here, who=stranger, **more)
    assert words.NOTHING_TO_JUDGE in said(here, judge="some/guard", which=words.HARMLESS_ONLY)
    assert "choose one of one/model" in said(here, Limits(models=("one/model",)), judge="some/guard")
    assert EvaluateHandlers(Chat(engine, Operator(take_home=here)), Sessions("poetic", 10)).has_more
    assert not EvaluateHandlers(Chat(engine, Operator()), Sessions("poetic", 10)).has_more
