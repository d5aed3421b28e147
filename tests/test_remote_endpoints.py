"""What ``--remote`` takes and refuses, and what each kind of server is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steering.errors import SteeringError
from steering.ui.options import parsed
from steering.ui.remote_endpoints import (
    OTHER,
    TRANSFORMERS,
    VLLM,
    Endpoint,
    body,
    headers,
    kind_of,
    read_endpoints,
    short,
)
from steering.ui.turn import TurnRequest

GOOD = [
    "baseline=http://127.0.0.1:8001/v1,model=small",
    "added=https://box.example/v1/",
    "ablated=http://localhost:8002/v1,model=/models/out",
]


def test_three_endpoints_come_in_the_order_of_the_columns() -> None:
    assert read_endpoints(GOOD) == (
        Endpoint("baseline", "http://127.0.0.1:8001/v1", "small"),
        Endpoint("ablated", "http://localhost:8002/v1", "/models/out"),
        Endpoint("added", "https://box.example/v1", ""),
    )
    assert [endpoint.is_here for endpoint in read_endpoints(GOOD)] == [True, True, False]


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [
        ("baseline=ftp://127.0.0.1/v1", "must begin with http:// or https://"),
        ("baseline=127.0.0.1:8001/v1", "must begin with http:// or https://"),
        ("baseline=http://me:hunter2@127.0.0.1/v1", "STEERING_REMOTE_KEY"),
        ("baseline=http://hunter2@127.0.0.1/v1", "STEERING_REMOTE_KEY"),
        ("baseline=http://127.0.0.1/v1?key=hunter2", "STEERING_REMOTE_KEY"),
        ("baseline=http://127.0.0.1:hunter2/v1", "no address"),
        ("baseline=http:///v1", "names no host"),
        ("baseline=http://127.0.0.1 8001/v1", "no"),
        ("baseline=http://127.0.0.1/v1,key=hunter2", "only “,model=NAME”"),
        ("baseline=http://127.0.0.1/v1,model=", "only “,model=NAME”"),
        ("http://127.0.0.1/v1?x=hunter2", "no column"),
        ("base=http://127.0.0.1/v1", "“base” is no column"),
        ("added=http://127.0.0.1/v1", "“added” twice"),
    ],
)
def test_a_bad_endpoint_is_refused_with_a_sentence_that_repeats_no_secret(
    instead: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed([word for text in (instead, *GOOD[1:]) for word in ("--remote", text)], {})
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in said
    assert "hunter2" not in said


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SteeringError, match="no endpoint for “ablated” and “added”"):
        read_endpoints(GOOD[:1])


def test_without_remote_there_are_no_endpoints() -> None:
    options, _ = parsed([], {})
    assert options.endpoints == ()


def test_servers_and_a_model_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["--model", "bundled", *[word for text in GOOD for word in ("--remote", text)]], {})
    assert "leave --model" in capsys.readouterr().err


def test_the_key_is_the_environments() -> None:
    assert headers({"STEERING_REMOTE_KEY": " sk-1 "}) == {"Authorization": "Bearer sk-1"}
    assert headers({}) == {}


@pytest.mark.parametrize(
    ("listed", "kind"),
    [
        ([{"id": "a", "owned_by": "vllm"}], VLLM),
        ([{"id": "a", "owned_by": "local", "status": {"value": "loaded"}}], TRANSFORMERS),
        ([], TRANSFORMERS),
        ([{"id": "a", "owned_by": "llamacpp", "status": {"value": "loaded", "args": []}}], OTHER),
        ([{"id": "a", "owned_by": "library"}], OTHER),
    ],
)
def test_servers_are_told_apart_by_their_lists(listed: list[dict[str, Any]], kind: str) -> None:
    assert kind_of(listed) == kind


def test_names_for_people_have_no_paths_of_the_server() -> None:
    assert short("/data/models/edited/") == "edited"
    assert short("org/model") == "org/model"


def request(**changes: Any) -> TurnRequest:
    usual: dict[str, Any] = {
        "idea": "served",
        "own": None,
        "histories": [[], [{"role": "user", "content": "before"}, {"role": "assistant", "content": "yes"}], []],
        "question": "And now?",
        "dial": None,
        "max_new_tokens": 30,
    }
    return TurnRequest(**usual | changes)


def test_each_kind_of_server_is_asked_in_its_own_way() -> None:
    plain = body(request(temperature=0.5, repetition_penalty=1.2), 1, "m", OTHER)
    assert [message["content"] for message in plain["messages"]] == ["before", "yes", "And now?"]
    assert (plain["model"], plain["max_tokens"], plain["temperature"], plain["stream"]) == ("m", 30, 0.5, True)
    assert (plain["logprobs"], plain["top_logprobs"]) == (True, 5)
    assert "repetition_penalty" not in plain
    assert body(request(repetition_penalty=1.2), 0, "m", VLLM)["repetition_penalty"] == 1.2
    served = body(request(temperature=0.5, repetition_penalty=1.2), 0, "m", TRANSFORMERS)
    assert json.loads(served["generation_config"]) == {"repetition_penalty": 1.2, "do_sample": True}
    assert not {"repetition_penalty", "logprobs", "stream_options"} & set(served)


def test_a_system_prompt_comes_first() -> None:
    assert body(request(system_prompt="Be brief."), 0, "m", OTHER)["messages"][0] == {
        "role": "system",
        "content": "Be brief.",
    }
