"""The remote mode with real servers: `transformers serve` on the bundled model and the two checkpoints made of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest
from chat_server import Talk, chat_server, words
from driving import (
    answers,
    ask,
    begin,
    press_word,
    questions,
    read_run,
    set_number,
    status,
    stop,
    wait_for_state,
    wait_for_tokens,
)
from playwright.sync_api import Page, expect

from benchmarks.running_app import PATIENCE, Server, free_port
from steering.models import ChatModel

QUESTION = "Write a poem about the moon."
SHORT = 24  # tokens, as `open_page` sets them
EXPORTS = {
    "ablated": ("orthogonalize", "--direction", "poetic"),
    "added": ("export", "--direction", "poetic", "--to", "added-model"),
}


@dataclass
class Served:
    """One server with three models on its disk."""

    url: str
    folders: dict[str, Path]

    @property
    def options(self) -> list[str]:
        """The command line that shows them side by side."""
        return options_for({column: f"{self.url},model={folder}" for column, folder in self.folders.items()})


def options_for(endpoints: dict[str, str]) -> list[str]:
    return [word for column, url in endpoints.items() for word in ("--remote", f"{column}={url}")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The checkpoints as the README's commands write them, and `transformers serve`, which loads what is asked for."""
    from steering.weights import bundled_folder

    root = tmp_path_factory.mktemp("served")
    folders = {"baseline": bundled_folder()} | {column: root / column for column in EXPORTS}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    port = free_port()
    with (root / "serve.log").open("wb") as log:
        program = Path(sys.executable).with_name("transformers")
        where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        server = subprocess.Popen([program, "serve", *where], stdout=log, stderr=log, env=environment)
    exports = [
        subprocess.Popen(
            [sys.executable, "-m", "steering", *words, "--out", str(folders[column]), "--no-check"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for column, words in EXPORTS.items()
    ]
    try:
        assert [export.wait(PATIENCE) for export in exports] == [0, 0]
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield Served(f"http://127.0.0.1:{port}/v1", folders)
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")


@pytest.fixture(scope="module")
def locally() -> list[str]:
    """The engine's own greedy answers: as it is, with the direction out, and turned up."""
    from steering import Variant, load_model, stream_side_by_side
    from steering.preset_directions import preset_direction

    model: ChatModel = load_model("bundled", device="cpu", dtype="float32")
    direction = preset_direction(model, "poetic")
    coefficient = direction.measured_start
    assert coefficient is not None
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, coefficient=coefficient)]
    conversation = [{"role": "user", "content": QUESTION}]
    *_, last = stream_side_by_side(model, conversation, variants, max_new_tokens=SHORT)
    return list(last.texts)


def test_three_servers_answer_side_by_side(
    served: Served, own_server: Callable[..., Server], open_page: Callable[..., Page], locally: list[str]
) -> None:
    page = open_page(at=own_server(*served.options))
    expect(page.locator("#sc-no-plot")).to_have_text("These engines give no hidden states, so there is no plot.")
    expect(page.locator("#sc-mapcard")).to_be_hidden()
    expect(page.locator("#strength, #idea, #beside")).to_have_count(0)
    expect(page.locator("#served li[data-state=answers]")).to_have_count(3)
    expect(page.locator("#served .model").nth(1)).to_have_text("ablated")
    assert page.locator(".tab-container:not(.visually-hidden) button").all_inner_texts() == ["Chat", "How it works"]

    set_number(page, "Repetition penalty", 1)  # the servers' counts the question's words, the engine's does not
    start = time.monotonic()
    written = [text.strip() for text in ask(page, QUESTION)]
    usual = time.monotonic() - start
    assert written == [text.strip() for text in locally]
    assert len(set(written)) == 3
    assert re.match(rf"Done\. {SHORT} pieces\. They part at piece \d+\.", status(page))
    run = read_run(page)
    assert run["model"]["ablated"] == "ablated"
    assert [answer["text"].strip() for answer in run["turns"][0]["answers"]] == written

    # Stop reaches the servers: each still has its next question's turn at once.
    set_number(page, "Longest answer", 400)
    begin(page, "Tell me a long story.")
    wait_for_tokens(page, 3)
    stop(page)
    assert status(page).startswith("Stopped after")
    set_number(page, "Longest answer", 4)
    start = time.monotonic()
    ask(page, "What is gravity?")
    # The 400 tokens that were stopped would take more than ten times as long as these 24 did.
    assert time.monotonic() - start < max(15, 4 * usual)
    assert questions(page, "added") == [QUESTION, "Tell me a long story.", "What is gravity?"]


def test_what_servers_send_is_shown_as_text_and_one_that_is_down_is_named(
    own_server: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    def with_likeliest(talk: Talk) -> None:
        talk.begin()
        for token in ("The", " sea"):
            top = [{"token": token, "logprob": -0.5}, {"token": " <i>other</i>", "logprob": -2.0}]
            talk.piece(token, logprobs={"content": [{"token": token, "top_logprobs": top}]})
        talk.send(b"data: [DONE]\n\n")

    markup = "<img src=x onerror=document.title='taken'>"
    with chat_server(with_likeliest) as first, chat_server(words(f"The {markup} {{{{value}}}} ${{value}}")) as second:
        urls = {"baseline": first.url, "ablated": f"{second.url},model={markup}", "added": "http://127.0.0.1:9/v1"}
        page = open_page(at=own_server(*options_for(urls)))
        down = "127.0.0.1:9 · nothing answers there"
        expect(page.locator("#served li").nth(2)).to_contain_text(down)
        expect(page.locator("#served .model").nth(1)).to_have_text(markup)
        expect(page.locator("#status-words")).to_contain_text("At 127.0.0.1:9, nothing answers there")

        begin(page, markup)
        wait_for_state(page, "idle")
        expect(page.locator("#pane-added")).to_contain_text("At 127.0.0.1:9, nothing answers there")
        assert answers(page)[:2] == ["The sea", f"The {markup} {{{{value}}}} ${{value}}"]
        assert "One answer is not whole" in status(page)
        press_word(page, "baseline", "sea")
        expect(page.locator("#sc-look-columns .look-column").first).to_contain_text("<i>other</i>")
        expect(page.locator("#sc-look-columns .look-column").nth(1)).to_contain_text("Its server does not say.")
        assert page.locator("img[src=x]").count() == 0
        assert page.title() == "Steering playground"
