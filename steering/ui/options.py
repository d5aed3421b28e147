"""The command line of the playground, as the person who runs it types it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui.journal import FORMATS
from steering.ui.limits import Limits, add_options, variable
from steering.ui.take_home_rules import CHOICES, FOLDER, TakeHome

if TYPE_CHECKING:
    from steering.ui.remote_endpoints import Endpoint


def parsed(
    arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[argparse.Namespace, Limits]:
    """What the command line and the environment say; ends the program with a sentence and status 2 when they are wrong.

    The options have one more entry, ``home``: what visitors may take with them.

    Args:
        arguments: the words after the program's name; None: those of this process.
        environment: the variables that stand for options that were left out.
    """
    parser = _parser(environment)
    options = parser.parse_args(arguments)
    try:
        limits = Limits.of(vars(options), environment)
        if options.log_format not in FORMATS:
            raise SteeringError(f"STEERING_LOG_FORMAT must be {' or '.join(FORMATS)}, not “{options.log_format}”.")
        if options.remote and (options.model or limits.models):
            raise SteeringError("--remote shows servers in the place of a model: leave --model and --models out.")
        options.model = options.model or (limits.models[0] if limits.models else "bundled")
        if limits.models and options.model not in limits.models:
            raise SteeringError(f"--model {options.model} is not among --models: add it there, or leave --model out.")
        options.endpoints = _endpoints(options.remote)
        options.home = _take_home(options, environment)
    except SteeringError as error:
        parser.exit(2, f"{error}\n")
    return options, limits


def _take_home(options: argparse.Namespace, environment: Mapping[str, str]) -> TakeHome:
    """What may be taken home; behind a proxy others reach the page, whatever its host."""
    asked = options.take_home or environment.get(variable("take_home"))
    return TakeHome.of(
        asked=asked or ("off" if options.behind_proxy else None),
        folder=options.exports or environment.get(variable("exports")),
        host=options.host,
        environment=environment,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="Chat with one small model three ways.")
    parser.add_argument(
        "--model", help="“bundled”, a hub id, a folder, or a .gguf file (default: the first of --models, else bundled)"
    )
    parser.add_argument(
        "--port", type=int, default=None, help="default: GRADIO_SERVER_PORT, else the first free from 7860"
    )
    parser.add_argument("--host", default=None, help="default: GRADIO_SERVER_NAME, else 127.0.0.1")
    parser.add_argument(
        "--device", default=None, help="cpu, cuda, cuda:1, or auto to spread a model over what there is"
    )
    parser.add_argument("--dtype", default=None, choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--quantization", default=None, choices=["8bit", "4bit"], help="through bitsandbytes")
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default=environment.get(variable("log_format"), "text"),
        help="of the log on standard error: lines for people, or one JSON object a line (default: text)",
    )
    parser.add_argument(
        "--status-page",
        action="store_true",
        default=_is_set(environment, "status_page"),
        help="serve /status and /status.json: model, memory, queue, tokens a second",
    )
    parser.add_argument(
        "--behind-proxy",
        action="store_true",
        default=_is_set(environment, "behind_proxy") or bool(environment.get("SPACE_ID")),
        help="believe X-Forwarded-For; only for a server that nobody reaches but through a proxy that writes it",
    )
    parser.add_argument(
        "--remote",
        action="append",
        metavar="COLUMN=URL",
        help="three times, for baseline, ablated and added: answer from OpenAI-compatible servers instead of a model "
        "here, as in baseline=http://127.0.0.1:8001/v1,model=NAME; a key comes from STEERING_REMOTE_KEY alone",
    )
    home = parser.add_argument_group("taking models home", "Directions’ files may always be taken.")
    home.add_argument(
        "--take-home",
        choices=CHOICES,
        default=None,
        help="whether the page writes edited models and sends them to the hub with this machine's account (default: on "
        "where only this machine reaches it, and off on a Space)",
    )
    home.add_argument("--exports", metavar="DIR", default=None, help=f"where it writes them (default: ./{FOLDER})")
    add_options(parser)
    return parser


def _endpoints(remote: list[str] | None) -> tuple[Endpoint, ...]:
    """The servers of the remote mode; none without one."""
    if not remote:
        return ()
    from steering.ui.remote_endpoints import read_endpoints

    return read_endpoints(remote)


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(variable(name), "").lower() in ("1", "true", "yes", "on")
