"""A visitor without a browser: the requests that the page's script sends, and those of a program that asks `/steer`."""

from __future__ import annotations

import asyncio
import html
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from steering.ui.scope import VARIANTS
from steering.ui.settings import SETTINGS

API = "/gradio_api"
PATIENCE = httpx.Timeout(240, connect=30)  # seconds; a visitor may stand in line


class Refused(Exception):
    """The server did not take a question, or ended it with an error; its sentence."""


class Left(Exception):
    """The visitor went away in the middle of a reply."""


@dataclass(frozen=True)
class Events:
    """The numbers by which the page's script calls the handlers, as the page itself says them."""

    accept: int
    respond: int
    choose: int
    settings: list[Any]

    @classmethod
    async def of(cls, client: httpx.AsyncClient) -> Events:
        """Read them from the page's configuration."""
        config = (await client.get("/config")).raise_for_status().json()
        parts = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        values = {part["id"]: part["props"].get("value") for part in config["components"]}
        events = config["dependencies"]

        def event_of(elem_id: str, kind: str, name: str) -> dict[str, Any]:
            wanted = [parts[elem_id], kind]
            return next(one for one in events if wanted in one["targets"] and one["api_name"].startswith(name))

        accept = event_of("ask", "click", "accept")
        respond = next(one for one in events if one["trigger_after"] == accept["id"])
        choose = event_of("idea", "input", "choose")
        return cls(accept["id"], respond["id"], choose["id"], [values[part] for part in respond["inputs"]])

    def data(self, strength: float, tokens: int) -> list[Any]:
        """What is sent along with a question: the slider and the settings as they stand on a new page."""
        sent = [*self.settings]
        sent[0] = strength
        sent[1 + list(SETTINGS).index("max_new_tokens")] = tokens
        return sent


@dataclass
class PageVisit:
    """An open page: a session of its own, alive for as long as its heartbeat is listened to."""

    client: httpx.AsyncClient
    events: Events
    session: str

    async def call(self, event: int, data: list[Any]) -> None:
        """A quick event, which does not stand in line."""
        content = {"data": data, "fn_index": event, "session_hash": self.session}
        _taken(await self.client.post(f"{API}/run/predict", json=content))

    async def ask(self, question: str, strength: float, tokens: int, leave_after: int | None = None) -> list[str]:
        """Ask as the page does; the newest answers in the three panes.

        Args:
            leave_after: go away after so many pieces of news.

        Raises:
            Refused, Left: as their names say.
        """
        await self.call(self.events.accept, [question])
        data = self.events.data(strength, tokens)
        content = {"data": data, "fn_index": self.events.respond, "session_hash": self.session}
        _taken(await self.client.post(f"{API}/queue/join", json=content))
        news = 0
        address = f"{API}/queue/data?session_hash={self.session}"
        async with self.client.stream("GET", address) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise Refused(str(message["output"].get("error")))
                    return _newest(message["output"]["data"])
                news += message["msg"] == "process_generating"
                if leave_after is not None and news >= leave_after:
                    raise Left
        raise Refused("The stream ended before the answer.")


@asynccontextmanager
async def page_visit(client: httpx.AsyncClient, events: Events) -> AsyncIterator[PageVisit]:
    """Open a page, and close it as a browser does whose tab is closed: the heartbeat's connection ends."""
    session = secrets.token_hex(6)
    (await client.get("/")).raise_for_status()
    beating = asyncio.create_task(_listen(client, f"{API}/heartbeat/{session}"))
    try:
        yield PageVisit(client, events, session)
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def steer(client: httpx.AsyncClient, arguments: list[Any], leave_after: int | None = None) -> list[str]:
    """Ask as a program does, over plain HTTP; the three texts.

    Raises:
        Refused, Left: as their names say.
    """
    taken = _taken(await client.post(f"{API}/call/steer", json={"data": arguments}))
    news, kind = 0, ""
    async with client.stream("GET", f"{API}/call/steer/{taken.json()['event_id']}") as stream:
        async for line in stream.aiter_lines():
            name, _, content = line.partition(": ")
            if name == "event":
                kind = content
            if name != "data":
                continue
            if kind == "error":
                raise Refused(content)
            if kind == "complete":
                texts = json.loads(content)[0]["texts"]
                return [texts[variant] for variant in VARIANTS]
            news += kind == "generating"
            if leave_after is not None and news >= leave_after:
                raise Left
    raise Refused("The stream ended before the answer.")


async def _listen(client: httpx.AsyncClient, address: str) -> None:
    async with client.stream("GET", address, timeout=None) as stream:
        async for _ in stream.aiter_lines():
            pass


def _taken(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise Refused(f"{answer.status_code}: {answer.text[:200]}")
    return answer


def _newest(view: list[Any]) -> list[str]:
    """The last answer of each of the first three panes."""
    return [_text(pane[-1]["content"]) if pane else "" for pane in view[: len(VARIANTS)]]


def _text(content: Any) -> str:
    parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return html.unescape("".join(parts))
