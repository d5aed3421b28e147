"""lm-eval on variants: one by one without batching, beside lm-eval's own model, and through local tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM

from steering.direction import Direction
from steering.errors import SteeringError
from steering.figures import bootstrapped, wilson
from steering.interventions import Steering, Variant
from steering.lm_harness import COHERENCE_TASKS, TaskFigure, run_tasks
from steering.lm_harness_model import SteeredLM
from steering.models import ChatModel, load_model

PAIRS = [
    ("The sky is", " blue"),
    ("The sky is", " green and full of clouds"),
    ("A long sentence about a river that winds through the hills and ends in the", " sea"),
    ("Two and two", " are four"),
    ("", "Once upon a time"),
    ("Trailing space ", "here"),
]
CHOICES = [
    {"question": "The sky is", "choices": [" blue", " iron", " seven"], "answer": 0},
    {"question": "A cat is an", "choices": [" animal", " ocean", " hour"], "answer": 0},
    {"question": "Two and two are", "choices": [" nine", " four", " red"], "answer": 1},
    {"question": "Fish live in the", "choices": [" fire", " sand", " water"], "answer": 2},
    {"question": "At night it is", "choices": [" dark", " loud", " square"], "answer": 0},
]


def asked(pairs: list[tuple[object, ...]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=pair, task_name="none") for pair in pairs]


def direction_for(model: ChatModel) -> Direction:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(5))
    unit = vector / vector.norm()
    return Direction(unit, unit[None], 1, -1, 1.0, "a direction", {"n_layers": model.n_layers})


def variants_of(model: ChatModel) -> list[Variant]:
    direction = direction_for(model)
    return [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 2.0)]


def plain_likelihood(
    model: ChatModel, variant: Variant, context: list[int], continuation: list[int]
) -> tuple[float, bool]:
    """Alone, without padding, all logits, summed in float64."""
    with torch.inference_mode(), Steering(model, [variant]).applied():
        logits = model.model(input_ids=torch.tensor([context + continuation]), use_cache=False).logits[0].double()
    rows = logits.log_softmax(dim=-1)[len(context) - 1 : -1]
    return (
        sum(float(row[token]) for row, token in zip(rows, continuation, strict=True)),
        all(int(row.argmax()) == token for row, token in zip(rows, continuation, strict=True)),
    )


@pytest.mark.parametrize("family", ["llama2", "gemma2", "gpt-neox", "cohere"])
def test_likelihoods_equal_those_read_one_by_one(family: str, tiny: Callable[[str], ChatModel]) -> None:
    model = tiny(family)
    for variant in variants_of(model):
        lm = SteeredLM(model, variant, batch_size=4)
        found = lm.loglikelihood(asked(PAIRS))
        for (context, continuation), (value, greedy) in zip(PAIRS, found, strict=True):
            if context:
                ids, wanted = lm._encode_pair(context, continuation)
            else:
                ids, wanted = [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
                if wanted[0] == ids[0]:
                    ids, wanted = wanted[:1], wanted[1:]
            expected, is_greedy = plain_likelihood(model, variant, ids, wanted)
            assert value == pytest.approx(expected, abs=1e-3)
            assert greedy == is_greedy
        alone = SteeredLM(model, variant, batch_size=1).loglikelihood(asked(PAIRS))
        assert [value for value, _ in alone] == pytest.approx([value for value, _ in found], abs=1e-3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


@pytest.fixture(scope="module")
def own(family_folder: Callable[[str], Path]) -> tuple[ChatModel, HFLM]:
    """A model of ours, and lm-eval's own around the same weights; its tokenizer is its own, for it changes it."""
    model = load_model(str(family_folder("llama2")), device="cpu", dtype=torch.float32)
    other = load_model(str(family_folder("llama2")), device="cpu", dtype=torch.float32)
    return model, HFLM(pretrained=other.model, tokenizer=other.tokenizer, batch_size=2, max_length=64)


def test_the_baseline_is_lm_evals_own_model(own: tuple[ChatModel, HFLM], monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = own
    monkeypatch.setattr(SteeredLM, "max_length", 64)  # so that long texts are cut and read in windows
    lm = SteeredLM(model, Variant.baseline(), batch_size=3)
    pairs = [*PAIRS, ("many words " * 60, "and an end")]
    for ours, theirs in zip(lm.loglikelihood(asked(pairs)), other.loglikelihood(asked(pairs)), strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
        assert ours[1] == theirs[1]
    texts = [("A short text.",), ("A text that is far too long for one window. " * 12,)]
    assert lm.loglikelihood_rolling(asked(texts)) == pytest.approx(
        [float(x) for x in other.loglikelihood_rolling(asked(texts))], rel=1e-4
    )
    settings = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    requests = [(context, dict(settings)) for context, _ in pairs if context]
    assert lm.generate_until(asked(requests)) == other.generate_until(asked(requests))
    # A stop that comes inside what is written.
    whole = lm.generate_until(asked(requests[:1]))[0]
    stop = whole[len(whole) // 2 :][:2]
    requests = [(requests[0][0], {**settings, "until": [stop]})]
    assert lm.generate_until(asked(requests)) == other.generate_until(asked(requests)) == [whole.split(stop)[0]]


def test_what_is_written_is_what_the_engine_writes(tiny: Callable[[str], ChatModel]) -> None:
    from steering.generation import stream_side_by_side

    model = tiny("llama3")
    conversations = [[{"role": "user", "content": text}] for text in ("Name a colour.", "Say hello to a neighbour.")]
    for variant in variants_of(model):
        lm = SteeredLM(model, variant)
        *_, last = stream_side_by_side(model, conversations, [variant] * 2, max_new_tokens=10)
        contexts = [lm.apply_chat_template(conversation) for conversation in conversations]
        written = lm.generate_until(asked([(context, {"max_gen_toks": 10, "until": []}) for context in contexts]))
        assert written == last.texts


def test_a_variants_own_system_prompt_stands_in_the_chat(bundled: ChatModel) -> None:
    history = [{"role": "user", "content": "Hello"}]
    plain, told = (SteeredLM(bundled, Variant("told", system=system)) for system in (None, "Answer in verse."))
    assert "Answer in verse." not in plain.apply_chat_template(history)
    assert told.apply_chat_template(history).index("Answer in verse.") < told.apply_chat_template(history).index(
        "Hello"
    )
    begun = [*history, {"role": "assistant", "content": "Well"}]
    assert told.apply_chat_template(begun, add_generation_prompt=False).endswith("Well")
    with pytest.raises(SteeringError, match="“told” has a system prompt, which has no place in plain text"):
        run_tasks(bundled, [told.variant], ["nothing"])


def test_settings_that_there_are_not_are_refused(tiny: Callable[[str], ChatModel]) -> None:
    lm = SteeredLM(tiny("llama2"), Variant.baseline())
    with pytest.raises(SteeringError, match="asks for top_k in writing"):
        lm.generate_until(asked([("A", {"do_sample": True, "temperature": 1.0, "top_k": 3})]))
    with pytest.raises(SteeringError, match=r"replies have \d+ tokens, .* reads at most"):
        lm.generate_until(asked([("A", {"max_gen_toks": lm.max_length})]))
    with pytest.raises(SteeringError, match=r"A text to be scored has \d+ tokens"):
        lm.loglikelihood(asked([("A", " word" * (lm.max_length + 10))]))
    sampled = [("A river", {"do_sample": True, "temperature": 2.0, "max_gen_toks": 8})] * 2
    assert lm.generate_until(asked(sampled)) == lm.generate_until(asked(sampled))


@pytest.fixture(scope="module")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two harmless tasks and a group of the first twice over, their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, CHOICES)))
    where = {"data_files": {"test": str(folder / "choices.jsonl")}, "cache_dir": str(folder / "cache")}
    common = {"dataset_path": "json", "dataset_kwargs": where, "test_split": "test"}
    choose = common | {
        "task": "local_choices",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    write = common | {
        "task": "local_writing",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    read = common | {
        "task": "local_reading",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}{{choices[answer]}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    for task in (choose, choose | {"task": "local_choices_again"}, write, read):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))  # JSON is YAML
    group = {
        "group": "local_group",
        "task": ["local_choices", "local_choices_again"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (folder / "local_group.yaml").write_text(json.dumps(group))
    return folder


def test_tasks_are_run_on_each_variant_with_intervals(
    bundled_float32: ChatModel, task_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundled_float32
    variants = [Variant.baseline(), Variant.added(direction_for(model), 60.0)]
    heard: list[float] = []
    figures = run_tasks(
        model,
        variants,
        [task_files / "local_choices.yaml", "local_writing", "local_reading", "local_group"],
        include_path=task_files,
        progress=lambda what, done, total: heard.append(done / total),
    )
    table = {(one.variant, one.task, one.metric): one.figure for one in figures}
    assert len(table) == len(figures) == 2 * (2 + 1 + 1 + 2)
    assert max(heard) == 1
    for variant in variants:
        lm = SteeredLM(model, variant, batch_size=1)
        pairs = [[(row["question"], choice) for choice in row["choices"]] for row in CHOICES]
        likelihoods = [[value for value, _ in lm.loglikelihood(asked(of_one))] for of_one in pairs]
        right = [int(np.argmax(values)) == row["answer"] for values, row in zip(likelihoods, CHOICES, strict=True)]
        assert table[variant.name, "local_choices", "acc"] == wilson(sum(right), 5)
        assert table[variant.name, "local_group", "acc"] == wilson(2 * sum(right), 10)
        perplexity = table[variant.name, "local_reading", "byte_perplexity"]
        texts = [row["question"] + row["choices"][row["answer"]] for row in CHOICES]
        nats = -sum(lm.loglikelihood_rolling(asked([(text,) for text in texts])))
        assert perplexity.value == pytest.approx(np.exp(nats / sum(map(len, texts))), rel=1e-3)
        assert (perplexity.n, perplexity.has_interval) == (5, False)
    assert table["baseline", "local_choices", "acc"].value > 0.5
    assert (
        table["baseline", "local_reading", "byte_perplexity"].value
        < table["added", "local_reading", "byte_perplexity"].value
    )
    limited = run_tasks(model, variants[:1], ["local_choices"], include_path=task_files, limit=2)
    assert [one.figure.n for one in limited] == [2, 2]
    chat = run_tasks(
        model, [Variant("told", system="Be brief.")], ["local_choices"], include_path=task_files, chat=True
    )
    assert isinstance(chat[0], TaskFigure)
    assert [path.name for path in task_files.iterdir() if path.suffix not in (".yaml", ".jsonl")] == ["cache"]


def test_the_mean_of_scores_between_0_and_1_is_bootstrapped() -> None:
    from steering.lm_harness import _mean

    values = np.array([0.25, 1.0, 0.5, 0.0])
    assert _mean(values, seed=3) == bootstrapped([values], np.mean, seed=3)


def test_a_task_that_cannot_be_had_is_named(
    tiny: Callable[[str], ChatModel], task_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    model = tiny("llama2")
    away = json.loads((task_files / "local_choices.yaml").read_text())
    away |= {"task": "away", "dataset_path": "nobody/nothing", "dataset_kwargs": {"cache_dir": str(tmp_path)}}
    (tmp_path / "away.yaml").write_text(json.dumps(away))
    with pytest.raises(SteeringError, match=r"The task “.*away.yaml” cannot be had: .*connect, or choose another task"):
        run_tasks(model, [Variant.baseline()], [tmp_path / "away.yaml"])
    torn = json.loads((task_files / "local_choices.yaml").read_text()) | {
        "task": "torn",
        "doc_to_target": "{{nothing}}",
    }
    (tmp_path / "torn.yaml").write_text(json.dumps(torn))
    with pytest.raises(SteeringError, match=r"The task “.*torn.yaml” cannot be "):
        run_tasks(model, [Variant.baseline()], [tmp_path / "torn.yaml"])


def test_without_lm_eval_a_sentence_says_how_to_get_it(
    tiny: Callable[[str], ChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(SteeringError, match="pip install lm-eval"):
        run_tasks(tiny("llama2"), [Variant.baseline()], ["arc_easy"])


def test_the_presets_tasks_are_known_and_others_refused(tiny: Callable[[str], ChatModel]) -> None:
    from steering.lm_harness import _loaded, _manager

    manager = _manager(COHERENCE_TASKS, None)
    assert set(COHERENCE_TASKS) <= {*manager.all_tasks}
    with pytest.raises(SteeringError, match="lm-eval knows no task “nonsense”"):
        _loaded(manager, "nonsense", None)
