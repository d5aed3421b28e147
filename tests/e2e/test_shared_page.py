"""The page of a model that three processes hold together: the same answers, and an end when one of them is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from driving import ask, set_number, set_strength, wait_until_ready
from playwright.sync_api import Browser, Page

from benchmarks.running_app import PATIENCE, WITHOUT_RATES, Server, start_server

OpenPage = Callable[..., Page]
PROCESSES = 3  # the bundled model has nine heads, and three of keys and values
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES), "app.py")
QUESTION = "Tell me about rivers."
SECONDS_TO_END = 30
SHORT = 24


@pytest.fixture
def shared_server(tmp_path: Path) -> Iterator[Server]:
    running = start_server(tmp_path / "app.log", "--dtype", "float32", *WITHOUT_RATES, command=TORCHRUN)
    yield running
    running.stop()


def test_three_processes_answer_as_one_does_and_end_when_one_is_gone(
    exact_server: Server, shared_server: Server, open_page: OpenPage, browser: Browser
) -> None:
    alone = open_page(at=exact_server)
    together = browser.new_page()  # not one that complains of a server that is gone
    together.goto(shared_server.url)
    wait_until_ready(together)
    set_number(together, "Longest answer", SHORT)
    for strength in (None, 2.0):
        found = []
        for page in (alone, together):
            if strength is not None:
                set_strength(page, strength)
            found.append(ask(page, QUESTION))
        assert found[0] == found[1]
        assert len(set(found[0])) == 3
    together.close()
    workers = psutil.Process(shared_server.process.pid).children()
    assert len(workers) == PROCESSES
    leader = next(one for one in workers if one.net_connections("tcp") and serves(one, shared_server.url))
    next(one for one in workers if one != leader).kill()
    start = time.monotonic()
    shared_server.process.wait(timeout=PATIENCE)
    assert time.monotonic() - start < SECONDS_TO_END
    assert f"One of the {PROCESSES} processes that run the model together has ended" in shared_server.log()


def serves(process: psutil.Process, url: str) -> bool:
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    return any(one.laddr.port == port and one.status == "LISTEN" for one in process.net_connections("tcp"))
