"""What the “Explain” tab knows of a prompt: plain numbers and texts, which need no torch and may be pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from steering.contrast import ContrastSet
    from steering.directions import Direction

Head = tuple[int, int]  # layer, head


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be explained.

    Attributes:
        title: the idea's, for people.
        idea, own: a preset's name, or a direction of the visitor's own.
        data: the texts that an own direction was made from, where they are still at hand.
        coefficient: how far it is turned up in the chat; below 0 its opposite is.
        removal, addition: the ways of the chat, as in `methods`.
        model: name and revision of the model that was in use when it was asked.
    """

    prompt: str
    title: str
    idea: str
    own: Direction | None
    data: ContrastSet | None
    coefficient: float
    removal: str
    addition: str
    model: tuple[str, str]

    def has_texts_of(self, other: Question) -> bool:
        """Whether what the idea's texts say is the same for both."""
        mine, others = ((one.idea, one.removal, one.model) for one in (self, other))
        return mine == others and self.own is other.own


@dataclass(frozen=True)
class Of:
    """What something was found of.

    Attributes:
        layer: the direction's, where it is read and added.
    """

    title: str
    prompt: str
    model: str
    n_layers: int
    layer: int


@dataclass(frozen=True)
class Curve:
    """A cosine by layer: its mean and its standard deviation over ``n`` prompts."""

    mean: Sequence[float]
    spread: Sequence[float]
    n: int


@dataclass(frozen=True)
class Texts:
    """What the idea's texts say, which takes longest to read and is the same for every prompt.

    Attributes:
        curves: by name, the texts with the idea and those without it.
        are_answers: whether the texts are answers, over which the mean is taken, and not prompts seen at their ends.
        rows: of the table, as of `steering.explain_tables`.
    """

    curves: Mapping[str, Curve]
    are_answers: bool
    said: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Where:
    """Along which layers the direction shows.

    Attributes:
        texts: None where those of the idea are not known.
        prompt: the prompt in the model as it is.
        ways: by name, the prompt in the model as it is, with the direction taken out and turned up.
        problem: why a way is not among them.
        said: in the field's words.
        csv: all of it.
    """

    texts: Texts | None
    prompt: Curve
    ways: Mapping[str, Curve]
    problem: str
    said: Sequence[str]
    csv: str


@dataclass(frozen=True, eq=False)
class Heads:
    """What each head and MLP before the direction's layer wrote along it, at the prompt's last token.

    Attributes:
        values: one row a layer, one number a head.
        mlps: one a layer.
        total: all of it together, with what the token's embedding brought.
        top: the heads that wrote most, in size.
    """

    values: Sequence[Sequence[float]]
    mlps: Sequence[float]
    total: float
    top: Sequence[Head]
    said: Sequence[str]
    csv: str

    def wrote(self, head: Head) -> float:
        return self.values[head[0]][head[1]]


@dataclass(frozen=True, eq=False)
class Looks:
    """Where the same heads look from the last token.

    Attributes:
        pieces: the prompt's tokens as texts, template and all.
        parts: to which part of the prompt each belongs (`steering.head_attention`).
        weights: float32 ``[n_layers, n_heads, n_tokens]``.
    """

    pieces: Sequence[str]
    parts: Sequence[str]
    weights: np.ndarray

    def of(self, head: Head) -> list[float]:
        """A head's attention to each token."""
        row: list[float] = self.weights[head].tolist()
        return row

    def shares(self, head: Head) -> dict[str, float]:
        """How much of it goes to each part."""
        found = dict.fromkeys(self.parts, 0.0)
        for part, weight in zip(self.parts, self.of(head), strict=True):
            found[part] += weight
        return found


@dataclass(frozen=True)
class Speaks:
    """The tokens that the direction makes likelier and less likely by itself, and the presets it is like.

    Attributes:
        presets: (title, cosine) of those whose direction for this model is known.
    """

    promoted: Sequence[tuple[str, float]]
    demoted: Sequence[tuple[str, float]]
    presets: Sequence[tuple[str, float]]
    tokens_csv: str
    presets_csv: str


@dataclass(frozen=True, eq=False)
class Explained:
    """What was found of one prompt; where something could not be, the sentence that says why."""

    question: Question
    of: Of
    where: Where
    heads: Heads | None
    heads_problem: str
    looks: Looks | None
    looks_problem: str
    speaks: Speaks


@dataclass(frozen=True)
class HeadBeside:
    """One head in the prompt as it is, with the suffix, and with random ones.

    Attributes:
        wrote: along the direction; of the random ones the mean, and ``wrote_spread`` is their standard deviation.
        looks: how much of its attention goes to each part, by part.
    """

    head: Head
    wrote: tuple[float, float, float]
    wrote_spread: float
    looks: tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]]


@dataclass(frozen=True)
class SuffixFound:
    """What a suffix changes.

    Attributes:
        curves: by name: as it is, with the suffix, with random ones.
    """

    of: Of
    suffix: str
    curves: Mapping[str, Curve]
    heads: Sequence[HeadBeside]
    said: Sequence[str]
    csv: str
    heads_csv: str


@dataclass(frozen=True)
class BaseFound:
    """How well the direction tells the sides apart in the chat model and in a base model, layer by layer (AUROC)."""

    of: Of
    base: str
    curves: Mapping[str, Sequence[float]]
    said: str
    csv: str


__all__ = [
    "BaseFound",
    "Curve",
    "Explained",
    "Head",
    "HeadBeside",
    "Heads",
    "Looks",
    "Of",
    "Question",
    "Speaks",
    "SuffixFound",
    "Texts",
    "Where",
]
