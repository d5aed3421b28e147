"""What may leave the playground by its page: who decides it, where edited models go, and what a folder may be called.

Writing models fills a disk, and publishing them uses an account, so both are there by default only for the person at
the machine itself: not on a Space, not for hosts that others reach, not behind a proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from steering.errors import SteeringError
from steering.ui.limits import variable

CHOICES = ("on", "off")
FOLDER = "exports"
LONGEST_NAME = 80  # characters of a folder's name
LOCALHOST = ("", "localhost")
# Names that Windows keeps for devices, whatever their ending.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
PARTIAL = ".part-"  # in the name of a folder while it is being written


@dataclass(frozen=True)
class TakeHome:
    """What visitors may take with them beside a direction's file.

    Attributes:
        folder: where edited models are written, absolute; None where none are.
        may_push: whether they may go to the hub, with the account that this machine has there.
        only_here: whether the page must have been opened by an address of this machine, as it is where nobody said
            that this is on: another program here may hand on what comes from elsewhere, and a stranger's site may give
            its own name this machine's address.
    """

    folder: Path | None = None
    may_push: bool = False
    only_here: bool = False

    @classmethod
    def of(cls, *, asked: str | None, folder: str | None, host: str | None, environment: Mapping[str, str]) -> TakeHome:
        """What the command line and the environment say.

        Args:
            asked: ``"on"`` or ``"off"``; None or "" for the default.
            folder: where models go; None or "" for ``exports`` in the working directory.
            host: the address that the page is served at, as the command line says; None for the default.
            environment: this process's variables.

        Raises:
            SteeringError: if ``asked`` is neither.
        """
        if asked and asked not in CHOICES:
            raise SteeringError(f"--take-home ({variable('take_home')}) is on or off, not “{asked}”.")
        on_space = bool(environment.get("SPACE_ID"))
        host = host or environment.get("GRADIO_SERVER_NAME")
        if not (asked == "on" if asked else not on_space and is_this_machine(host)):
            return cls()
        root = Path(os.path.abspath(Path(folder or FOLDER).expanduser()))
        return cls(root, may_push=not on_space, only_here=asked != "on")

    def is_here(self, host: str | None) -> bool:
        """Whether the page was opened by a name that it may be; ``host``: as the browser sent it."""
        try:
            name = urlsplit(f"//{host or ''}").hostname
        except ValueError:
            name = None
        return not self.only_here or bool(name and is_this_machine(name))

    def require_here(self, host: str | None) -> None:
        """Raise SteeringError if the page was opened by a name that it may not be; ``host``: as the browser sent it."""
        if not self.is_here(host):
            raise SteeringError(ELSEWHERE)

    def require_models(self) -> Path:
        """The folder for edited models; raises SteeringError where none are written."""
        if self.folder is None:
            raise SteeringError(NOT_HERE)
        return self.folder

    def require_push(self) -> None:
        """Raise SteeringError where nothing is sent to the hub."""
        if self.folder is None or not self.may_push:
            raise SteeringError(NO_PUSH)

    def target(self, name: str) -> Path:
        """The folder of this name among the exports; nothing has the name yet.

        Raises:
            SteeringError: if no models are written here, the name is none, or something has it already.
        """
        target = self.require_models() / folder_name(name)
        if os.path.lexists(target):  # a link that leads nowhere has a name too
            raise SteeringError(
                f"There is a folder {target.name} already. Choose another name; nothing was overwritten."
            )
        return target


NOT_HERE = (
    "Edited models are written where the playground runs on your own machine, and by the command line: "
    "python -m steering orthogonalize."
)
NO_PUSH = "Nothing is sent to the hub from here: a page that others reach would use an account that is not theirs."


ELSEWHERE = (
    "This page was not opened at an address of the machine it runs on, so it neither writes models nor sends them. "
    "Open it as http://127.0.0.1 there, or have it started with --take-home on."
)


def is_this_machine(host: str | None) -> bool:
    """Whether a server at this address can be reached from its own machine only; None is the default, which is so."""
    if host is None or host.lower() in LOCALHOST:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name that leads somewhere
        return False


def folder_name(text: str) -> str:
    """A name for a folder, as a visitor typed it, if it is one that every system takes and that leads nowhere else.

    Letters of the Latin alphabet, digits, hyphens, underscores and dots, of which the first is a letter or a digit.

    Raises:
        SteeringError: if it is not; the sentence says what is wrong.
    """
    name = text.strip(" ")
    if not name:
        raise SteeringError("The folder has no name yet. Type one, such as poetic-taken-out.")
    if len(name) > LONGEST_NAME:
        raise SteeringError(f"The folder’s name has {len(name)} characters. Use {LONGEST_NAME} at most.")
    if "/" in name or "\\" in name:
        raise SteeringError(
            "The folder’s name has a slash in it. Type a name alone: where the folders lie, the person who started the "
            "playground says (--exports)."
        )
    if name.startswith("."):
        raise SteeringError("The folder’s name begins with a dot, and would be hidden. Begin with a letter or a digit.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SteeringError(
            f"The folder’s name may hold the letters A to Z, digits, hyphens, underscores and dots, and begins with a "
            f"letter or a digit. “{_visible(name)}” does not: try {suggestion(name)}."
        )
    if name.endswith(".") or name.split(".")[0].lower() in DEVICES or PARTIAL in name.lower():
        raise SteeringError(f"“{name}” is a name that a system keeps for itself. Try {suggestion(name)}-model.")
    return name


def suggestion(text: str) -> str:
    """The name of a folder that is like a text; ``model`` where nothing of it can stand."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: LONGEST_NAME - 20].strip("-")
    return plain or "model"


def _visible(name: str) -> str:
    """A name without what a page or a log would take for something else."""
    return "".join(char if char.isprintable() else "�" for char in name)
