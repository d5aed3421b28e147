"""Where the paper's code read the refusal direction of its models, for comparison with what is selected here.

Its repository (github.com/andyrdt/refusal_direction, pipeline/runs/…/direction_metadata.json) publishes the choice for
five of the paper's thirteen models; the others are not listed here rather than copied from a table by hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperChoice:
    """(position, layer) of the refusal direction, and the model's number of layers."""

    position: int
    layer: int
    n_layers: int

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"For refusal on this model the paper’s code chose position −{-self.position}, layer {self.layer} of "
            f"{self.n_layers}."
        )


PAPER_CHOICES = {
    "google/gemma-2b-it": PaperChoice(-2, 10, 18),
    "meta-llama/Llama-2-7b-chat-hf": PaperChoice(-1, 14, 32),
    "meta-llama/Meta-Llama-3-8B-Instruct": PaperChoice(-5, 12, 32),
    "Qwen/Qwen-1_8B-Chat": PaperChoice(-2, 15, 24),
    "01-ai/Yi-6B-Chat": PaperChoice(-5, 20, 32),
}


def paper_choice(model_name: str) -> PaperChoice | None:
    """The paper's choice for a model of the hub, by its id; None for all others."""
    return {name.lower(): choice for name, choice in PAPER_CHOICES.items()}.get(model_name.lower())
