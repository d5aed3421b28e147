"""Watch one idea inside a language model: directions in its residual stream, taken out and turned up side by side.

The method is that of Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction"
(arXiv 2406.11717). Names are imported on first use, so that a program can show itself before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.contrast import ContrastSet, Example
    from steering.directions import Candidates, Direction, difference_in_means
    from steering.errors import SteeringError
    from steering.generation import Step, stream_side_by_side
    from steering.interventions import Ablation, Addition, Variant
    from steering.models import ChatModel, load_model

_HOMES = {
    "Ablation": "interventions",
    "Addition": "interventions",
    "Candidates": "directions",
    "ChatModel": "models",
    "ContrastSet": "contrast",
    "Direction": "directions",
    "Example": "contrast",
    "SteeringError": "errors",
    "Step": "generation",
    "Variant": "interventions",
    "difference_in_means": "directions",
    "load_model": "models",
    "stream_side_by_side": "generation",
}

__all__ = [
    "Ablation",
    "Addition",
    "Candidates",
    "ChatModel",
    "ContrastSet",
    "Direction",
    "Example",
    "SteeringError",
    "Step",
    "Variant",
    "difference_in_means",
    "load_model",
    "stream_side_by_side",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module “steering” has no “{name}”")
    return getattr(import_module(f"steering.{_HOMES[name]}"), name)
