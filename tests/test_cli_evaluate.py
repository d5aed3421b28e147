"""``evaluate`` and ``compare`` on tiny models: tables, files, words, exit statuses, and what mistakes are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest

from steering.cli import main
from steering.evaluation_records import RECORDS
from steering.models import ChatModel

Run = Callable[..., tuple[int, str, str]]
KEYS = {"model", "system", "variant", "metric", "value", "n", "low", "high", "difference", "difference_low",
        "difference_high", "p"}  # fmt: skip


@pytest.fixture
def run(
    family_folder: Callable[[str], Path],
    tiny: Callable[[str], ChatModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    direction = oracle.make_direction(tiny("qwen2"), layer=1).save(tmp_path / "direction.safetensors")
    usual = ["--model", str(family_folder("qwen2")), "--device", "cpu", "--direction", str(direction), "--quiet"]

    def evaluate(*more: str, out: str = "run") -> tuple[int, str, str]:
        size = ["--n", "3", "--tokens", "6", "--out", str(tmp_path / out)]
        status = main(["evaluate", *usual, *size, *more])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return evaluate


def test_the_whole_table(run: Run, tmp_path: Path) -> None:
    status, output, _ = run("--json", "--system", "Be brief.")
    assert status == 0
    result = json.loads(output)
    assert set(result["rows"][0]) == KEYS
    variants = {row["variant"] for row in result["rows"]}
    assert variants == {
        *("baseline", "ablated", "orthogonalized", "added", "subtracted", "random ablated", "random added", "prompted")
    }
    assert {row["system"] for row in result["rows"]} == {0, 1}
    assert result["systems"] == ["", "Be brief."]
    assert len(result["data_sha256"]) == 64
    assert "--system 'Be brief.'" in result["command"]
    assert [line for line in result["data"] if line.startswith("harmful: ")] != []
    assert {"torch", "transformers"} <= set(result["versions"])
    # The edited model says what the hooked one says, and is gone afterwards.
    costs = {(row["variant"], row["system"]): row["value"] for row in result["rows"] if row["metric"] == "ce_text"}
    assert costs["orthogonalized", 0] == pytest.approx(costs["ablated", 0], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *(RECORDS, "table.html", "table.json", "table.md")
    ]
    again, words, _ = run("--system", "Be brief.", "--paper")
    assert again == 0
    assert "| Refusal score, harmful | 3 |" in words
    assert "system prompt “Be brief.”" in words
    assert "safety: no judge" in words
    assert "### All together" in words
    assert (
        "- Edited weights do what ablation does: **agrees** (Refusal score, harmful, orthogonalized − ablated: 0%"
        in words
    )
    assert "<h2>All together</h2>" in (tmp_path / "run" / "table.html").read_text(encoding="utf-8")


def test_two_models_in_one_table(
    tiny: Callable[[str], ChatModel],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("qwen2", "llama3")
    files = [str(oracle.make_direction(tiny(name), layer=1).save(tmp_path / f"{name}.safetensors")) for name in names]
    models = [str(family_folder(name)) for name in names]
    size = ["--n", "2", "--tokens", "4", "--text", "none", "--no-orthogonalized", "--quiet", "--device", "cpu"]
    out = ["--out", str(tmp_path / "both"), "--json"]
    assert main(["evaluate", "--model", *models, "--direction", *files, *size, *out]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["model"] for row in rows} == set(names)
    text = (tmp_path / "both" / "table.md").read_text(encoding="utf-8")
    assert "| qwen2 | baseline |" in text
    assert "| llama3 | ablated |" in text


def test_two_runs_side_by_side(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["--no-orthogonalized", "--text", "none"]
    assert run(*plain, out="a")[0] == run(*plain, "--coefficient", "4", out="b")[0] == 0
    first, second, page = str(tmp_path / "a"), str(tmp_path / "b"), tmp_path / "both.html"
    assert main(["compare", first, second, "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "| baseline | Refusal score, harmful |" in shown
    assert "<h2>added</h2>" in page.read_text(encoding="utf-8")
    assert main(["compare", first, second, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    unchanged = [row for row in rows if row["variant"] == "ablated"]
    assert all(row["difference"]["value"] in (0.0, None) for row in unchanged)
    assert any(row["difference"]["value"] for row in rows if row["variant"] == "added")
    assert main(["compare", first, str(tmp_path / "nowhere")]) == 2
    assert "There is no evaluation in" in capsys.readouterr().err


def test_system_prompts_are_compared_by_their_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, second: str, values: tuple[float, float]) -> str:
        records = [
            {"model": "m", "system": system, "side": "text", "variant": "baseline", "prompt": f"{n}", "ce": value}
            for system, value in enumerate(values)
            for n in range(3)
        ]
        lines = [{"run": {"system prompts": ["", second]}}, {"job": "m/text", "records": records}]
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORDS).write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
        return str(tmp_path / name)

    brief, kind, again = (
        write("a", "Be brief.", (1, 2)),
        write("b", "Be kind.", (1, 7)),
        write("c", "Be brief.", (1, 3)),
    )
    found = {}
    for other in (kind, again):
        assert main(["compare", brief, other, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        found[other] = [(row["system"], row["second"]["value"]) for row in rows]
    assert found == {kind: [(0, 1.0)], again: [(0, 1.0), (1, 3.0)]}
    for target in (tmp_path, tmp_path / "nowhere" / "page.html"):
        assert main(["compare", brief, again, "--out", str(target)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "a" / RECORDS).write_text('{"run": {}}\n{"job": "a", "records": [{"x": 1}]}\n', encoding="utf-8")
    assert main(["compare", brief, again]) == 2
    assert "are damaged" in capsys.readouterr().err


def test_an_edited_model_is_of_this_direction_and_does_not_stay(
    run: Run, tiny: Callable[[str], ChatModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_alone = ["--harmful", "none", "--harmless", "none"]
    with monkeypatch.context() as killed:
        killed.setattr("steering.cli_evaluate.shutil.rmtree", lambda *_, **__: None)
        assert run(*text_alone)[0] == 0
    [left] = (tmp_path / "run").glob("edited-*")
    other = oracle.make_direction(tiny("qwen2"), layer=2, seed=5).save(tmp_path / "other.safetensors")
    status, output, _ = run(*text_alone, "--direction", str(other), "--fresh", "--json")
    assert status == 0
    costs = {row["variant"]: row["value"] for row in json.loads(output)["rows"] if row["metric"] == "ce_text"}
    assert costs["orthogonalized"] == pytest.approx(costs["ablated"], abs=1e-4)
    assert list((tmp_path / "run").glob("edited-*")) == [left]
    occupied = tmp_path / "occupied"
    occupied.write_text("", encoding="utf-8")
    status, _, error = run(*text_alone, "--fresh", out="occupied")
    assert (status, "Choose another folder" in error) == (2, True)


def test_a_local_task_of_lm_eval(run: Run, tmp_path: Path) -> None:
    documents = [{"question": f"Two and {n} are", "choices": ["many", "few"], "answer": n % 2} for n in range(6)]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in documents), encoding="utf-8")
    task = tmp_path / "sums.yaml"
    task.write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: '{{answer}}'\nmetric_list:\n  - metric: acc\n",
        encoding="utf-8",
    )
    nothing_else = ["--harmful", "none", "--harmless", "none", "--text", "none", "--no-orthogonalized"]
    status, output, _ = run("--tasks", str(task), "--task-limit", "4", *nothing_else, "--json")
    assert status == 0
    rows = [row for row in json.loads(output)["rows"] if row["metric"].endswith("acc")]
    assert {row["variant"] for row in rows} >= {"baseline", "ablated", "added"}
    assert "prompted" not in {row["variant"] for row in rows}
    assert {row["n"] for row in rows} == {4}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--harmful", "nothing-like-this"], "There is neither a data set nor a file “nothing-like-this”"),
        (["--direction", "a", "b"], "There are 1 models and 2 directions"),
        (["--harmful", "none", "--harmless", "none", "--text", "none"], "There is nothing to evaluate on"),
        (["--coefficient", "nan"], "cannot be turned up by nan"),
        (["--repetition-penalty", "nan"], "The repetition penalty must lie"),
        (["--model", "a/one", "b/one", "--direction", "a", "b"], "Two models are called “one”"),
        (["--tasks", "no-such-task"], "lm-eval knows no task “no-such-task”"),
        (["--n", "1"], "There is a single harmful prompt"),
        (["--n", "0"], "A sample of 0 prompts holds nothing"),
        (["--text", "/nowhere/text.txt"], "cannot be read"),
        (["--phrases", "/nowhere/phrases.txt"], "cannot be read"),
        (["--checkpoint", "/nowhere/model", "--no-orthogonalized"], "/nowhere/model"),
        (["--rubric", "/nowhere/rubric.txt", "--judge", "JUDGE"], "cannot be read"),
    ],
)
def test_mistakes_are_told(run: Run, more: list[str], said: str, family_folder: Callable[[str], Path]) -> None:
    status, output, error = run(*[str(family_folder("llama3")) if one == "JUDGE" else one for one in more])
    assert (status, output) == (2, "")
    assert said in error
    assert "Traceback" not in error


def test_empty_files_and_sets_that_are_out_of_reach(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    status, _, error = run("--harmful", str(empty))
    assert status == 2
    assert "empty.txt" in error
    status, _, error = run("--text", str(empty))
    assert (status, "is empty" in error) == (2, True)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    status, _, error = run("--harmful", "advbench", "--datasets", str(tmp_path / "sets"))
    assert status == 2
    assert "AdvBench" in error
    assert str(tmp_path / "sets" / "advbench") in error


def test_a_judge_that_answers_nonsense_ends_the_run_and_keeps_nothing_of_what_it_judged(
    run: Run, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    status, output, error = run("--judge", str(family_folder("llama3")), "--text", "none")
    assert (status, output) == (2, "")
    assert "answers nonsense" in error
    assert "reading" not in (tmp_path / "run" / RECORDS).read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RECORDS]
