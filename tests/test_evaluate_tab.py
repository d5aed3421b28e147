"""The “Evaluate” tab: its work on a tiny real model, its sentences and markup, its handlers."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import oracle
import pytest

from steering.evaluation_table import table
from steering.models import ChatModel
from steering.ui import evaluate_markup as markup
from steering.ui import evaluate_words as words
from steering.ui.chat import Chat
from steering.ui.engine import Engine, ModelOptions
from steering.ui.evaluate_found import Evaluated, ToEvaluate
from steering.ui.evaluate_handlers import EvaluateHandlers
from steering.ui.evaluate_work import evaluate
from steering.ui.ideas import OWN
from steering.ui.operator import Operator
from steering.ui.session import Sessions
from steering.ui.take_home_rules import TakeHome
from steering.ui.worker import Job, Worker

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
    return ToEvaluate(EVIL, "own-1", own, 2.0, "Be a poet.", (model.name, model.revision), 4, 8, True)


@pytest.fixture(scope="module")
def found(engine: Engine, asked: ToEvaluate) -> Evaluated:
    job = engine.worker.submit(lambda job: evaluate(engine, asked, job))
    reports = [report for report in job.reports() if report is not None]
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
        job = Job(Worker(), lambda job, changed=changed: evaluate(engine, changed, job))
        job.run()
        with pytest.raises(Exception, match=said):
            list(job.reports())


@pytest.fixture
def handlers(engine: Engine) -> EvaluateHandlers:
    return EvaluateHandlers(Chat(engine, Operator(take_home=TakeHome(Path("exports")))), Sessions("poetic", 10))


def last(updates: Iterator[list[Any]]) -> list[Any]:
    *_, shown = updates
    return shown


def test_what_the_page_does_not_send_is_refused(handlers: EvaluateHandlers) -> None:
    for count, length, which in ((5, 32, words.BOTH), (4, 33, words.BOTH), (4, 32, "all"), (None, None, None)):
        shown = last(handlers.evaluate(count, length, which, 1.0, VISITOR))
        assert "not what the page sends" in shown[0]
    shown = last(handlers.evaluate(4, 32, words.BOTH, None, VISITOR))
    assert 'role="alert"' in shown[0]


def test_strangers_may_ask_less(engine: Engine) -> None:
    handlers = EvaluateHandlers(Chat(engine, Operator()), Sessions("poetic", 10))
    assert (handlers.counts, handlers.lengths) == ((4, 8), (32, 64))
    assert "not what the page sends" in last(handlers.evaluate(32, 32, words.BOTH, 1.0, VISITOR))[0]


def test_it_can_be_cancelled(handlers: EvaluateHandlers) -> None:
    session = handlers.sessions.of(VISITOR)
    model = handlers.engine.ready_model()
    own = oracle.make_direction(model, layer=1)
    session.own[f"{OWN}1"] = replace(own, card=own.card | {"model": model.name, "revision": model.revision})
    session.idea = f"{OWN}1"
    updates = handlers.evaluate(32, 128, words.BOTH, 1.0, VISITOR)
    next(updates)
    handlers.errands.cancel(VISITOR)
    assert "Cancelled." in last(updates)[0]
    assert not session.evaluating.busy
    assert "How much" in handlers.show(VISITOR)
