"""``python app.py --space-check``: what a Hugging Face Space would lack in this folder, a sentence each.

It reads files alone: no network, no torch, no Gradio.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from steering.catalogue import load_catalogue
from steering.errors import SteeringError
from steering.weights import BUNDLED_HUB_ID, BUNDLED_HUB_REVISION

ROOT = Path(__file__).resolve().parent.parent.parent

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
LONGEST_SHORT_DESCRIPTION = 60  # characters; the hub refuses more
LARGEST_README = 200_000  # bytes; it is shown whole
LARGEST_FILE = 10_000_000  # bytes; the hub takes larger ones through LFS alone
OLDEST_TORCH = "2.8"  # of those that ZeroGPU has
SECRET_NAMES = re.compile(
    r"^(\.env(\..+)?|\.netrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|credentials.*|.+\.(pem|key|p12|pfx))$"
)
SECRET_TEXTS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----")
FOLDERS = ("assets", "presets", "presets/directions", "steering")
ASSET = re.compile(r"""["']([\w-][\w.-]*\.(?:css|js|svg))["']""")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def lacking(root: Path = ROOT) -> list[str]:
    """What a Space made of this folder would lack; empty when it can be one."""
    readme = root / "README.md"
    if not readme.is_file():
        return ["There is no README.md: a Space reads from its head what it is."]
    requirements = _requirements(root)
    try:
        head = front_matter(readme.read_text(encoding="utf-8"))
    except SteeringError as error:
        return [str(error), *_in_requirements(requirements), *_in_files(root)]
    return [
        *_in_head(head, root, requirements),
        *_in_models(head),
        *_in_requirements(requirements),
        *_in_files(root),
    ]


def front_matter(readme: str) -> dict[str, Any]:
    """The YAML at the head of a README.

    Raises:
        SteeringError: if there is none, or it is not YAML.
    """
    found = re.match(r"---\n(.*?)\n---\n", readme, flags=re.S)
    if not found:
        raise SteeringError("README.md does not begin with a block of YAML between two lines of three dashes. Add it.")
    try:
        head = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SteeringError(f"The head of README.md is not YAML: {where}. Correct it.") from error
    if not isinstance(head, dict):
        raise SteeringError("The head of README.md is not a list of names with values. Write “sdk: gradio” and so on.")
    return head


def _in_head(head: dict[str, Any], root: Path, requirements: list[str]) -> Iterator[str]:
    """What is missing or wrong in the README's head."""
    for name in ("title", "emoji", "license", "short_description"):
        if not isinstance(head.get(name), str) or not head[name].strip():
            yield f"README.md has no “{name}” in its head. Add it."
    if len(str(head.get("short_description", ""))) > LONGEST_SHORT_DESCRIPTION:
        yield f"“short_description” in README.md has more than {LONGEST_SHORT_DESCRIPTION} characters. Shorten it."
    for name in ("colorFrom", "colorTo"):
        if head.get(name) not in COLOURS:
            yield f"“{name}” in README.md is {head.get(name)!r}; it is one of {', '.join(sorted(COLOURS))}."
    if head.get("sdk") != "gradio":
        yield f"“sdk” in README.md is {head.get('sdk')!r}. Write gradio: ZeroGPU takes no other."
    gradio = next((one for line in requirements if (one := _parsed(line)) and one.name == "gradio"), None)
    version = _version(head.get("sdk_version"))
    if version is None or len(version.release) != 3:
        yield f"“sdk_version” in README.md is {head.get('sdk_version')!r}. Write a whole version in quotes, as 6.31.0."
    elif gradio is not None and version not in gradio.specifier:
        yield f"“sdk_version” in README.md is {version}; requirements.txt wants gradio{gradio.specifier}. Align them."
    yield from _in_python(head.get("python_version"), root)
    app_file = head.get("app_file")
    if not isinstance(app_file, str) or not (root / app_file).is_file():
        yield f"“app_file” in README.md is {app_file!r}, and there is no such file. Write app.py."


def _in_python(stated: Any, root: Path) -> Iterator[str]:
    version = _version(stated if isinstance(stated, str) else None)
    project = root / "pyproject.toml"
    if version is None:
        yield f"“python_version” in README.md is {stated!r}. Write it in quotes, as 3.12; else a Space takes 3.10."
    elif project.is_file():
        wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["requires-python"]
        if version not in SpecifierSet(wanted):
            yield f"“python_version” in README.md is {version}, and pyproject.toml asks for {wanted}. Raise it."


def _in_models(head: dict[str, Any]) -> Iterator[str]:
    """Whether what is offered first can be fetched there without a token, and is fetched before the first visitor."""
    gated = {entry.id for entry in load_catalogue() if entry.gated}
    preloaded = head.get("preload_from_hub") or []
    models = head.get("models") or []
    if not isinstance(models, list) or not isinstance(preloaded, list):
        yield "“models” and “preload_from_hub” in README.md are lists. Begin each entry with a dash."
        return
    if not any(str(line).split()[:1] == [BUNDLED_HUB_ID] for line in preloaded):
        yield f"“preload_from_hub” in README.md lacks {BUNDLED_HUB_ID}, which stands in for the bundled model. Add it."
    for line in preloaded:
        model, *rest = str(line).split()
        if model == BUNDLED_HUB_ID and rest[1:] != [BUNDLED_HUB_REVISION]:
            yield f"“preload_from_hub” in README.md must fetch revision {BUNDLED_HUB_REVISION}, which is loaded."
    for model in sorted({*map(str, models), *(str(line).split()[0] for line in preloaded)} & gated):
        yield f"{model} needs a token, so a Space cannot begin with it. Name an open model in README.md."


def _requirements(root: Path) -> list[str]:
    """The lines of requirements.txt that are no comments; none if there is no such file."""
    path = root / "requirements.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in (line.partition(" #")[0].strip() for line in lines) if line and not line.startswith("#")]


def _in_requirements(requirements: list[str]) -> Iterator[str]:
    if not requirements:
        yield "There is no requirements.txt, or it is empty. List the packages there."
        return
    parsed = {line: _parsed(line) for line in requirements}
    for line, requirement in parsed.items():
        if requirement is None or requirement.url:
            yield f"“{line}” in requirements.txt is no package of an index. Write a name and a range of versions."
    named = {one.name.lower(): one for one in parsed.values() if one is not None}
    for name in ("gradio", "torch", "transformers"):
        if name not in named:
            yield f"requirements.txt lacks {name}. Add it."
    if (torch := named.get("torch")) is not None:
        if any(clause.operator in ("==", "===", "~=", "<", "<=") for clause in torch.specifier):
            yield f"requirements.txt holds torch at “{torch.specifier}”. Say torch>={OLDEST_TORCH}: a Space has one."
        elif not any(
            clause.operator == ">=" and Version(clause.version) >= Version(OLDEST_TORCH) for clause in torch.specifier
        ):
            yield f"requirements.txt takes a torch that ZeroGPU does not have. Say torch>={OLDEST_TORCH}."


def _in_files(root: Path) -> Iterator[str]:
    """Files that are too large, that look like secrets, or that the page needs and are not there."""
    for path in _files(root):
        name, size = path.relative_to(root).as_posix(), path.stat().st_size
        if size > LARGEST_FILE:
            yield f"{name} has {size / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} a Space takes. Leave it out."
        elif SECRET_NAMES.match(path.name) or SECRET_TEXTS.search(path.read_bytes()):
            yield f"{name} looks like a secret. Take it out; a Space keeps tokens in its settings."
    readme = root / "README.md"
    if readme.is_file():
        if readme.stat().st_size > LARGEST_README:
            yield f"README.md has more than {LARGEST_README / 1000:.0f} kB. Shorten it: a Space shows it whole."
        for target in LINK.findall(readme.read_text(encoding="utf-8")):
            if not (root / target).is_file():
                yield f"README.md shows {target}, which is not there."
    for folder in FOLDERS:
        if not any((root / folder).glob("*")):
            yield f"The folder {folder} is empty or missing. Bring it along."
    for module in sorted((root / "steering").rglob("*.py")):
        for asset in ASSET.findall(module.read_text(encoding="utf-8")):
            if not (root / "assets" / asset).is_file():
                yield f"{module.relative_to(root)} needs assets/{asset}, which is not there. Bring it along."


def _files(root: Path) -> list[Path]:
    """The files that would be pushed: those git knows, or without git all but what is hidden."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        files = [root / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [path for path in root.rglob("*") if not {".git", ".venv", "__pycache__"} & set(path.parts)]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _version(stated: Any) -> Version | None:
    try:
        return Version(str(stated)) if stated is not None else None
    except InvalidVersion:
        return None


def main(root: Path = ROOT) -> int:
    """Print what is lacking; 0 if nothing is, else 1."""
    sentences = lacking(root)
    for sentence in sentences:
        print(sentence)
    if not sentences:
        print("Nothing is lacking: this folder can be pushed to a Space as it is.")
    return int(bool(sentences))
