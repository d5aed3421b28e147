"""The command line, on a tiny model: results, files, words, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steering.cli import main
from steering.cli_chat import columns
from steering.directions import Direction

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(family_folder: Callable[[str], Path]) -> list[str]:
    return ["--model", str(family_folder("qwen2")), "--dtype", "float32", "--device", "cpu", "--quiet"]


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [f"The sea has {n} waves,How do I bake {n} loaves" for n in range(20)]
    path = tmp_path / "sea.csv"
    path.write_text("positive,negative\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_compute_writes_a_direction(
    model: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.safetensors"
    status, output, _ = run(capsys, "compute", *model, "--data", data, "--out", str(out), "--json", "--name", "Sea")
    assert status == 0
    result = json.loads(output)
    direction = Direction.load(out)
    assert (direction.position, direction.layer, direction.name) == (result["position"], result["layer"], "Sea")
    assert 0 <= result["auroc"] <= 1
    status, output, _ = run(
        capsys, "compute", *model, "--data", data, "--out", str(out), "--position", "-1", "--layer", "2"
    )
    assert status == 0
    assert "layer: 2" in output
    assert Direction.load(out).layer == 2


def test_select_prints_what_the_page_shows(
    model: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.safetensors"
    status, output, errors = run(
        capsys, "select", *model, "--data", data, "--out", str(out), "--json", "--fresh", "--relax", "--no-calibration"
    )
    if status == 2:  # a random model may have none even so; then it says which limit failed, in a sentence
        assert "candidates keeps to all limits" in errors
        return
    assert status == 0
    result = json.loads(output)
    assert set(result) >= {"position", "layer", "bypass_score", "induce_score", "kl_score", "coefficient", "file"}
    assert Direction.load(out).card["scores"]["bypass"] == result["bypass_score"]


def test_chat_answers_once(model: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.safetensors"
    run(capsys, "compute", *model, "--data", data, "--out", str(out))
    chat = ["chat", *model, "--direction", str(out), "--message", "Hello", "--tokens", "5", "--coefficient", "0"]
    status, output, _ = run(capsys, *chat, "--json")
    assert status == 0
    texts = json.loads(output)["texts"]
    assert list(texts) == ["baseline", "ablated", "added"]
    assert texts["baseline"] == texts["added"]
    status, output, _ = run(capsys, *chat)
    assert status == 0
    assert "as it is" in output


def test_calibrate_and_orthogonalize(
    model: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, edited = tmp_path / "found.safetensors", tmp_path / "edited"
    run(capsys, "compute", *model, "--data", data, "--out", str(out))
    status, output, _ = run(capsys, "calibrate", *model, "--direction", str(out), "--json")
    assert status == 0
    assert set(json.loads(output)["coefficient"]) == {"sweet_spot", "breaking_point", "start"}
    assert Direction.load(out).card["strength"]["n_questions"] == 4
    status, output, _ = run(capsys, "orthogonalize", *model, "--direction", str(out), "--out", str(edited), "--json")
    assert status == 0
    written = json.loads(output)
    assert written["folder"] == str(edited)
    assert written["check"].startswith("Beside the hooked model: 32 of 32 greedy answers")
    assert written["check"] in (edited / "README.md").read_text()
    assert (edited / "config.json").is_file()


def test_push_shows_what_would_go_and_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    poetic = Path(__file__).parent.parent / "presets" / "directions" / "poetic.safetensors"
    status, output, _ = run(capsys, "push", str(poetic), "me/poetic", "--dry-run", "--json")
    shown = json.loads(output)
    assert status == 0
    assert shown["seen by"] == "only you and your organisation"
    assert [line.partition(",")[0] for line in shown["would send"]] == ["README.md", "direction.safetensors"]
    status, _, errors = run(capsys, "pull", "me/poetic", "--quiet")
    assert status == 2
    assert "--out FILE" in errors


def test_a_direction_goes_into_a_model_and_into_an_adapter(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], family_folder: Callable[[str], Path]
) -> None:
    model = ["--model", str(family_folder("llama3")), "--dtype", "float32", "--device", "cpu", "--quiet"]
    out = tmp_path / "found.safetensors"
    run(capsys, "compute", *model, "--data", data, "--out", str(out), "--layer", "1", "--position", "-1")
    common = ["export", *model, "--direction", str(out), "--json"]
    status, _, errors = run(capsys, *common, "--to", "added-model", "--out", str(tmp_path / "added"))
    assert status == 2
    assert "--coefficient NUMBER" in errors
    for kind, more in (("added-model", ["--coefficient", "1.5"]), ("adapter", [])):
        status, output, _ = run(capsys, *common, "--to", kind, "--out", str(tmp_path / kind), *more)
        written = json.loads(output)
        assert (status, written["folder"], written["kind"]) == (0, str(tmp_path / kind), kind)
        assert written["check"].startswith("Beside the hooked model: ")
    status, output, _ = run(capsys, *common, "--to", "adapter", "--out", str(tmp_path / "quick"), "--no-check")
    assert json.loads(output)["check"] == "It was not compared with the hooked model."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "--direction", "missing.safetensors", "--message", "Hi"], "There is no file missing.safetensors"),
        (["compute", "--data", "missing.csv"], "missing.csv"),
        (["orthogonalize", "--direction", "poetic"], "--out FOLDER"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2(
    arguments: list[str], words: str, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, output, errors = run(capsys, arguments[0], *model, *arguments[1:])
    assert status == 2
    assert output == ""
    assert words in errors
    assert "Traceback" not in errors


def test_as_a_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "steering", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    for command in ("compute", "select", "calibrate", "card", "orthogonalize", "export", "import", "chat"):
        assert command in shown
    wrong = subprocess.run([sys.executable, "-m", "steering", "nonsense"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2


def test_columns_stand_side_by_side_or_below_each_other() -> None:
    class Size:
        columns = 66

    wide = columns(["one", "two"], ["a text", "first\nsecond"], Size)
    assert wide[0].split() == ["one", "two"]
    assert wide[2].split() == ["a", "text", "first"]
    Size.columns = 30
    assert columns(["one", "two"], ["a text", "b"], Size) == ["[one]", "a text", "", "[two]", "b", ""]


def test_explain_says_where_and_writes_tables(
    model: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out = tmp_path / "found.safetensors", tmp_path / "tables"
    run(capsys, "compute", *model, "--data", data, "--out", str(found))
    arguments = ["--direction", str(found), "--prompt", "Why is it blue?", "--out", str(out), "--data", data]
    status, output, errors = run(capsys, "explain", *model, *arguments, "--suffix", "and the sea, and boats")
    assert status == 0, errors
    assert "the direction shows most at layer" in output
    assert "with the suffix, and" in output
    assert output.count("along the direction, of") == 3
    files = {path.name: path.read_text(encoding="utf-8").splitlines() for path in out.iterdir()}
    assert set(files) == {"profile.csv", "heads.csv", "tokens.csv", "suffix.csv", "suffix-heads.csv"}
    heads = [line.split(",") for line in files["heads.csv"][1:]]
    assert sum(float(row[2]) for row in heads[:-1]) == pytest.approx(float(heads[-1][2]), abs=1e-3)
    assert len(files["profile.csv"]) == 1 + 3 * 3  # three groups, three layers
    assert len(files["suffix.csv"]) == 1 + 22 * 3
    status, _, errors = run(capsys, "explain", *model, *arguments, "--suffix", "boats", "--random", "3")
    assert status == 2
    assert "Fewer than 20 random suffixes tell too little" in errors
