"""Directions: candidates from a difference in means, the one chosen among them, and its file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steering.activations import RESPONSE, ClassMeans, class_means
from steering.contrast import ContrastSet
from steering.errors import DirectionError
from steering.progress import Progress, silent

if TYPE_CHECKING:
    from steering.models import ChatModel

FORMAT = "steering-direction"
# How many singular vectors of the neutral side's mean activations a centred direction is made orthogonal to.
CENTRING_RANK = 12


@dataclass(frozen=True, eq=False)
class NeutralMeans:
    """Where the negative side's mean activations μ^(l) lie along a few axes, at every layer.

    The whole means would make a direction's file a hundred times as large, and interventions ask only how far they
    reach along what is taken out. The axes are kept beside the numbers, so that another basis gets numbers of its own.

    Attributes:
        axes: orthonormal rows, float32 ``[n_axes, d_model]``.
        components: μ^(l) · axis, float32 ``[n_layers, n_axes]``, in the stream's own units.

    Raises:
        DirectionError: if shapes do not fit, a number is not finite, or the axes are not orthonormal.
    """

    axes: Tensor
    components: Tensor

    def __post_init__(self) -> None:
        axes, components = list(self.axes.shape), list(self.components.shape)
        if len(axes) != 2 or not 1 <= axes[0] <= axes[1] or len(components) != 2 or components[1] != axes[0]:
            raise DirectionError(
                f"The neutral means of a direction have axes of shape {axes} and components of shape {components}; "
                "they must be [n_axes, d_model] and [n_layers, n_axes]. Compute it again."
            )
        if not (torch.isfinite(self.components).all() and _is_orthonormal(self.axes)):
            raise DirectionError(
                "The neutral means of a direction have numbers that are not finite, or axes that are not orthonormal. "
                "Compute it again."
            )

    @classmethod
    def along(cls, vectors: Tensor, means: Tensor) -> NeutralMeans:
        """Keep of ``means``, ``[n_layers, d_model]``, what lies in the span of ``vectors``, ``[n, d_model]``."""
        _, lengths, rows = torch.linalg.svd(vectors.double(), full_matrices=False)
        axes = rows[lengths > 1e-6 * lengths[0]]
        return cls(axes.float().contiguous(), (means.double() @ axes.T).float().contiguous())

    def projections(self, basis: Tensor) -> Tensor | None:
        """R̂ μ^(l) for orthonormal rows R̂, ``[k, d_model]``: float32 ``[n_layers, k]``.

        None if they lead out of the axes' span, for there the means are not known.
        """
        axes = self.axes.double()
        inside = basis.double() @ axes.T
        if not float((inside @ axes - basis).norm(dim=-1).max()) < 1e-3:
            return None
        return (self.components.double() @ inside.T).float()


@dataclass(frozen=True, eq=False)
class Direction:
    """One idea as a direction in the residual stream.

    Attributes:
        vector: r, the difference in means as it is, float32 ``[d_model]``; what is **added**, times the coefficient.
        ablation_basis: orthonormal rows, float32 ``[k, d_model]``; what is **ablated**. One row equal to ``unit`` for
            sets of prompts; the centred direction for sets with responses.
        layer: the layer the vector was read at and is added at; ``0 ≤ layer < n_layers``.
        position: the negative index into the post-instruction tokens it was read at, or ``RESPONSE`` (0).
        mean_residual_norm: mean ‖x^(layer)‖ of the negative side at that position; the unit of a dose.
        name: for people.
        card: where it came from: ``model``, ``revision``, ``n_layers``, ``d_model``, ``data``, ``data_sha256``, scores.
        neutral: what is known of the negative side's means, or None: in older files, and where another tool made it.

    Raises:
        DirectionError: if a number is not finite, a norm is not positive, or shapes do not fit.
    """

    vector: Tensor
    ablation_basis: Tensor
    layer: int
    position: int
    mean_residual_norm: float
    name: str = "direction"
    card: dict[str, Any] = field(default_factory=dict)
    neutral: NeutralMeans | None = None

    def __post_init__(self) -> None:
        rank_fits = self.ablation_basis.ndim == 2 and 1 <= len(self.ablation_basis) <= self.ablation_basis.shape[1]
        if self.vector.ndim != 1 or not rank_fits or self.ablation_basis.shape[1] != len(self.vector):
            raise DirectionError(
                f"“{self.name}” has a vector of shape {list(self.vector.shape)} and a basis of shape "
                f"{list(self.ablation_basis.shape)}; they must be [d_model] and [k, d_model] with k from 1 to d_model. "
                "Compute it again."
            )
        if not (torch.isfinite(self.vector).all() and torch.isfinite(self.ablation_basis).all()):
            raise DirectionError(
                f"“{self.name}” contains numbers that are not finite (NaN or infinity). Compute it again."
            )
        if self.norm == 0:
            raise DirectionError(
                f"“{self.name}” has zero norm: the two sides do not differ at layer {self.layer}, position "
                f"{self.position}. Choose another layer or position."
            )
        if not (math.isfinite(self.mean_residual_norm) and self.mean_residual_norm > 0):
            raise DirectionError(
                f"“{self.name}” has a mean residual norm of {self.mean_residual_norm}, which must be a positive "
                "number. Compute it again."
            )
        if not _is_orthonormal(self.ablation_basis):
            raise DirectionError(f"The basis of “{self.name}” is not orthonormal. Compute the direction again.")
        if self.neutral is not None and self.neutral.axes.shape[1] != len(self.vector):
            raise DirectionError(
                f"“{self.name}” has a vector of width {len(self.vector)} and neutral means of width "
                f"{self.neutral.axes.shape[1]}. Compute it again."
            )

    @property
    def norm(self) -> float:
        """‖r‖."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Tensor:
        """r̂ = r / ‖r‖, float32 ``[d_model]``."""
        return self.vector / self.vector.norm()

    @property
    def ablation_unit(self) -> Tensor:
        """The first row of the ablation basis, float32 ``[d_model]``; cosines are measured against it."""
        return self.ablation_basis[0]

    @property
    def is_centred(self) -> bool:
        """Whether what is ablated differs from what is added."""
        return not torch.allclose(self.ablation_unit, self.unit, atol=1e-5)

    @property
    def neutral_projections(self) -> Tensor | None:
        """R̂ μ^(l), the negative side's mean at each layer along the ablation basis, float32 ``[n_layers, k]``.

        μ is read at the direction's position. None where it is not known, as for a basis that was put in later.
        """
        return None if self.neutral is None else self.neutral.projections(self.ablation_basis)

    def plain(self) -> Direction:
        """The same direction, ablated as it is instead of centred."""
        return replace(self, ablation_basis=self.unit[None])

    def dose(self, coefficient: float) -> float:
        """How long the added vector is, in units of the residual stream's usual length there: c·‖r‖ / mean ‖x‖."""
        return coefficient * self.norm / self.mean_residual_norm

    def coefficient(self, dose: float) -> float:
        """The coefficient c that gives ``dose``; the inverse of :meth:`dose`."""
        return dose * self.mean_residual_norm / self.norm

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file; everything but the tensors is JSON in its metadata."""
        from safetensors.torch import save_file

        described = {
            "name": self.name,
            "layer": self.layer,
            "position": self.position,
            "mean_residual_norm": self.mean_residual_norm,
            "card": {**self.card, "norm": self.norm},
        }
        tensors = {"vector": self.vector.contiguous(), "ablation_basis": self.ablation_basis.contiguous()}
        if self.neutral is not None:
            tensors |= {
                "neutral_axes": self.neutral.axes.contiguous(),
                "neutral_components": self.neutral.components.contiguous(),
            }
        save_file(tensors, path, metadata={"format": FORMAT, "version": "1", "direction": json.dumps(described)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, model: ChatModel | None = None) -> Direction:
        """Read a file written by :meth:`save`, also an older one without ``neutral``; nothing is unpickled.

        Raises:
            DirectionError: if it is no such file, is damaged, or was made for a model of another width or depth.
        """
        described, tensors = _read_file(Path(path))
        try:
            direction = cls(
                vector=tensors["vector"].float(),
                ablation_basis=tensors["ablation_basis"].float(),
                layer=_integer(described["layer"]),
                position=_integer(described["position"]),
                mean_residual_norm=_positive(described["mean_residual_norm"]),
                name=str(described["name"])[:80],
                card=dict(described["card"]),
                neutral=_neutral_means(tensors),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DirectionError(
                f"{Path(path).name} lacks a part of a direction, or has it in the wrong form ({error}). "
                "Download it again."
            ) from error
        if model is not None:
            direction.require_fit(model)
        return direction

    def require_fit(self, model: ChatModel) -> None:
        """Raise DirectionError unless width and depth are those of ``model``."""
        width, depth = len(self.vector), self.card.get("n_layers", model.n_layers)
        if self.neutral is not None and depth == model.n_layers:
            depth = len(self.neutral.components)
        if width != model.d_model or depth != model.n_layers or not 0 <= self.layer < model.n_layers:
            raise DirectionError(
                f"“{self.name}” was made for a model of width {width} with {depth} layers (layer {self.layer}); "
                f"{model.label} has width {model.d_model} and {model.n_layers} layers. Load the model it was made for."
            )


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DirectionError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DirectionError(
                    f"{path.name} is a safetensors file, but not a direction. "
                    "Choose one downloaded from this playground."
                )
            described = json.loads(about["direction"])
            json.dumps(described, ensure_ascii=False).encode()  # refuses half a character, which no page can show
            optional = {"neutral_axes", "neutral_components"} & set(file.keys())
            tensors = {name: file.get_tensor(name) for name in ("vector", "ablation_basis", *optional)}
    except (SafetensorError, ValueError, KeyError, RecursionError, OSError) as error:
        raise DirectionError(f"{path.name} is not a direction file, or is damaged. Download it again.") from error
    if not isinstance(described, dict) or not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise DirectionError(f"{path.name} does not hold a direction in floating-point numbers. Download it again.")
    return described, tensors


def _neutral_means(tensors: dict[str, Tensor]) -> NeutralMeans | None:
    """The neutral means in a file's tensors; a KeyError if only a half of them is there."""
    if "neutral_axes" not in tensors and "neutral_components" not in tensors:
        return None
    return NeutralMeans(tensors["neutral_axes"].float(), tensors["neutral_components"].float())


def _is_orthonormal(rows: Tensor) -> bool:
    return torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-3)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The difference in means at every (position, layer).

    Attributes:
        vectors: float32 ``[n_positions, n_layers, d_model]``.
        positions: the negative index of each row, or ``[RESPONSE]``.
        positive, negative: the two sides' means behind the difference.
        card: what every direction taken from here says of its origin.
        notes: what happened on the way that the person should know (for instance a halved batch).
    """

    vectors: Tensor
    positions: list[int]
    positive: ClassMeans
    negative: ClassMeans
    card: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        return self.vectors.shape[1]

    def direction(self, position: int, layer: int, name: str | None = None, *, projected: bool = False) -> Direction:
        """The candidate at one place as a :class:`Direction`.

        ``projected``: without what it shares with the negative side's mean there; see :func:`projected_off`.

        Raises:
            DirectionError: if there is no such place, or the two sides do not differ there.
        """
        if position not in self.positions or not 0 <= layer < self.n_layers:
            raise DirectionError(
                f"There is no candidate at position {position}, layer {layer}: positions are {self.positions}, "
                f"layers 0 to {self.n_layers - 1}."
            )
        row = self.positions.index(position)
        vector, means = self.vectors[row, layer].clone(), self.negative.means[row]
        card = dict(self.card)
        if projected:
            vector = projected_off(vector, means[layer])
            card["projected"] = True
        if not float(vector.norm()) > 1e-6 * float(self.negative.norms[row, layer]):
            raise DirectionError(
                f"The two sides do not differ at position {position}, layer {layer}"
                f"{' but in how far the negative mean reaches' if projected else ''}, so there is no direction there. "
                "Choose a later layer."
            )
        ablated = centred(vector, means) if position == RESPONSE else vector
        return Direction(
            vector=vector,
            ablation_basis=(ablated / ablated.norm())[None],
            layer=layer,
            position=position,
            mean_residual_norm=float(self.negative.norms[row, layer]),
            name=name or str(self.card.get("data", "direction")),
            card=card,
            neutral=NeutralMeans.along(torch.stack([vector / vector.norm(), ablated / ablated.norm()]), means),
        )


def projected_off(vector: Tensor, neutral_mean: Tensor) -> Tensor:
    """r − (r · μ̂) μ̂, the part of r orthogonal to the negative side's mean at the same place; float32 ``[d_model]``.

    What r shares with the mean tells how strongly the model does what it does anyway, rather than what sets the idea
    apart. Source: J. Lai, "Projected Abliteration", 2025 (huggingface.co/blog/grimjim/projected-abliteration).

    Args:
        vector: r, ``[d_model]``.
        neutral_mean: μ, ``[d_model]``.
    """
    exact, mean = vector.double(), neutral_mean.double()
    mean_unit = mean / mean.norm().clamp_min(1e-12)
    return (exact - (exact @ mean_unit) * mean_unit).float()


def centred(vector: Tensor, neutral_means: Tensor, rank: int = CENTRING_RANK) -> Tensor:
    """r without its part in the span of the neutral side's mean activations.

    The span is that of the first ``rank`` right singular vectors of the unit means of all layers. Written replies share
    a large common part with all text; ablating it as well can turn the idea up instead of taking it out.

    Args:
        vector: ``[d_model]``.
        neutral_means: ``[n_layers, d_model]``.

    Returns:
        ``[d_model]``, orthogonal to the span, not normalised.
    """
    means = neutral_means.double()
    unit_means = means / means.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    span = torch.linalg.svd(unit_means, full_matrices=False).Vh[: min(rank, len(means) - 1)]
    exact = vector.double()
    return (exact - span.T @ (span @ exact)).float()


def difference_in_means(
    model: ChatModel, train: ContrastSet, *, batch_size: int = 32, progress: Progress = silent
) -> Candidates:
    """Mean activation of the positives minus that of the negatives, at every position and layer (section 2.3).

    Prompts are read at each post-instruction token; with responses, the mean over the response's tokens is one
    position, ``RESPONSE``. Sums are float64.

    Returns:
        Candidates with ``vectors`` float32 ``[n_positions, n_layers, d_model]``.

    Raises:
        Cancelled: if ``progress`` raises it; it is called at least once a batch.
        OutOfMemoryError: if even one example does not fit into memory.
    """
    positive, negative = class_means(model, [train.positive, train.negative], batch_size=batch_size, progress=progress)
    return Candidates(
        vectors=(positive.sums / positive.count - negative.sums / negative.count).float(),
        positions=positive.positions,
        positive=positive,
        negative=negative,
        card={
            "model": model.name,
            "model_label": model.label,
            "revision": model.revision,
            "n_layers": model.n_layers,
            "d_model": model.d_model,
            "data": train.name,
            "data_sha256": train.sha256,
            "n_positive": len(train.positive),
            "n_negative": len(train.negative),
            "with_responses": train.has_responses,
            "library": _library_version(),
        },
        notes=positive.notes,
    )


def _library_version() -> str:
    try:
        return metadata.version("steering-playground")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0.1.0"
