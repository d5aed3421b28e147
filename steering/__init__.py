"""Watch one idea inside a language model: directions in its residual stream, taken out and turned up side by side.

The method is that of Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction"
(arXiv 2406.11717). Names are imported on first use, so that a program can show itself before torch is loaded.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.added_checkpoint import add_to_weights
    from steering.contrast import ContrastSet, Example
    from steering.directions import Candidates, Direction, difference_in_means
    from steering.errors import SteeringError
    from steering.exchange import export_direction, import_direction
    from steering.exchange_lens import transformer_lens_hooks
    from steering.finding import score_candidates
    from steering.generation import Step, stream_side_by_side
    from steering.interventions import Ablation, Addition, AffineAblation, Capping, Variant
    from steering.lora_adapter import write_adapter
    from steering.models import ChatModel, load_model
    from steering.orthogonalize import orthogonalize
    from steering.selection import CandidateScore, NoCandidateError, select_candidate

_HOMES = {
    "Ablation": "interventions",
    "Addition": "interventions",
    "AffineAblation": "interventions",
    "CandidateScore": "selection",
    "Candidates": "directions",
    "Capping": "interventions",
    "ChatModel": "models",
    "ContrastSet": "contrast",
    "Direction": "directions",
    "Example": "contrast",
    "NoCandidateError": "selection",
    "SteeringError": "errors",
    "Step": "generation",
    "Variant": "interventions",
    "add_to_weights": "added_checkpoint",
    "difference_in_means": "directions",
    "export_direction": "exchange",
    "import_direction": "exchange",
    "load_model": "models",
    "orthogonalize": "orthogonalize",
    "score_candidates": "finding",
    "select_candidate": "selection",
    "stream_side_by_side": "generation",
    "transformer_lens_hooks": "exchange_lens",
    "write_adapter": "lora_adapter",
}

__all__ = [
    "Ablation",
    "Addition",
    "AffineAblation",
    "CandidateScore",
    "Candidates",
    "Capping",
    "ChatModel",
    "ContrastSet",
    "Direction",
    "Example",
    "NoCandidateError",
    "SteeringError",
    "Step",
    "Variant",
    "add_to_weights",
    "difference_in_means",
    "export_direction",
    "import_direction",
    "load_model",
    "orthogonalize",
    "score_candidates",
    "select_candidate",
    "stream_side_by_side",
    "transformer_lens_hooks",
    "write_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module “steering” has no “{name}”")
    return getattr(import_module(f"steering.{_HOMES[name]}"), name)


class _Package(ModuleType):
    """This package, in which a public name is never hidden by the module of the same name (``orthogonalize``).

    Importing a module sets it as an attribute of its package; here that attribute becomes what bears its name in it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_hiding = isinstance(value, ModuleType) and _HOMES.get(name) == name
        super().__setattr__(name, getattr(value, name) if is_hiding else value)


sys.modules[__name__].__class__ = _Package
