"""The endpoints for programs without a server: what they keep, what they refuse, how a call ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

from steering.direction import Direction
from steering.errors import DirectionError, SteeringError
from steering.models import ChatModel
from steering.separation import Separation
from steering.ui.api_arguments import number, text, whole_number, yes_or_no
from steering.ui.api_compute import best_at_layer, read_examples
from steering.ui.api_directions import KeptDirections
from steering.ui.api_steer import steer_endpoint
from steering.ui.engine import Engine, ModelOptions
from steering.ui.operator import Operator
from steering.ui.turn import TurnRequest
from steering.ui.worker import Reports

PATIENCE = 60  # seconds


@pytest.fixture
def engine(tiny: Callable[[str], ChatModel]) -> Engine:
    engine = Engine(ModelOptions())
    engine.model = tiny("llama3")
    return engine


def direction_for(made_for: ChatModel, **card: Any) -> Direction:
    vector = torch.arange(1, made_for.d_model + 1, dtype=torch.float32)
    origin = {"model": made_for.name, "revision": made_for.revision, "n_layers": made_for.n_layers}
    return Direction(vector, (vector / vector.norm())[None], 1, -1, 1.0, "a test", origin | card)


# ---------------------------------------------------------------- what is kept


def test_the_least_recently_used_direction_goes_first(engine: Engine) -> None:
    kept = KeptDirections(most=2)
    direction = direction_for(engine.ready_model())
    first, second = kept.add(direction), kept.add(direction)
    kept.get(first)
    third = kept.add(direction)
    assert kept.get(first) is kept.get(third) is direction
    with pytest.raises(DirectionError, match="Compute it again"):
        kept.get(second)
    assert len({first, second, third}) == 3
    assert all(key.startswith("own:") and len(key) > 20 for key in (first, second, third))


def test_a_direction_is_not_kept_longer_than_its_time(engine: Engine) -> None:
    kept = KeptDirections(seconds=0)
    key = kept.add(direction_for(engine.ready_model()))
    with pytest.raises(DirectionError, match="Compute it again"):
        kept.get(key)


# ---------------------------------------------------------------- steer


def test_a_call_given_up_ends_the_work(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptDirections()
    ask, submitted = engine.ask, list[Reports]()

    def remember(request: TurnRequest) -> Reports:
        submitted.append(ask(request))
        return submitted[-1]

    monkeypatch.setattr(engine, "ask", remember)
    replies = steer_endpoint(engine, kept, Operator())(
        "Hello", kept.add(direction_for(engine.ready_model())), coefficient=0.1, max_new_tokens=512
    )
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    (job,) = submitted
    assert job.stopped
    assert job.ended.wait(PATIENCE)
    assert not engine.ready_model().lock.is_held


def test_the_direction_of_another_model_is_refused(engine: Engine) -> None:
    kept = KeptDirections()
    key = kept.add(direction_for(engine.ready_model(), model="another"))
    with pytest.raises(gr.Error, match="made for another model"):
        next(steer_endpoint(engine, kept, Operator())("Hello", key))


def test_strength_of_a_computed_direction_is_its_own(engine: Engine) -> None:
    """Without a coefficient the reply is the one at the strength that the direction's card gives."""
    kept = KeptDirections()
    strength = {"start": 2.0, "end": 4.0, "sweet": [1.0, 3.0]}
    key = kept.add(direction_for(engine.ready_model(), strength=strength))
    steer = steer_endpoint(engine, kept, Operator())
    *_, left_out = steer("Hello", key, max_new_tokens=6)
    *_, given = steer("Hello", key, 2.0, max_new_tokens=6)
    assert left_out == given


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("wrong", [None, True, "1", [], {}, math.nan, math.inf, -0.1, 5.1, 10**400])
def test_numbers(wrong: Any) -> None:
    with pytest.raises(SteeringError, match=r"^temperature must .+\.$"):
        number("temperature", wrong, 0, 5)
    assert number("temperature", 2, 0, 5) == 2.0


@pytest.mark.parametrize("wrong", [None, False, "1", [1], 0.5, math.nan, math.inf, -1, 10**400])
def test_whole_numbers(wrong: Any) -> None:
    with pytest.raises(SteeringError, match=r"^seed must .+\.$"):
        whole_number("seed", wrong, 0, 9)
    assert whole_number("seed", 3.0, 0, 9) == 3


@pytest.mark.parametrize("wrong", [None, 1, ["Hi"], "x" * 11, "a\0b", "\ud83d"])
def test_texts(wrong: Any) -> None:
    with pytest.raises(SteeringError, match=r"^name .+\.$"):
        text("name", wrong, 10)
    assert text("name", " <b>Hi</b>", 10) == "<b>Hi</b>"


@pytest.mark.parametrize("wrong", [None, 0, 1, "true"])
def test_yes_or_no(wrong: Any) -> None:
    with pytest.raises(SteeringError, match=r"^measure must be true or false"):
        yes_or_no("measure", wrong)


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize(
    "examples",
    [
        '{"text": "a", "label": 1}\n{"text": "b", "label": 0}',
        '[{"text": "a", "label": 1}, {"text": "b", "label": 0}]',
        "text,label\na,positive\nb,negative",
        '"label";"text"\n1;a\n0;b',
        "positive,negative\na,b",
        "a\n---\nb",
        '{"positive": ["a"], "negative": ["b"]}',
        '{\n  "positive": ["a"],\n  "negative": [{"text": "b"}]\n}',
        '{"positive": "a", "negative": "b"}',
        {"positive": ["a"], "negative": ["b"]},
        [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
    ],
)
def test_every_format_reads_alike(examples: Any) -> None:
    data = read_examples(examples)
    assert [example.text for example in data.positive] == ["a"]
    assert [example.text for example in data.negative] == ["b"]


def test_the_best_position_of_a_layer() -> None:
    auroc = np.array([[0.9, 0.6], [0.9, math.nan], [0.8, 0.7]])
    gap = np.array([[1.0, 1.0], [2.0, math.nan], [9.0, 1.0]])
    separation = Separation(auroc, np.zeros((3, 2), dtype=np.int64), 4, gap, [-3, -2, -1])
    assert best_at_layer(separation, 0) == (-2, 0)
    assert best_at_layer(separation, 1) == (-1, 1)
    nowhere = replace(separation, auroc=np.full((3, 2), math.nan))
    assert best_at_layer(nowhere, 1)[1] == 1
