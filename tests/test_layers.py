"""Imports point one way, Gradio stays in the page, and nothing here unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "steering"

# From what stands on nothing to what stands on everything; a module imports from its own row and from those above.
LAYERS = (
    (
        "errors",
        "exchange_kinds",
        "figures",
        "paired",
        "paper_choices",
        "pass_lock",
        "progress",
        "style_markers",
        "version",
        "whole_files",
    ),
    (
        "architectures",
        "contrast_examples",
        "contrast_files",
        "contrast_rows",
        "near_duplicates",
        "out_of_memory",
        "own_words",
        "packed",
        "processes",
        "processes_here",
        "prompt_trees",
        "template",
        "tensor_files",
        "weights",
    ),
    ("float32_linear", "machine"),
    ("catalogue", "model_files", "models", "placement"),
    ("activations", "contrast", "named_set_files", "named_sets", "tree_masks"),
    (
        "direction",
        "direction_files",
        "directions",
        "interventions",
        "metrics",
        "neutral_means",
        "refusals",
        "row_interventions",
        "separation",
        "stream_edits",
        "style_classifier",
        "variants",
    ),
    (
        "candidate_search",
        "data_parallel",
        "effect_curve",
        "finding",
        "preparation",
        "remainders",
        "score_store",
        "scoring",
        "selection",
        "step_costs",
        "subspace",
        "tree_pass",
        "trust",
        "trust_card",
        "trust_controls",
    ),
    (
        "added_checkpoint",
        "checkpoints",
        "companion_files",
        "continuations",
        "conversation",
        "decoder_choice",
        "decoders",
        "direction_card",
        "edited_folder",
        "edited_model_card",
        "edited_shards",
        "exchange",
        "exchange_document",
        "exchange_files",
        "exchange_foreign",
        "exchange_gguf",
        "exchange_lens",
        "exchange_tools",
        "export_check",
        "fused",
        "fused_model",
        "generation",
        "hub",
        "joined_linear",
        "kept_rows",
        "key_values",
        "lora_adapter",
        "module_decoder",
        "orthogonalize",
        "replies",
        "reply_batch",
        "reply_logits",
        "reply_steps",
        "row_cache",
        "sampling",
        "shared_models",
        "tensor_parallel",
        "thoughts",
        "weight_edits",
    ),
    (
        "attribution",
        "calibration",
        "contestants",
        "evaluate",
        "evaluation_findings",
        "evaluation_metrics",
        "evaluation_page",
        "evaluation_records",
        "evaluation_table",
        "evaluation_words",
        "explain",
        "explain_tables",
        "head_attention",
        "judges",
        "lm_harness",
        "lm_harness_model",
        "report",
        "report_page",
        "report_pictures",
        "report_shell",
        "reply_readings",
        "suffixes",
    ),
    ("preset_directions",),
    (
        "cli",
        "cli_chat",
        "cli_evaluate",
        "cli_explain",
        "cli_exchange",
        "cli_hub",
        "cli_output",
        "cli_processes",
        "__main__",
        "ui",
    ),
)


def module_name(path: Path) -> str:
    return ".".join(("steering", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@cache
def trees() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """Every module that ``name`` imports anywhere in it, also for its annotations only."""
    found: set[str] = set()
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            # `from steering import template` imports a module, `from steering.errors import X` a name.
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in trees() else node.module)
    return found


def own_imports(name: str) -> set[str]:
    return {module for module in imported(name) if module in trees() and module != name}


def rank(module: str) -> int:
    part = module.split(".")[1]
    ranks = [place for place, row in enumerate(LAYERS) if part in row]
    assert len(ranks) == 1, f"Say in LAYERS where {module} stands."
    return ranks[0]


MODULES = sorted(set(trees()) - {"steering"})


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    upward = {module for module in own_imports(name) if module != "steering" and rank(module) > rank(name)}
    assert not upward


def test_there_is_no_cycle() -> None:
    graph = {name: own_imports(name) for name in MODULES}
    assert sum(len(modules) for modules in graph.values()) > 30
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_gradio_is_imported_by_the_page_only(name: str) -> None:
    outside = not name.startswith("steering.ui")
    assert not (outside and any(module.split(".")[0] == "gradio" for module in imported(name)))


def test_nothing_is_unpickled_and_no_model_brings_code() -> None:
    for name, tree in trees().items():
        assert not {module.split(".")[0] for module in imported(name)} & {"pickle", "cloudpickle", "dill", "joblib"}, (
            name
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
            if isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name):
                assert node.value.id not in {"torch", "pickle", "numpy", "np"}, f"{name} line {node.lineno}"


def test_importing_the_library_waits_for_nothing_heavy() -> None:
    """A program must be able to show itself before torch is loaded."""
    heavy = "torch", "transformers", "gradio", "numpy", "scipy"
    code = f"import sys, steering, steering.errors; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"


def test_every_public_name_can_be_had() -> None:
    import steering

    for name in steering.__all__:
        assert getattr(steering, name).__name__ == name
    with pytest.raises(AttributeError, match="no “nonsense”"):
        steering.nonsense  # noqa: B018
