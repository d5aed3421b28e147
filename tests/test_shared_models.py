"""Several processes that hold one model, or share out the work, against one process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shared_program

from steering.errors import ModelError
from steering.models import ChatModel
from steering.tensor_parallel import require_divisible

HERE = Path(__file__).parent
FAMILIES = ("llama3", "qwen3", "gemma2", "qwen3-moe")
SECONDS_TO_END = 30


def together(how: str, folder: Path | str, out: Path, n: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `shared_program` in ``n`` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.run(
        [*command, str(HERE / "shared_program.py"), how, str(folder), str(out)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCH_SHOW_CPP_STACKTRACES": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def close(found: Any, expected: Any, within: float) -> bool:
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            close(one, other, within) for one, other in zip(found, expected, strict=True)
        )
    if isinstance(expected, float):
        return abs(found - expected) <= within or (math.isnan(found) and math.isnan(expected)) or found == expected
    return bool(found == expected)


@pytest.fixture(scope="module")
def alone(tiny: Callable[[str], ChatModel]) -> Callable[[str], dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in found:  # as JSON has it
            found[name] = json.loads(json.dumps(shared_program.everything(tiny(name))))
        return found[name]

    return of


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_in_two_processes_does_what_it_does_in_one(
    name: str,
    alone: Callable[[str], dict[str, Any]],
    tiny: Callable[[str], ChatModel],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "found.json"
    result = together("tensor", family_folder(name), out)
    assert result.returncode == 0, result.stderr[-3000:]
    found, expected = json.loads(out.read_text()), alone(name)
    assert found["chat"]["texts"] == expected["chat"]["texts"]
    assert len({json.dumps(ids) for turn in expected["chat"]["texts"] for ids in turn}) > 3, "the variants do nothing"
    # What blocks are given, hooks see whole and as a plain tensor.
    assert found["chat"]["streams"] == [["Tensor", tiny(name).d_model]]
    assert close(found["chat"]["cosines"], expected["chat"]["cosines"], 1e-4)
    assert found["chat"]["fingerprint"] == expected["chat"]["fingerprint"]
    for kind in ("prompts", "responses"):
        assert close(found["finding"][kind]["vectors"], expected["finding"][kind]["vectors"], 1e-4)
        assert close(found["finding"][kind]["scores"], expected["finding"][kind]["scores"], 1e-3)
    assert found["winner"]["place"] == expected["winner"]["place"]


def test_examples_shared_out_give_the_same_directions_bit_for_bit_and_the_same_scores(
    alone: Callable[[str], dict[str, Any]], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    result = together("data", family_folder("llama3"), out, n=3)
    assert result.returncode == 0, result.stderr[-3000:]
    found, expected = json.loads(out.read_text()), alone("llama3")
    for kind in ("prompts", "responses"):
        assert found["finding"][kind]["vectors"] == expected["finding"][kind]["vectors"]
        assert found["finding"][kind]["norms"] == expected["finding"][kind]["norms"]
        assert close(found["finding"][kind]["scores"], expected["finding"][kind]["scores"], 1e-5)
    assert found["winner"] == expected["winner"]


LOST = "One of the 2 processes that run the model together has ended or stands still"
NO_MEMORY = "Memory ran out in the middle of a step that all processes share"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("dies", LOST),
        ("dies later", LOST),
        ("leader dies", LOST),
        ("leader dies later", LOST),
        ("stands", LOST),
        ("fails", NO_MEMORY),
    ],
)
def test_a_process_that_is_gone_or_stands_still_ends_the_run_with_a_sentence(
    how: str, sentence: str, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    gone = tmp_path / "when"
    result = together(how, family_folder("llama3"), gone)
    assert time.time() - float(gone.read_text()) < SECONDS_TO_END
    assert result.returncode != 0
    assert sentence in result.stderr
    assert "Start all of them again." in result.stderr


def test_heads_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    result = together("tensor", "bundled", tmp_path / "none")
    assert (
        "Refused: This model's attention has 9 heads (3 of keys and values), which 2 processes cannot" in result.stdout
    )
    assert "Start 3 of them, or one" in result.stdout
    with pytest.raises(ModelError, match="Start one, or choose another model"):
        require_divisible({"num_attention_heads": 7, "num_key_value_heads": 1}, 2)
    require_divisible({"num_attention_heads": 8, "num_key_value_heads": 2}, 2)


def test_a_process_that_cannot_load_its_share_ends_all(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    result = together("one cannot", family_folder("llama3"), tmp_path / "none")
    assert "Refused: Another process could not load its share of the model; what it printed says why." in result.stdout
    assert "Process 1: This model needs 9.0 GB of memory." in result.stderr
