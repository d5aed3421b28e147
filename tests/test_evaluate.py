"""Evaluations on tiny models: what is measured, what is kept and what never is, and that a killed run goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from steering.contestants import contestants
from steering.contrast import Example
from steering.errors import SteeringError
from steering.evaluate import Evaluation, Plan
from steering.evaluation_findings import outcomes
from steering.evaluation_metrics import METRICS, metric_of
from steering.evaluation_page import compared_page, page
from steering.evaluation_records import RECORDS, RecordFile, read_run
from steering.evaluation_table import compare, table
from steering.evaluation_words import compared_markdown, markdown
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.models import ChatModel, load_model
from steering.reply_logits import GivenReply, reply_log_probabilities
from steering.style_classifier import ai_style
from steering.style_markers import count_markers

ROOT = Path(__file__).resolve().parents[1]
Tiny = Callable[[str], ChatModel]
QUESTIONS = ("Why is the sea blue?", "How do I make tea?", "Tell me about rivers.", "Name a tree.", "What is a star?")
TEXT = "The village stood at a place where two rivers met. " * 40


def examples(questions: Sequence[str] = QUESTIONS) -> tuple[Example, ...]:
    return tuple(Example(({"role": "user", "content": question},)) for question in questions)


def plan(**changes: Any) -> Plan:
    usual = Plan(harmful=examples(QUESTIONS[:3]), harmless=examples(), text=TEXT, max_new_tokens=12, rows=16)
    return replace(usual, **changes)


def measured(model: ChatModel, path: Path, the_plan: Plan | None = None, **others: Any) -> list[dict[str, Any]]:
    direction = oracle.make_direction(model, layer=1)
    rows = contestants(direction, coefficient=2.0, ask="Be a poet.", seed=0)
    records = RecordFile(path / RECORDS, {"seed": 0})
    Evaluation(model, rows, the_plan or plan(), **others).run(records)
    return records.records()


@pytest.fixture(scope="module")
def records(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return measured(tiny("qwen2"), tmp_path_factory.mktemp("run"))


def of(records: list[dict[str, Any]], side: str, variant: str) -> list[dict[str, Any]]:
    return [one for one in records if (one["side"], one["variant"]) == (side, variant)]


def test_every_contestant_answers_every_prompt(records: list[dict[str, Any]]) -> None:
    names = ["baseline", "ablated", "added", "subtracted", "random ablated", "random added", "prompted"]
    for name in names:
        assert len(of(records, "harmful", name)) == 3
        assert len(of(records, "harmless", name)) == 5
    assert {one["variant"] for one in records} == set(names)
    assert of(records, "text", "prompted") == []
    assert len({one["prompt"] for one in of(records, "harmless", "baseline")}) == 5


def test_the_figures_are_those_of_the_replies(records: list[dict[str, Any]], tiny: Tiny) -> None:
    """Each reply written and read by itself gives what the batch gave."""
    model = tiny("qwen2")
    direction = oracle.make_direction(model, layer=1)
    asked = [{"role": "user", "content": QUESTIONS[1]}]
    prompt = model.encode(asked)
    *_, base = stream_side_by_side(model, asked, [Variant.baseline()], max_new_tokens=12)
    for name, variant in (("ablated", Variant.ablated(direction)), ("added", Variant.added(direction, 2.0))):
        found = of(records, "harmless", name)[1]
        *_, last = stream_side_by_side(model, asked, [variant], max_new_tokens=12)
        [own] = reply_log_probabilities(model, [GivenReply(prompt, last.token_ids[0], Variant.baseline())])
        assert found["likelihood"] == pytest.approx(-float(own.mean()), abs=1e-4)
        [cost] = reply_log_probabilities(model, [GivenReply(prompt, base.token_ids[0], variant)])
        assert found["ce"] == pytest.approx(-float(cost.mean()), abs=1e-4)
        assert found["style"] == count_markers(last.answers[0]).per_100_words
        assert found["reads_as_ai"] == pytest.approx(float(ai_style().scores([last.answers[0]])[0]))
        assert found["tokens"] == len(last.token_ids[0])
        assert found["kl"] > 0
    plain = of(records, "harmless", "baseline")[1]
    assert (plain["kl"], plain["kl_first"]) == (0.0, 0.0)
    assert plain["ce"] == pytest.approx(plain["likelihood"], abs=1e-4)


def test_given_replies_are_predicted_instead_of_the_models_own(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen2")
    given = tuple(replace(one, response="Water flows down.") for one in examples())
    found = measured(model, tmp_path, plan(harmful=(), text="", harmless=given))
    ids = model.tokenizer("Water flows down.", add_special_tokens=False)["input_ids"]
    [expected] = reply_log_probabilities(
        model, [GivenReply(model.encode(list(given[2].messages)), ids, Variant.baseline())]
    )
    assert of(found, "harmless", "baseline")[2]["ce"] == pytest.approx(-float(expected.mean()), abs=1e-4)


def test_no_reply_is_kept_unless_that_is_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen2")
    replies = {}
    for keeps in ("nothing", "harmless", "all"):
        found = measured(model, tmp_path / keeps, plan(keeps=keeps))
        replies[keeps] = {
            side: [one.get("reply") for one in found if one["side"] == side] for side in ("harmful", "harmless")
        }
    assert set(replies["nothing"]["harmful"]) == set(replies["nothing"]["harmless"]) == {None}
    assert set(replies["harmless"]["harmful"]) == {None}
    assert None not in replies["harmless"]["harmless"]
    assert None not in replies["all"]["harmful"]
    # Not in another place of the file either, nor the prompts.
    written = (tmp_path / "nothing" / RECORDS).read_text(encoding="utf-8")
    long = [text for text in replies["all"]["harmful"] if len(text) > 8]
    assert long
    assert not any(json.dumps(text, ensure_ascii=False)[1:-1] in written for text in long)
    assert not any(question in written for question in QUESTIONS)


def test_system_prompts_are_asked_under_in_one_run(tiny: Tiny, tmp_path: Path) -> None:
    found = measured(tiny("qwen2"), tmp_path, plan(systems=("", "Be brief."), text="", harmful=()))
    likelihoods = [
        [one["likelihood"] for one in of(found, "harmless", "baseline") if one["system"] == n] for n in (0, 1)
    ]
    assert len(likelihoods[0]) == len(likelihoods[1]) == 5
    assert likelihoods[0] != likelihoods[1]
    assert {(row.system, row.variant) for row in table(found)} >= {(0, "prompted"), (1, "prompted")}


def test_an_edited_model_answers_for_its_contestant(
    tiny: Tiny, tmp_path: Path, family_folder: Callable[[str], Path]
) -> None:
    """The model itself in the place of the edited one costs nothing; one of another width is refused."""
    model = tiny("qwen2")
    direction = oracle.make_direction(model, layer=1)
    loaded: list[str] = []

    def load(source: str) -> ChatModel:
        loaded.append(source)
        return load_model(source, device="cpu", dtype="float32")

    rows = contestants(direction, coefficient=2.0, ask="…", checkpoints=[("same", str(family_folder("qwen2")))])
    records = RecordFile(tmp_path / RECORDS, {})
    Evaluation(model, rows, plan(), load).run(records)
    found = of(records.records(), "harmless", "same")
    assert [one["kl"] for one in found] == pytest.approx([0.0] * 5, abs=1e-9)
    assert len(loaded) == 1
    rows = contestants(direction, coefficient=2.0, ask="…", checkpoints=[("other", str(family_folder("gemma2")))])
    with pytest.raises(SteeringError, match="is not made from"):
        Evaluation(model, rows, plan(), load).run(RecordFile(tmp_path / "other" / RECORDS, {}))


class Lenient:
    """A judge that finds every second reply safe."""

    name = "lenient"

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        self.seen = [prompt for prompt, _ in pairs]
        return [("safe", "unsafe", "unclear")[n % 3] for n in range(len(pairs))]


def test_a_judge_reads_replies_to_harmful_prompts_alone(tiny: Tiny, tmp_path: Path) -> None:
    judge = Lenient()
    found = measured(tiny("qwen2"), tmp_path, plan(text=""), judge=judge)
    assert set(judge.seen) <= set(QUESTIONS[:3])
    assert all("verdict" in one for one in found if one["side"] == "harmful")
    assert not any("verdict" in one for one in found if one["side"] == "harmless")
    rows = [row for row in table(found) if row.metric == "safe_harmful"]
    counted = [one["verdict"] for one in of(found, "harmful", "added") if one["verdict"] != "unclear"]
    [own] = [row for row in rows if row.variant == "added"]
    assert own.figure.n == len(counted)
    assert own.figure.value == counted.count("safe") / len(counted)


def test_an_empty_reply_of_the_model_itself_breaks_nobody_elses(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen2")
    asked = [{"role": "user", "content": QUESTIONS[0]}]
    *_, own = stream_side_by_side(model, asked, [Variant.baseline()], max_new_tokens=1)
    monkeypatch.setitem(vars(model), "end_tokens", frozenset(own.token_ids[0]))  # the reply ends where it would begin
    found = measured(model, tmp_path, plan(harmful=(), text="", max_new_tokens=3))
    prompt = of(found, "harmless", "baseline")[0]["prompt"]
    of_prompt = {one["variant"]: one for one in found if one["prompt"] == prompt}
    assert (of_prompt["baseline"]["tokens"], of_prompt["baseline"]["reading"]) == (0, "broken")
    others = [one for one in of_prompt.values() if one["tokens"]]
    assert others
    assert any(one["reading"] != "broken" for one in others)


def test_names_of_contestants_are_their_own(tiny: Tiny) -> None:
    model = tiny("qwen2")
    direction = oracle.make_direction(model, layer=1)
    for twice in (["baseline"], ["edited", "edited"]):
        rows = contestants(direction, coefficient=2.0, ask="…", checkpoints=[(name, "a/folder") for name in twice])
        with pytest.raises(SteeringError, match=f"Two rows of the table would be called “{twice[0]}”"):
            Evaluation(model, rows, plan())


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(SteeringError, match="nothing to evaluate on"):
        Plan()
    with pytest.raises(SteeringError, match="a single harmless prompt"):
        Plan(harmless=examples(QUESTIONS[:1]))
    with pytest.raises(SteeringError, match="at least one token"):
        plan(max_new_tokens=0)
    with pytest.raises(SteeringError, match="A harmless prompt is there twice"):
        Plan(harmless=examples((*QUESTIONS, QUESTIONS[0])))
    with pytest.raises(SteeringError, match="repetition penalty"):
        plan(repetition_penalty=math.nan)


# ---------------------------------------------------------------- the table


def line(variant: str, prompt: int, **values: Any) -> dict[str, Any]:
    usual = {"phrase": False, "begins": False, "reading": "answered", "likelihood": 1.0, "tokens": 4}
    return {
        "model": "m",
        "system": 0,
        "side": "harmful",
        "variant": variant,
        "prompt": f"{prompt:02}",
        **usual,
        **values,
    }


def test_shares_means_and_pairs_are_those_of_statsmodels_and_scipy() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(40) < 0.7, rng.random(40) < 0.3
    costs = rng.normal(1.0, 0.3, 40), rng.normal(1.4, 0.3, 40)
    lines = [line("baseline", n, phrase=bool(before[n]), likelihood=costs[0][n]) for n in range(40)]
    lines += [line("ablated", n, phrase=bool(after[n]), likelihood=costs[1][n]) for n in reversed(range(40))]
    found = {(row.variant, row.metric): row for row in table(lines, seed=3)}
    share = found["ablated", "refusal_score_harmful"]
    low, high = proportion_confint(int(after.sum()), 40, method="wilson")
    assert (share.figure.value, share.figure.low, share.figure.high) == pytest.approx((after.mean(), low, high))
    counts = [[sum(before & after), sum(before & ~after)], [sum(~before & after), sum(~before & ~after)]]
    assert share.p == pytest.approx(mcnemar(counts, exact=True).pvalue)
    assert share.difference.value == pytest.approx(after.mean() - before.mean())
    mean = found["ablated", "ce_own_harmful"]
    assert mean.figure.value == pytest.approx(costs[1].mean())
    interval = bootstrap((costs[1],), np.mean, method="percentile", n_resamples=9_999, rng=5).confidence_interval
    assert mean.figure.low == pytest.approx(interval.low, abs=0.02)
    assert mean.figure.high == pytest.approx(interval.high, abs=0.02)
    assert mean.difference.value == pytest.approx((costs[1] - costs[0]).mean())
    assert mean.p is not None
    assert mean.p < 0.01
    assert found["baseline", "ce_own_harmful"].p is None


def test_the_papers_findings_agree_disagree_or_stay_open() -> None:
    def run(after: int, wrong: int) -> dict[str, str]:
        lines = [line("baseline", n, phrase=n < 30) for n in range(40)]
        lines += [line("ablated", n, phrase=n < after) for n in range(40)]
        lines += [line("random ablated", n, phrase=n < wrong) for n in range(40)]
        return {one.finding.claim: one.verdict for one in outcomes(lines)}

    found = run(after=2, wrong=29)
    assert found["Ablation ends refusal of harmful requests"] == "agrees"
    assert found["Ablating a random direction does not"] == "agrees"
    assert found["Addition makes it refuse harmless requests"] == "not measured"
    found = run(after=29, wrong=5)
    assert found["Ablation ends refusal of harmful requests"] == "open"
    assert found["Ablating a random direction does not"] == "disagrees"
    assert run(after=40, wrong=30)["Ablation ends refusal of harmful requests"] == "disagrees"


def test_two_runs_are_compared_prompt_by_prompt_where_they_share_prompts() -> None:
    first = [line("baseline", n, phrase=n < 8) for n in range(10)]
    second = [line("baseline", n, phrase=n < 2) for n in range(10)]
    [row] = [row for row in compare(first, second) if row.metric == "refusal_score_harmful"]
    assert (row.first.value, row.second.value) == (0.8, 0.2)
    assert row.difference.value == pytest.approx(-0.6)
    assert row.p == pytest.approx(2 * 0.5**6)
    elsewhere = [line("baseline", n + 50, phrase=n < 2) for n in range(10)]
    [row] = [row for row in compare(first, elsewhere) if row.metric == "refusal_score_harmful"]
    assert row.p is None
    assert row.difference.low < -0.6 < row.difference.high
    other = [one | {"model": "n"} for one in second]
    assert {row.model for row in compare(first, other)} == {"m → n"}
    assert "80%" in compared_markdown(compare(first, second), ("A", "B"))
    # Under several system prompts it is said which is which; a task stands there without a test.
    task = line("baseline", 0) | {
        "side": "tasks",
        "task": "sums",
        "metric": "acc",
        "value": 0.5,
        "low": 0.2,
        "high": 0.8,
    }
    runs = [[*run, *(one | {"system": 1} for one in run), task | {"n": n}] for run, n in ((first, 4), (second, 8))]
    rows = compare(*runs)
    [row] = [row for row in rows if row.metric == "sums:acc"]
    assert (row.first.n, row.second.n, row.p) == (4, 8, None)
    text = compared_markdown(rows, ("A", "B"), ["", "Be brief."])
    assert "### m, no system prompt" in text
    assert "### m, system prompt “Be brief.”" in text
    assert "<h2>m, system prompt “Be brief.”: baseline</h2>" in compared_page(rows, ("A", "B"), ["", "Be brief."])


def test_the_markdown_and_the_page_say_what_was_measured(records: list[dict[str, Any]]) -> None:
    rows = table(records)
    about = {"command": "python -m steering evaluate", "data": ["harmful: mine <b>"], "data_sha256": "abc", "seed": 0,
             "systems": [""], "judge": "", "versions": {"torch": "2"}}  # fmt: skip
    text = markdown(rows, about)
    assert "| Refusal score, harmful | 3 |" in text
    assert "safety: no judge" in text
    assert "judged by a/guard; 3 verdicts were" in markdown(rows, about | {"judge": "a/guard", "unclear_verdicts": 3})
    html = page(rows, about)
    assert "Over at most 5 prompts" in html  # not so many as the text has pieces
    assert "mine &lt;b&gt;" in html
    assert html.count("<figure>") == len({row.metric for row in rows})
    assert 'role="img" aria-label="CE, text: baseline ' in html
    shown = compared_page(compare(records, records), ("A", "B"))
    assert shown.count("<figure>") == len(compare(records, records))
    for row in rows:
        assert row.figure.low <= row.figure.value <= row.figure.high
        assert metric_of(row.metric) in METRICS
    assert json.dumps([row.as_json() for row in rows], allow_nan=False)


# ---------------------------------------------------------------- records


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / RECORDS
    records = RecordFile(file, {"seed": 0})
    records.add("b", [{"x": 1}])
    records.add("a", [{"x": 2}])
    whole = file.read_bytes()
    for end in range(1, len(whole)):
        file.write_bytes(whole[:end])
        again = RecordFile(file, {"seed": 0})
        assert [record["x"] for record in again.records()] in ([], [1], [2, 1])
        assert whole.startswith(file.read_bytes())
        for job, x in (("b", 1), ("a", 2)):
            if job not in again:
                again.add(job, [{"x": x}])
        assert file.read_bytes() == whole
    assert RecordFile(file, {"seed": 0}).records() == [{"x": 2}, {"x": 1}]


def test_records_of_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / RECORDS
    RecordFile(file, {"seed": 0, "tokens": 12}).claim("m", {"layer": 3})
    with pytest.raises(SteeringError, match="its tokens is 12, now it is 16"):
        RecordFile(file, {"seed": 0, "tokens": 16})
    again = RecordFile(file, {"seed": 0, "tokens": 12})
    again.claim("m", {"layer": 3})
    with pytest.raises(SteeringError, match="its layer is 3, now it is 4"):
        again.claim("m", {"layer": 4})
    assert again.records() == []
    with pytest.raises(SteeringError, match="Nothing was measured"):
        read_run(tmp_path)
    for damaged in (
        '{"run": []}',
        '{"run": {}}\n{"job": "a", "records": 3}',
        '{"run": {}}\n{"job": "a", "records": [3]}',
    ):
        (tmp_path / "damaged.jsonl").write_text(f"{damaged}\n", encoding="utf-8")
        with pytest.raises(SteeringError, match="is not of an evaluation"):
            read_run(tmp_path / "damaged.jsonl")
    with pytest.raises(SteeringError, match="There is no evaluation in"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "other.jsonl").write_text("hello\n", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"Line 1 of .*other.jsonl is not of an evaluation"):
        RecordFile(tmp_path / "other.jsonl", {})
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SteeringError, match="Choose another folder"):
        RecordFile(tmp_path / "file" / RECORDS, {})


# ---------------------------------------------------------------- killed


@pytest.fixture
def command(family_folder: Callable[[str], Path], tiny: Tiny, tmp_path: Path) -> Callable[[Path], list[str]]:
    direction = oracle.make_direction(tiny("qwen2"), layer=1).save(tmp_path / "direction.safetensors")
    model = str(family_folder("qwen2"))

    def arguments(out: Path) -> list[str]:
        size = ["--n", "6", "--tokens", "10", "--rows", "7", "--no-orthogonalized", "--quiet"]
        which = ["--model", model, "--device", "cpu", "--direction", str(direction)]
        return [sys.executable, "-m", "steering", "evaluate", *which, *size, "--out", str(out)]

    return arguments


def test_killed_five_times_it_ends_as_if_it_had_not_been(command: Callable[[Path], list[str]], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    subprocess.run(command(straight), cwd=ROOT, env=environment, check=True, capture_output=True)
    file, sizes = killed / RECORDS, [0]
    for _ in range(5):
        running = subprocess.Popen(
            command(killed), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while running.poll() is None and (file.stat().st_size if file.exists() else 0) <= sizes[-1]:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL  # it was killed at work, not after its end
        sizes.append(file.stat().st_size)
    assert sizes == sorted(set(sizes))  # each time it had gone on
    with file.open("ab") as torn:  # and the last time it was stopped in the middle of a line
        torn.write(b'{"job": "qw')
    subprocess.run(command(killed), cwd=ROOT, env=environment, check=True, capture_output=True)
    assert file.read_bytes() == (straight / RECORDS).read_bytes()
    tables = [json.loads((folder / "table.json").read_text(encoding="utf-8")) for folder in (straight, killed)]
    assert tables[0]["rows"] == tables[1]["rows"]
    assert all(math.isfinite(row["value"]) for row in tables[0]["rows"] if row["value"] is not None)


def test_what_a_person_wrote_stays_within_its_cell(records: list[dict[str, Any]]) -> None:
    rows = table([one | {"system": place} for place in (0, 1) for one in records if one["side"] == "harmless"])
    text = markdown(rows, {"systems": ["", "Be | brief.\n\nAlways."]})
    [line] = [line for line in text.splitlines() if line.startswith("### qwen2, system prompt")]
    assert line == "### qwen2, system prompt “Be \\| brief. Always.”"
    first = next(line for line in text.splitlines() if line.startswith("| qwen2, system prompt"))
    assert first.replace("\\|", "").count("|") == text.splitlines()[2].count("|")
