"""The page's work on a ZeroGPU Space: the real package `spaces` around a stub of its scheduler (`zero_space.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from steering.ui.gpu import ZERO_GPU, on_gpu
from steering.ui.gpu_call import A_DIRECTION, LONGEST_CALL, TIME_USED_UP, Directions, seconds_for_turn
from steering.ui.shared_slots import Slot
from steering.ui.turn import TurnRequest
from steering.ui.zero_desk import SECONDS_OF_A_SEARCH, TAKEN_AWAY, UNFORESEEN
from steering.variants import Dial

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def told(family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the Space in a process of its own saw."""
    command = [sys.executable, str(HERE / "zero_space.py"), str(family_folder("qwen3"))]
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parent),
        "STEERING_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_a_turn_streams_and_its_text_is_the_ordinary_engines(told: dict[str, Any]) -> None:
    turn = told["turn"]
    assert turn["texts"] == turn["texts here"]
    assert len(set(turn["texts"])) == 3
    assert turn["ticks"] > 1
    assert turn["tokens"] == [sum(turn["n_tokens"])]  # of every token there is a line in the log
    assert turn["ended"]


def test_work_begins_when_its_reports_are_read_and_a_heartbeat_comes_first(told: dict[str, Any]) -> None:
    assert not told["turn"]["begun before it is read"]
    assert told["turn"]["first"] is None
    assert told["turn"]["gap"] < 0.5  # 0.08 is aimed at; the rest is for a machine that does other things


def test_a_presets_direction_is_found_there_and_known_on_the_page(told: dict[str, Any]) -> None:
    preset = told["preset"]
    assert preset["before"] == []
    assert preset["key"][2] == "poetic"
    assert preset["texts"] == preset["texts here"]
    assert preset["seconds"] > A_DIRECTION  # asked for, since it had to be found


def test_stop_arrives(told: dict[str, Any]) -> None:
    stop = told["stop"]
    assert 0 < stop["at"] <= stop["after"] < 250
    assert stop["seconds"] < 1
    assert stop["slots"] == 0


def test_a_page_that_goes_away_ends_the_call_soon_and_gives_all_back(told: dict[str, Any]) -> None:
    assert told["closed"]["seconds"] < 1
    assert told["closed"]["lent"] == 0
    assert told["closed"]["slots"] == 0


def test_live_strength_arrives(told: dict[str, Any]) -> None:
    live = told["live"]
    n_tokens, coefficient = live["change"]
    assert coefficient == 8.0
    assert n_tokens >= live["at"]
    assert live["differs"]  # at strength 0 the third reply would be the first
    assert live["slots"] == 0


def test_two_visitors_at_once_get_what_each_gets_alone(told: dict[str, Any]) -> None:
    two = told["two"]
    assert two["together"] == two["alone"]
    assert two["together"][0] != two["together"][1]


def test_a_worker_used_again_has_nothing_of_the_page_or_of_a_visitor(told: dict[str, Any]) -> None:
    before, after, page = (told["leaks"][name] for name in ("before", "after", "page"))
    assert before["pid"] == after["pid"] != page
    assert after["label"] == "qwen3"  # what the page changed since the fork is not there
    assert not after["kept_search"]
    assert after["hooks"] == 0


def test_no_thread_of_the_page_is_needed_there_and_none_is_left_there(told: dict[str, Any]) -> None:
    # The work's own, for the length of the call; the pool's in which `spaces` iterates; and its progress bar's.
    assert set(told["leaks"]["after"]["threads"]) <= {"MainThread", "ThreadPoolExecutor", "model", "tqdm"}
    assert told["leaks"]["after"]["threads"].count("model") == 1


def test_long_work_crosses_whole(told: dict[str, Any]) -> None:
    assert told["compute"] == {"same": True, "type": "Found"}
    assert told["search"] == {"places": told["search"]["places"], "ended": "Cancelled", "seconds": SECONDS_OF_A_SEARCH}
    assert told["search"]["places"] > 0


def test_the_served_page_answers_with_the_one_model_there_is(told: dict[str, Any]) -> None:
    served = told["served"]
    assert len(served["texts"]) == 3
    assert all(served["texts"])
    assert [label.split()[0] for label, _ in served["choices"]] == ["qwen3"]
    assert served["exchange"].startswith("This model is not offered here.")


def test_errors_keep_their_sentences(told: dict[str, Any]) -> None:
    failures = told["failures"]
    assert "“too narrow” was made for a model of width 3" in failures["unfit"]
    assert failures["unforeseen"] == f"SteeringError: {UNFORESEEN}"  # what a visitor gave is not in it
    assert "ZeroGPU quota (23s requested vs. 4s left)" in failures["refused"]
    assert "partial of a module's function" in failures["closure"]
    assert failures["slots"] == failures["lent"] == 0


@pytest.mark.parametrize(("end", "sentence"), [("killed", TAKEN_AWAY), ("out_of_time", TIME_USED_UP)])
def test_a_reply_whose_gpu_is_gone_keeps_its_text_and_ends_with_a_sentence(
    told: dict[str, Any], end: str, sentence: str
) -> None:
    ended = told[end]
    assert ended["kept"] >= ended["seen"] > 0
    assert ended["end"] == {"state": "error", "message": sentence}
    assert ended["slots"] == 0


def test_after_a_killed_worker_there_is_another(told: dict[str, Any]) -> None:
    assert told["killed"]["texts again"] == told["turn"]["texts"]


def request(n_tokens: int = 200, question: str = "Rain?", n_columns: int = 3) -> TurnRequest:
    return TurnRequest("poetic", None, [[]] * n_columns, question, Dial(1.0), max_new_tokens=n_tokens)


def test_the_seconds_asked_for_grow_with_the_request_and_are_bounded() -> None:
    slot, known = Slot(0, 1), cast(Directions, {("bundled", "1234", "poetic"): None})
    usual = seconds_for_turn(request(), slot, known)
    assert 10 <= usual <= 25
    assert seconds_for_turn(request(20), slot, known) < usual < seconds_for_turn(request(400), slot, known)
    assert usual < seconds_for_turn(request(question="word " * 20_000), slot, known)
    assert usual < seconds_for_turn(request(n_columns=5), slot, known)
    assert usual + A_DIRECTION == seconds_for_turn(request(), slot, {})
    assert seconds_for_turn(request(512, "word " * 400_000), slot, known) == LONGEST_CALL
    assert isinstance(usual, int)


def test_elsewhere_a_decorated_function_is_the_function() -> None:
    def work(n: int) -> int:
        return n

    assert not ZERO_GPU
    assert on_gpu(duration=lambda n: n)(work) is work
