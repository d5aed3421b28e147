"""The runs that the page shows before anything is asked are what this code writes: one is made again and compared."""

from __future__ import annotations

import math

import pytest

from steering.models import ChatModel
from steering.progress import silent
from steering.ui.conversations import Turn
from steering.ui.engine import Engine, ModelOptions
from steering.ui.recorded import recorded_ideas, recorded_turn
from steering.ui.recording import written
from steering.ui.scope import parse

IDEA = "poetic"  # the first one shown
# Two processors round bfloat16 sums in other orders. Where two tokens are so close either may win, and from there on
# the answers are different ones.
NEAR_TIE = 0.35  # nats between their probabilities as recorded
COSINE_NOISE = 0.06


def tokens_of(turn: Turn, column: int) -> list[tuple[str, list[float]]]:
    lines = [content for kind, content in parse(turn.log) if kind == "T"]
    return [(token, cosines.tolist()) for _, place, token, cosines in lines if place == column]


@pytest.mark.parametrize("idea", recorded_ideas())
def test_every_idea_has_a_whole_run(idea: str) -> None:
    turn = recorded_turn(idea)
    assert turn is not None
    for column, reply in enumerate(turn.replies):
        assert "".join(token for token, _ in tokens_of(turn, column)).strip() == reply.strip()


def test_a_recorded_run_is_what_this_code_writes(bundled: ChatModel) -> None:
    engine = Engine(ModelOptions(device="cpu"))
    engine.model = bundled
    now, then = written(engine, IDEA, silent), recorded_turn(IDEA)
    assert then is not None
    assert (now.question, tuple(now.columns), now.settings) == (then.question, then.columns, then.settings)
    same = 0
    for column in range(len(then.columns)):
        for number, ((new, cosines), (old, recorded)) in enumerate(
            zip(tokens_of(now, column), tokens_of(then, column), strict=False), 1
        ):
            if new != old:
                likely = dict(then.likeliest[column, number])
                assert new in likely, f"Column {column} writes {new!r} at token {number}, where {old!r} was recorded."
                assert abs(math.log(likely[new] / likely[old])) < NEAR_TIE, (column, number, new, old)
                break
            assert max(abs(a - b) for a, b in zip(cosines, recorded, strict=True)) < COSINE_NOISE
            same += 1
    assert same >= 40, "All columns part at once."
