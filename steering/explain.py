"""What a direction looks like from inside: where along the layers it shows, and which tokens it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.activations import EXAMPLES_A_BATCH, ResidualReader
from steering.errors import DirectionError
from steering.figures import auroc
from steering.interventions import Steering, Variant
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.contrast import Example
    from steering.directions import Direction
    from steering.models import ChatModel

MOST_PROMPTS = 32  # of each side of a set, that are shown


@dataclass(frozen=True, eq=False)
class Profile:
    """How much of a direction stands at the last token of prompts, layer by layer.

    Attributes:
        cosines: cos(x^(l), r̂), float32 ``[n_prompts, n_layers]``.
        projections: ⟨x^(l), r̂⟩, float32 ``[n_prompts, n_layers]``.
    """

    cosines: Tensor
    projections: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean cosine over the prompts, ``[n_layers]``."""
        return self.cosines.mean(dim=0)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the cosine over the prompts, ``[n_layers]``; 0 for a single one."""
        return self.cosines.std(dim=0, correction=1 if len(self.cosines) > 1 else 0)


def layer_profile(
    model: ChatModel,
    direction: Direction,
    examples: Sequence[Example],
    variant: Variant | None = None,
    *,
    batch_size: int = EXAMPLES_A_BATCH,
    progress: Progress = silent,
) -> Profile:
    """The profile of a direction over some prompts, under a variant or in the model as it is.

    Layer l is what block l reads, after what the variant does at its entry. Of examples with a response it is the mean
    of the stream over the response.

    Raises:
        DirectionError: if the direction does not fit the model, or there is no prompt.
    """
    direction.require_fit(model)
    if not examples:
        raise DirectionError("There is no prompt to look at. Give at least one.")
    steering = Steering(model, [variant]) if variant is not None and variant.interventions else None
    reader = ResidualReader(model, examples, batch_size, within=steering.applied if steering else nullcontext)
    unit = direction.ablation_unit.float()
    projections = torch.empty(len(examples), model.n_layers)
    lengths = torch.empty(len(examples), model.n_layers)
    for indices, batch, _ in reader.read(progress):
        at_last = batch[:, -1]  # [batch, n_layers, d_model]
        projections[indices] = at_last @ unit
        lengths[indices] = at_last.norm(dim=-1)
    return Profile(projections / lengths.clamp_min(1e-12), projections)


def side_profiles(
    model: ChatModel,
    direction: Direction,
    positive: Sequence[Example],
    negative: Sequence[Example],
    progress: Progress = silent,
) -> dict[str, Profile]:
    """The profiles of a set's two sides, by their names for people; of at most :data:`MOST_PROMPTS` of each."""
    return {
        name: layer_profile(model, direction, side[:MOST_PROMPTS], progress=progress)
        for name, side in (("with the idea", positive), ("without it", negative))
    }


@dataclass(frozen=True)
class Neighbours:
    """The tokens a direction speaks for, strongest first: (text, how much a unit of r̂ raises their logit)."""

    promoted: list[tuple[str, float]]
    demoted: list[tuple[str, float]]


def neighbours(model: ChatModel, direction: Direction, n: int = 20) -> Neighbours:
    """The tokens whose logits the unit vector of what is added raises and lowers most, by the logit lens.

    r̂ is taken through the final norm's factors and the output matrix, as if it stood alone in the last layer; what the
    norm divides by is left out, for it depends on everything else that stands there.

    Raises:
        DirectionError: if the direction does not fit the model.
    """
    direction.require_fit(model)
    head: Any = model.model.get_output_embeddings()
    with torch.inference_mode():
        seen = _through_final_norm(model, direction.unit)
        logits = torch.nn.functional.linear(seen.to(head.weight), head.weight).float().cpu()
    n_tokens = min(len(model.tokenizer), len(logits))
    logits = logits[:n_tokens] - logits[:n_tokens].mean()
    return Neighbours(*(_tokens(model, sign, logits, n) for sign in (1, -1)))


def _tokens(model: ChatModel, sign: int, logits: Tensor, n: int) -> list[tuple[str, float]]:
    best = (sign * logits).topk(min(n, len(logits))).indices.tolist()
    return [(model.tokenizer.decode([token]), float(logits[token])) for token in best]


def _through_final_norm(model: ChatModel, unit: Tensor) -> Tensor:
    """A vector as the final norm passes it on, but for what it divides by, float32 ``[d_model]``.

    What each number is multiplied by is read off the norm itself, at numbers whose mean is zero and whose square is
    one: families write it down in different ways. Layer norms also take the mean away.
    """
    norm: Any = model.architecture.final_norm
    signs = torch.ones(model.d_model, dtype=model.dtype, device=model.device)
    takes_mean = bool((norm(signs) - norm(-signs)).abs().max() < 1e-3)
    signs[1::2] = -1
    factors = (norm(signs) - norm(-signs)).float() / 2 * signs.float()
    unit = unit.to(factors)
    return factors * (unit - unit.mean() if takes_mean else unit)


@dataclass(frozen=True, eq=False)
class BaseComparison:
    """How well one direction tells the two sides of a set apart, in a chat model and in its base, layer by layer.

    Attributes:
        chat, base: the chance that a prompt with the idea lies further along r̂ than one without, ``[n_layers]``.
        chat_profiles, base_profiles: behind them, of the side with the idea and of the other.
    """

    chat: list[float]
    base: list[float]
    chat_profiles: tuple[Profile, Profile]
    base_profiles: tuple[Profile, Profile]


def compare_with_base(
    chat: ChatModel,
    base: ChatModel,
    direction: Direction,
    positive: Sequence[Example],
    negative: Sequence[Example],
    *,
    progress: Progress = silent,
) -> BaseComparison:
    """Read the same prompts in a chat model and in the base model that it was made from.

    Args:
        base: loaded with the chat model's template (``load_model(…, chat_template=…)``).

    Raises:
        DirectionError: if the direction does not fit both models, or a side is empty.
    """
    sides = [
        (
            layer_profile(model, direction, positive, progress=progress),
            layer_profile(model, direction, negative, progress=progress),
        )
        for model in (chat, base)
    ]
    separations = [_separation(*both) for both in sides]
    return BaseComparison(separations[0], separations[1], sides[0], sides[1])


def _separation(positive: Profile, negative: Profile) -> list[float]:
    """AUROC of the projections, layer by layer."""
    further, nearer = (one.projections.double().numpy() for one in (positive, negative))
    return [float(auroc(further[:, layer], nearer[:, layer])) for layer in range(further.shape[1])]


def cosines_between(directions: Sequence[Direction]) -> Tensor:
    """Cosines of the vectors that are added with each other, float32 ``[n, n]``.

    Raises:
        DirectionError: if they are of different widths.
    """
    if len({len(one.vector) for one in directions}) > 1:
        raise DirectionError("These directions are of models of different widths, so they cannot be compared.")
    units = torch.stack([one.unit for one in directions])
    return units @ units.T
