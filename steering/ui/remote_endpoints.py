"""The servers of the remote mode as the person who runs the page names them, and what is sent to each kind."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from steering.errors import SteeringError
from steering.ui.columns import THREE
from steering.ui.turn import LIKELIEST, TurnRequest

KEY_VARIABLE = "STEERING_REMOTE_KEY"
FORM = "--remote COLUMN=http://HOST:PORT/v1[,model=NAME]"
VLLM, TRANSFORMERS, OTHER = "vllm", "transformers", "other"
TAKE_PENALTY = (VLLM, TRANSFORMERS)
OPTIONAL = ("logprobs", "top_logprobs", "stream_options", "seed")
"""Fields of the protocol that a server may refuse; it is then asked again without them."""


@dataclass(frozen=True)
class Endpoint:
    """One OpenAI-compatible server, whose answers stand in one column.

    Attributes:
        column: a key of `columns.THREE`.
        url: up to and with the version, as ``http://127.0.0.1:8001/v1``; without a slash at its end.
        model: the name it is asked for; "" is the first that the server names.
    """

    column: str
    url: str
    model: str = ""

    @property
    def address(self) -> str:
        """Host and port, for people: paths of a private gateway are nobody's business."""
        return urlsplit(self.url).netloc

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, where no proxy leads to."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def read_endpoints(texts: Sequence[str]) -> tuple[Endpoint, ...]:
    """The endpoints of ``--remote``, in the order of the columns.

    Raises:
        SteeringError: if one is malformed, a column is missing or named twice.
    """
    found: dict[str, Endpoint] = {}
    for text in texts:
        endpoint = _read(text)
        if endpoint.column in found:
            raise SteeringError(f"--remote names “{endpoint.column}” twice. Give each column one endpoint.")
        found[endpoint.column] = endpoint
    missing = [column for column in THREE if column not in found]
    if missing:
        words = " and ".join(f"“{column}”" for column in missing)
        raise SteeringError(f"--remote has no endpoint for {words}. Give it three times: {', '.join(THREE)}; {FORM}.")
    return tuple(found[column] for column in THREE)


def _read(text: str) -> Endpoint:
    column, equals, rest = text.partition("=")
    url, *parts = rest.split(",")
    if not equals or column not in THREE:
        # What stands before the first “=” may be an address with a key in it, so only a plain word is repeated.
        named = f"“{column}”" if column.isidentifier() else "That"
        raise SteeringError(f"{named} is no column of --remote. Write {FORM}, where COLUMN is {', '.join(THREE)}.")
    model = ""
    for part in parts:
        name, _, value = part.partition("=")
        if name != "model" or not value or model:
            raise SteeringError(f"--remote {column}: behind the address only “,model=NAME” can follow, once.")
        model = value
    return Endpoint(column, _checked(column, url), model)


def _checked(column: str, url: str) -> str:
    """An address that can be used, without a slash at its end. No sentence repeats it: it could hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx.URL(url)  # is stricter, and would say so at every question
    except (ValueError, httpx.InvalidURL):
        raise SteeringError(f"--remote {column}: this is no address. Write {FORM}.") from None
    if parts.scheme not in ("http", "https"):
        raise SteeringError(f"--remote {column}: the address must begin with http:// or https://. Write {FORM}.")
    if parts.username is not None or parts.password is not None:
        raise SteeringError(
            f"--remote {column}: an address must not hold a name or password, for others can read a command line. "
            f"Put the key into the variable {KEY_VARIABLE}."
        )
    if not host or any(character.isspace() or ord(character) < 33 for character in url):
        raise SteeringError(f"--remote {column}: the address names no host. Write {FORM}.")
    if parts.query or parts.fragment:
        raise SteeringError(
            f"--remote {column}: an address ends with its path, as in http://127.0.0.1:8001/v1, without “?” or “#”; a "
            f"key belongs into the variable {KEY_VARIABLE}."
        )
    return url.rstrip("/")


def headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What each request carries: the key, where one is set."""
    key = environment.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def kind_of(listed: Sequence[Mapping[str, Any]]) -> str:
    """Which server gave this list of models, as far as it can be told.

    vLLM signs its models (``owned_by``). `transformers serve` says of each whether it is in memory, and is alone in
    listing none at all: it loads what it is asked for.
    """
    if any(entry.get("owned_by") == "vllm" for entry in listed):
        return VLLM
    states = [entry.get("status") for entry in listed]
    if all(isinstance(state, dict) and set(state) == {"value"} for state in states):
        return TRANSFORMERS
    return OTHER


def short(model: str) -> str:
    """A model's name for people; of a path on the server's disk, the last part."""
    return model.rstrip("/").rsplit("/", 1)[-1] if model.startswith(("/", "~", ".")) else model


def body(request: TurnRequest, column: int, model: str, kind: str) -> dict[str, Any]:
    """What a server is asked for one column of a turn.

    Dice: each server throws its own, so that at a temperature the answers differ by luck as well.
    """
    system = [{"role": "system", "content": request.system_prompt}] if request.system_prompt.strip() else []
    question = {"role": "user", "content": request.question}
    asked: dict[str, Any] = {
        "model": model,
        "messages": [*system, *request.histories[column], question],
        "stream": True,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if kind == TRANSFORMERS:
        # It ignores a temperature unless the model's own settings draw lots, refuses `repetition_penalty`, and takes
        # both this way. What could have been said it never tells.
        settings = {"repetition_penalty": request.repetition_penalty, "do_sample": request.temperature > 0}
        return asked | {"generation_config": json.dumps(settings)}
    asked |= {
        "logprobs": True,
        "top_logprobs": LIKELIEST,
        "stream_options": {"include_usage": True},
    }
    if kind == VLLM:
        asked["repetition_penalty"] = request.repetition_penalty
    return asked
