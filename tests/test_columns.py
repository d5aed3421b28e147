"""The columns: their names, the five strengths of the one knob, and the variants behind them."""

from __future__ import annotations

import pytest
import torch

from steering.directions import Direction
from steering.errors import SteeringError
from steering.interventions import Ablation, Addition, Dial, Variant
from steering.ui.columns import KNOB, SETS, Asked, heads, knob_strengths, random_twin, variant
from steering.ui.scope import ASSETS


def a_direction(seed: int, layer: int = 1) -> Direction:
    vector = 3 * torch.randn(16, generator=torch.Generator().manual_seed(seed))
    return Direction(vector, (vector / vector.norm())[None], layer, -1, float(vector.norm()), f"number {seed}")


@pytest.fixture
def asked() -> Asked:
    one = a_direction(1)
    return Asked(
        one,
        Dial(1.5),
        random=random_twin(one),
        other=a_direction(2, layer=0),
        other_dial=Dial(0.5),
        knobs=(0.0, 0.5, 1.0, 1.5, 2.0),
        prompt="Talk like a pirate.",
        system="Be brief.",
    )


def test_the_page_waits_for_the_columns_that_a_link_can_bring() -> None:
    named = ", ".join(f"'{beside}'" for beside in SETS if beside != "three")
    assert f"[{named}].includes(linked)" in (ASSETS / "page.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("beside", SETS)
def test_every_set_of_columns_has_heads_that_differ(beside: str) -> None:
    columns = SETS[beside]
    named = heads(columns, "Pirate", other="The sea", knobs=(0.0, 0.5, 1.0, 1.5, 2.0))
    for words in (named.names, named.short, named.looks):
        assert len(words) == len(set(words)) == len(columns)
    assert named.names[0] == "As it is"


def test_the_random_direction_is_as_strong_as_the_one_turned_up(asked: Asked) -> None:
    (up,), (random,) = variant("added", asked).interventions, variant("random", asked).interventions
    assert isinstance(up, Addition)
    assert isinstance(random, Addition)
    assert random.direction.norm == pytest.approx(up.direction.norm, rel=1e-5)
    assert random.direction.layer == up.direction.layer
    assert abs(float(random.direction.unit @ up.direction.unit)) < 0.9
    asked.dial.value = 2.5
    assert random.strength == up.strength == 2.5
    assert torch.equal(random_twin(asked.direction).vector, random.direction.vector)


def test_just_asking_changes_nothing_in_the_model(asked: Asked) -> None:
    prompted = variant("prompted", asked)
    assert not prompted.interventions
    assert prompted.system == "Be brief.\n\nTalk like a pirate."


def test_two_ideas_take_one_out_and_turn_the_other_up(asked: Asked) -> None:
    out, up = variant("both", asked).interventions
    assert isinstance(out, Ablation)
    assert isinstance(up, Addition)
    assert out.direction is asked.direction
    assert up.direction is asked.other
    assert up.strength == 0.5


def test_two_ideas_without_a_second_are_refused(asked: Asked) -> None:
    with pytest.raises(SteeringError, match="second idea"):
        variant("both", Asked(asked.direction, asked.dial))


def test_the_one_knob_turns_from_nothing_to_the_end(asked: Asked) -> None:
    variants = [variant(key, asked) for key in KNOB]
    assert not variants[0].interventions, "no strength is the model as it is"
    assert [_strength(one) for one in variants[1:]] == [0.5, 1.0, 1.5, 2.0]


def _strength(one: Variant) -> float:
    (addition,) = one.interventions
    assert isinstance(addition, Addition)
    return addition.strength


@pytest.mark.parametrize(
    ("start", "end", "sweet", "expected"),
    [
        (1.0, 3.0, (0.5, 2.0), (0, 0.5, 1.0, 2.0, 3.0)),
        (0.5, 3.0, (0.5, 2.0), (0, 0.5, 1.25, 2.0, 3.0)),
        (1.0, 2.0, None, (0, 0.5, 1.0, 1.5, 2.0)),
    ],
)
def test_the_strengths_of_the_one_knob(
    start: float, end: float, sweet: tuple[float, float] | None, expected: tuple[float, ...]
) -> None:
    assert knob_strengths(start, end, sweet) == expected
