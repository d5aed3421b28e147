"""How far a direction can be trusted: figures with their intervals, controls to hold them against, and plain words.

A direction can look good by chance, by the length of the texts, or because anything as long would do as much. Each
figure here stands for one such doubt. Held-out figures are of the validation examples, on which the direction's place
was chosen too: they flatter it somewhat, and the controls, which were chosen by nothing, not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from steering.activations import EXAMPLES_A_BATCH, ResidualReader
from steering.contrast import ContrastSet
from steering.errors import DirectionError, SteeringError
from steering.figures import UNKNOWN, Figure, Samples, auroc, bootstrapped, wilson
from steering.progress import Progress, silent
from steering.scoring import BYPASS, INDUCE, KL, Scorer, pairs_first, scores_in_turn
from steering.trust_card import INTERVALS, TrustCard
from steering.trust_controls import Learned, random_controls, shuffled_controls, split_half

if TYPE_CHECKING:
    from steering.directions import Candidates, Direction
    from steering.finding import Prepared
    from steering.models import ChatModel

__all__ = ["INTERVALS", "Figure", "TrustCard", "trust"]

N_CONTROLS = 20  # of either kind: 19 is the fewest that a direction like them outdoes only 1 time in 20
# Directions in a pass. A CPU gains little by more than one (12 % by four, SmolLM2-135M with one thread), and a pass has
# to be short enough to be cancelled after. It must not follow from how long a pass took: rows of a batch are rounded
# otherwise than a row by itself, and a seed is to repeat a card.
ROWS_ON_CPU, ROWS_ON_GPU = 1, 4

WHAT = "Scoring controls"

Values = dict[str, NDArray[np.float64]]  # by score, one number an example


def trust(
    model: ChatModel,
    prepared: Prepared,
    direction: Direction,
    *,
    candidates: Candidates,
    scorer: Scorer,
    n_random: int = N_CONTROLS,
    n_shuffled: int = N_CONTROLS,
    seed: int = 0,
    batch_size: int = EXAMPLES_A_BATCH,
    progress: Progress = silent,
) -> TrustCard:
    """Measure how far a direction can be trusted.

    It costs about what scoring ``1 + n_random + n_shuffled`` candidates to the end costs.

    Args:
        prepared, candidates, scorer: those the direction was found with; a :class:`steering.finding.Finder` has them.
        n_random, n_shuffled: how many controls of either kind; of shuffled ones there are fewer where the training
            examples are too few to be halved in so many ways.
        progress: told after every batch of examples and after every pass.

    Raises:
        Cancelled: if ``progress`` raises it.
        DirectionError: if the direction does not fit the model, or was read where this set has no candidates.
        SteeringError: if there is to be no control of one kind.
        OutOfMemoryError: if even one example, or one direction, does not fit into memory.
    """
    _require_use(model, direction, candidates, n_random, n_shuffled)
    train, validation = prepared.train, prepared.validation
    to_learn, along = _read(model, prepared, direction, batch_size, progress)
    seeds = np.random.SeedSequence(seed).spawn(3)
    halvings, isotropic, labels = (np.random.default_rng(one) for one in seeds)
    random = random_controls(direction, n_random, isotropic)
    shuffled = shuffled_controls(direction, candidates, to_learn, n_shuffled, labels)
    rows = ROWS_ON_CPU if model.device.type == "cpu" else ROWS_ON_GPU
    own, *others = _values(scorer, [direction, *random, *shuffled], rows, progress)
    ruler, longer = _length_ruler(model, validation, seed)
    return TrustCard(
        data=prepared.data.name,
        data_sha256=prepared.data.sha256,
        n_train=(len(train.positive), len(train.negative)),
        n_validation=(len(validation.positive), len(validation.negative)),
        seed=seed,
        separation=bootstrapped(along, auroc, seed),
        length_ruler=ruler,
        longer=longer,
        split_half=split_half(to_learn, halvings),
        wrong_way=_wrong_way(scorer, own),
        scores={score: bootstrapped([values], np.mean, seed) for score, values in own.items()},
        random=_range(others[:n_random]),
        shuffled=_range(others[n_random:]),
    )


def _require_use(
    model: ChatModel, direction: Direction, candidates: Candidates, n_random: int, n_shuffled: int
) -> None:
    direction.require_fit(model)
    if direction.position not in candidates.positions:
        raise DirectionError(
            f"“{direction.name}” was read at position {direction.position}, which this set does not have: its "
            f"positions are {candidates.positions}. Choose the set it was made from."
        )
    if len(direction.ablation_basis) > 1:
        raise DirectionError(
            f"“{direction.name}” ablates {len(direction.ablation_basis)} directions at once, and only a single one can "
            "be held against controls. Choose one of them."
        )
    if min(n_random, n_shuffled) < 1:
        raise SteeringError(
            f"A direction cannot be held against {n_random} random and {n_shuffled} shuffled ones: "
            "ask for at least one of either kind."
        )


def _read(
    model: ChatModel, prepared: Prepared, direction: Direction, batch_size: int, progress: Progress
) -> tuple[Learned, Samples]:
    """The training examples at the direction's place, and how far along it either side's validation examples lie.

    Of each example only that place is kept.
    """
    positive, negative, n_pairs = pairs_first(prepared.train)
    examples = [*positive, *negative, *prepared.validation.positive, *prepared.validation.negative]
    reader = ResidualReader(model, examples, batch_size)
    row = reader.positions.index(direction.position)
    stream = torch.empty(len(examples), model.d_model, dtype=torch.float64)
    for indices, batch, _ in reader.read(progress):
        stream[indices] = batch[:, row, direction.layer].double()
    n_train = len(positive) + len(negative)
    along = (stream[n_train:] @ direction.unit.double()).numpy()
    return (
        Learned(stream[:n_train], len(positive), n_pairs),
        np.split(along, [len(prepared.validation.positive)]),
    )


def _values(scorer: Scorer, directions: Sequence[Direction], rows: int, progress: Progress) -> list[Values]:
    """What is behind each direction's scores, ``rows`` directions a pass; fewer if memory runs out."""
    found = scores_in_turn(scorer, directions, scorer.totals, rows, (WHAT, progress))
    return [{score: numbers.numpy() for score, numbers in one.items()} for one in found]


def _length_ruler(model: ChatModel, validation: ContrastSet, seed: int) -> tuple[Figure, str]:
    """How well the number of tokens of what carries the idea tells the sides apart, and which side is longer by it."""
    sides = {
        name: np.array(
            [len(model.tokenizer(one.text, add_special_tokens=False)["input_ids"]) for one in examples], dtype=float
        )
        for name, examples in (("positive", validation.positive), ("negative", validation.negative))
    }
    positive_longer = float(auroc(sides["positive"], sides["negative"]))
    if positive_longer >= 0.5:
        longer = "positive" if positive_longer > 0.5 else "neither"
        return bootstrapped([sides["positive"], sides["negative"]], auroc, seed), longer
    return bootstrapped([sides["negative"], sides["positive"]], auroc, seed), "negative"


def _wrong_way(scorer: Scorer, own: Values) -> dict[str, Figure]:
    """By score, the share of examples on which the direction does not do what it should; no number counts so too."""
    unsteered = scorer.unsteered
    right = {
        BYPASS: own[BYPASS] < unsteered.positive.numpy(),
        INDUCE: own[INDUCE] > unsteered.negative.numpy(),
    }
    return {score: wilson(int((~as_it_should).sum()), len(as_it_should)) for score, as_it_should in right.items()}


def _range(controls: Sequence[Values]) -> dict[str, Figure]:
    """By score, the mean over directions with the lowest and the highest of them."""
    if not controls:
        return dict.fromkeys((BYPASS, INDUCE, KL), UNKNOWN)
    means = {score: np.array([one[score].mean() for one in controls]) for score in (BYPASS, INDUCE, KL)}
    return {
        score: Figure(float(values.mean()), float(values.min()), float(values.max()), len(values))
        for score, values in means.items()
    }
