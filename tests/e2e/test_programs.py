"""The endpoints for programs, as programs reach them: by gradio_client, by plain HTTP, and as tools (MCP).

Nothing here may run a coroutine on the tests' own thread: Playwright's loop runs there once a page was opened.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import math
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from driving import PANES
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool

from benchmarks.running_app import PATIENCE as PATIENCE_SECONDS
from benchmarks.running_app import ROOT, Server
from steering.contrast import ContrastSet
from steering.interventions import Variant
from steering.models import ChatModel

Answer = TypeVar("Answer")

QUESTION = "Tell me about rivers."
N_TOKENS = 12
EXAMPLES = "\n".join(
    json.dumps({"instruction": f"{what} {number}", "label": label})
    for label, what in (
        ("positive", "Ahoy, matey! Count the doubloons in chest"),
        ("negative", "Please count the coins"),
    )
    for number in range(16)
)


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    """A client of a server whose model is loaded."""
    connected = Client(server.url, verbose=False)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            connected.predict("Hello", max_new_tokens=1, api_name="/steer")
            return connected
        except AppError as error:
            if "still loading" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.2)  # between two knocks at a door that is still shut


@pytest.fixture(scope="module")
def computed(client: Client) -> dict[str, Any]:
    """What /compute_direction gives for EXAMPLES, its file included."""
    *signs, last = client.submit(EXAMPLES, "Pirate talk", api_name="/compute_direction")
    assert signs
    assert all(0 <= sign["progress"] <= 1 and sign["what"] for sign in signs)
    return dict(last)


@pytest.fixture
def no_traceback(server: Server) -> Iterator[None]:
    start = len(server.log())
    yield
    assert "Traceback" not in server.log()[start:]


def post(server: Server, endpoint: str, body: Any) -> tuple[str, Any]:
    """One call over plain HTTP: the last event's name and its data, or the status and the answer of a refusal."""
    address = f"{server.url}gradio_api/call/v2/{endpoint}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            event_id = json.load(answer)["event_id"]
    except urllib.error.HTTPError as refused:
        return str(refused.code), json.loads(refused.read())
    with urllib.request.urlopen(
        f"{server.url}gradio_api/call/{endpoint}/{event_id}", timeout=PATIENCE_SECONDS
    ) as stream:
        *_, event, data = [line for line in stream.read().decode().splitlines() if line]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def with_tools(server: Server, do: Callable[[ClientSession], Awaitable[Answer]]) -> Answer:
    """What ``do`` returns of a session with the server's tools, on a thread and a loop of its own."""

    async def talk() -> Answer:
        async with (
            streamable_http_client(f"{server.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await do(session)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, talk()).result(PATIENCE_SECONDS)


# ---------------------------------------------------------------- what is there


def test_nothing_else_is_public(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}gradio_api/info", timeout=PATIENCE_SECONDS) as answer:
        info = json.load(answer)
    assert set(info["named_endpoints"]) == {"/steer", "/compute_direction"}
    assert info["unnamed_endpoints"] == {}
    types = {one["parameter_name"]: one["type"] for one in info["named_endpoints"]["/steer"]["parameters"]}
    assert types["message"] == {"type": "string"}
    assert types["seed"] == {"type": "integer"}
    assert {"type": "null"} in types["coefficient"]["oneOf"]


def test_tools(server: Server) -> None:
    async def everything(session: ClientSession) -> tuple[list[Tool], int]:
        tools = (await session.list_tools()).tools
        return tools, len((await session.list_resources()).resources) + len((await session.list_prompts()).prompts)

    tools, others = with_tools(server, everything)
    assert {tool.name for tool in tools} == {"steer", "compute_direction"}
    assert others == 0
    for tool in tools:
        assert tool.description
        assert all(one["description"] for one in tool.inputSchema["properties"].values())
    steer, compute = sorted(tools, key=lambda tool: tool.name, reverse=True)
    assert steer.inputSchema["required"] == ["message"]
    assert compute.inputSchema["required"] == ["examples"]
    assert compute.inputSchema["properties"]["layer"]["oneOf"] == [{"type": "null"}, {"type": "integer"}]


# ---------------------------------------------------------------- steer


def test_steer_gives_what_the_library_gives(client: Client, bundled: ChatModel) -> None:
    import torch

    from steering.generation import stream_side_by_side
    from steering.machine import preferred_threads
    from steering.preset_directions import preset_direction
    from steering.progress import silent
    from steering.ui.engine import threads_beside_page

    *ticks, last = client.submit(
        QUESTION,
        "pirate",
        coefficient=0.8,
        seed=7,
        max_new_tokens=N_TOKENS,
        temperature=0.7,
        system_prompt="Answer briefly.",
        repetition_penalty=1.3,
        api_name="/steer",
    )
    assert ticks
    direction = preset_direction(bundled, "pirate", silent)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, coefficient=0.8)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads_beside_page(preferred_threads()))  # sums come out as they do in the server
    try:
        *_, step = stream_side_by_side(
            bundled,
            [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": QUESTION}],
            variants,
            max_new_tokens=N_TOKENS,
            temperature=0.7,
            seed=7,
            repetition_penalty=1.3,
        )
    finally:
        torch.set_num_threads(before)
    assert last["texts"] == dict(zip(PANES, step.texts, strict=True))
    assert last["tokens"] == dict(zip(PANES, step.n_tokens, strict=True))
    assert last["layer"] == direction.layer


def test_plain_http(client: Client, server: Server) -> None:
    body = {"message": QUESTION, "max_new_tokens": N_TOKENS}
    event, data = post(server, "steer", body)
    assert event == "complete"
    assert data == [client.predict(QUESTION, max_new_tokens=N_TOKENS, api_name="/steer")]
    assert set(data[0]["texts"]) == set(data[0]["tokens"]) == set(PANES)


def test_calls_at_once_do_not_mix(client: Client) -> None:
    calls = [("Greet me.", "pirate", 3), ("Why is the sky blue?", "poetic", 5), ("Greet me.", "poetic", 7)]
    alone = [client.predict(message, idea, max_new_tokens=n, api_name="/steer") for message, idea, n in calls]
    jobs = [client.submit(message, idea, max_new_tokens=n, api_name="/steer") for message, idea, n in calls]
    assert [job.result(timeout=PATIENCE_SECONDS) for job in jobs] == alone
    assert len({json.dumps(one) for one in alone}) == len(calls)


def test_a_cancelled_call_ends_the_work(client: Client) -> None:
    # Far too long to be waited for: the next reply comes at once only if this one has ended.
    long = client.submit(QUESTION, max_new_tokens=512, repetition_penalty=2.0, api_name="/steer")
    next(iter(long))
    long.cancel()
    start = time.monotonic()
    answer = client.predict(QUESTION, max_new_tokens=1, api_name="/steer")
    waited = time.monotonic() - start
    assert answer["tokens"] == dict.fromkeys(PANES, 1)
    start = time.monotonic()
    client.predict(QUESTION, max_new_tokens=60, api_name="/steer")
    assert waited < 4 * (time.monotonic() - start), "the cancelled call was written to its end"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"message": "  "}, "The message is empty"),
        ({"message": ["<b>Hi</b>"]}, 'message must be a text, not ["<b>Hi</b>"]'),
        ({"message": "x" * 2001}, "message has 2,001 characters"),
        ({"message": "half \ud83d"}, "message has a character that is no text"),
        ({"idea": "<script>alert(1)</script>"}, "There is no idea"),
        ({"idea": None}, "There is no idea “null”"),
        ({"idea": "own:1"}, "There is no direction with this id"),
        ({"coefficient": "much"}, 'coefficient must be a number, not "much"'),
        ({"coefficient": 1e300}, "coefficient must lie between"),
        ({"seed": 10**100}, "seed must lie between"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, not true"),
        ({"max_new_tokens": 0}, "max_new_tokens must lie between 1 and 512"),
        ({"temperature": -1}, "temperature must lie between 0 and 5"),
        ({"system_prompt": {"role": "system"}}, "system_prompt must be a text"),
        ({"repetition_penalty": 0}, "repetition_penalty must lie between 0.5 and 3"),
    ],
)
@pytest.mark.usefixtures("client", "no_traceback")
def test_bad_calls_of_steer(server: Server, wrong: dict[str, Any], sentence: str) -> None:
    event, answer = post(server, "steer", {"message": QUESTION, "max_new_tokens": 1} | wrong)
    assert event == "error"
    assert sentence in answer["error"]


@pytest.mark.usefixtures("client", "no_traceback")
def test_what_is_no_json_or_too_much_of_it_reaches_no_endpoint(server: Server) -> None:
    for number in (math.nan, -math.inf):  # Python writes these, and JSON has no such numbers
        status, answer = post(server, "steer", {"message": QUESTION, "coefficient": number})
        assert (status, answer["detail"]) == ("400", "This is no JSON.")
    status, answer = post(server, "compute_direction", {"examples": "x" * 1_000_001})
    assert status == "413"
    assert "larger than 1 MB" in answer["detail"]


@pytest.mark.usefixtures("no_traceback")
def test_calls_that_fit_no_endpoint(server: Server) -> None:
    assert post(server, "steer", {}) == ("422", {"detail": "No value provided for required argument: message."})
    status, answer = post(server, "steer", {"message": QUESTION, "happiness": 1})
    assert (status, "`happiness`" in answer["detail"]) == ("422", True)
    assert post(server, "respond", {}) == (
        "404",
        {"detail": "There is no such endpoint; there are /steer and /compute_direction."},
    )


@pytest.mark.usefixtures("client")
def test_the_readmes_call_without_a_client(server: Server) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## For programs\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```sh\n(.*?)```", section, flags=re.S)
    script = script.replace("http://127.0.0.1:7860/", server.url).replace("}'", ', "max_new_tokens": 3}\'')
    printed = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert 'event: complete\ndata: [{"texts": ' in printed.stdout


# ---------------------------------------------------------------- compute_direction


def test_computed_direction(client: Client, computed: dict[str, Any], bundled: ChatModel, tmp_path: Path) -> None:
    from steering.direction import Direction

    assert computed["separation"]["auroc"] > 0.9
    assert computed["separation"]["total"] == 6  # of 16 a side, held out
    assert computed["coefficient"] > 0
    assert computed["sweet_spot"] is None
    file = tmp_path / "pirate.safetensors"
    file.write_bytes(base64.b64decode(computed["file"]))
    direction = Direction.load(file, bundled)
    assert (direction.name, direction.layer, direction.position) == (
        "Pirate talk",
        computed["layer"],
        computed["position"],
    )
    assert direction.card["data_sha256"] == _read(EXAMPLES, tmp_path).sha256
    mine = client.predict(QUESTION, computed["id"], max_new_tokens=N_TOKENS, api_name="/steer")
    preset = client.predict(QUESTION, "poetic", max_new_tokens=N_TOKENS, api_name="/steer")
    assert mine["layer"] == computed["layer"]
    assert mine["texts"]["baseline"] == preset["texts"]["baseline"]
    assert mine["texts"]["added"] not in preset["texts"].values()


def _read(examples: str, folder: Path) -> ContrastSet:
    file = folder / "examples.jsonl"
    file.write_text(examples, encoding="utf-8")
    return ContrastSet.load(file)


def test_two_lists_and_a_layer(client: Client, computed: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in EXAMPLES.splitlines()]
    lists = {side: [row["instruction"] for row in rows if row["label"] == side] for side in ("positive", "negative")}
    at_layer = client.predict(json.dumps(lists), layer=5, with_file=False, api_name="/compute_direction")
    assert at_layer["layer"] == 5
    assert at_layer["file"] is None
    assert at_layer["id"] != computed["id"]
    assert at_layer["name"] == "My direction"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"examples": " "}, "The examples are empty"),
        ({"examples": 7}, "The examples cannot be 7"),
        ({"examples": EXAMPLES + '\n{"instruction": "Hi"}'}, "Row 33 of examples.jsonl has no label"),
        ({"examples": "text,label\nHi,maybe"}, "Row 2 of examples.csv has the label 'maybe'"),
        ({"examples": "one\ntwo"}, "does not name the columns"),
        ({"examples": '{"positive": ["a", ""], "negative": ["b"]}'}, "Row 2 of positive.json has no text"),
        ({"examples": '{"positive": ["a"], "negative": ["b"]}'}, "has too few positive examples"),
        ({"name": 5}, "name must be a text"),
        ({"layer": 30}, "layer must lie between 0 and 29"),
        ({"layer": "last"}, "layer must be a whole number"),
        ({"measure": "yes"}, "measure must be true or false"),
    ],
)
@pytest.mark.usefixtures("client", "no_traceback")
def test_bad_calls_of_compute_direction(server: Server, wrong: dict[str, Any], sentence: str) -> None:
    event, answer = post(server, "compute_direction", {"examples": EXAMPLES} | wrong)
    assert event == "error"
    assert sentence in answer["error"]


# ---------------------------------------------------------------- as tools


def test_tools_do_what_the_endpoints_do(client: Client, server: Server, computed: dict[str, Any]) -> None:
    async def use(session: ClientSession) -> list[CallToolResult]:
        arguments = {"message": QUESTION, "idea": computed["id"], "coefficient": None, "max_new_tokens": N_TOKENS}
        return [
            await session.call_tool("steer", arguments),
            await session.call_tool("steer", {"message": QUESTION, "idea": "happiness"}),
            await session.call_tool("compute_direction", {"examples": EXAMPLES, "with_file": False}),
        ]

    steered, refused, found = with_tools(server, use)
    expected = client.predict(QUESTION, computed["id"], max_new_tokens=N_TOKENS, api_name="/steer")
    assert not steered.isError
    assert _value(steered) == expected
    assert refused.isError
    assert "There is no idea “happiness”" in refused.content[0].text  # type: ignore[union-attr]
    same = ("layer", "position", "separation", "coefficient")
    assert {key: _value(found)[key] for key in same} == {key: computed[key] for key in same}


def _value(result: CallToolResult) -> dict[str, Any]:
    """Gradio writes a tool's value as Python does."""
    return dict(ast.literal_eval(result.content[0].text))  # type: ignore[union-attr]
