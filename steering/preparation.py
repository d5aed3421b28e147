"""A contrast set made ready for selection: split, its metric settled, and filtered as the paper filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steering.contrast import ContrastSet
from steering.errors import ContrastSetError
from steering.metrics import FirstTokens, first_token_log_odds, found_first_tokens, paper_refusal_tokens
from steering.progress import Tick, no_tick, of_several
from steering.scoring import Unsteered, next_token_logits
from steering.selection import Limits

if TYPE_CHECKING:
    from steering.models import ChatModel

N_TRAIN, N_VALIDATION = 128, 32  # examples a side, as in the paper
# With fewer a side left by the filter, a direction and its scores would be chance.
FEWEST_TO_LEARN, FEWEST_TO_CHECK = 16, 8
TOKEN_EXAMPLES = 64  # a side, from which first tokens are found


@dataclass(frozen=True, eq=False)
class Prepared:
    """A contrast set ready for selection.

    Attributes:
        train, validation: its two parts, filtered if it was to be.
        tokens: the first tokens of the metric; None for sets with responses.
        is_refusal: whether the paper's own limits hold; else the limit on induce is relative.
        notes: what was left out, in sentences.
    """

    train: ContrastSet
    validation: ContrastSet
    tokens: FirstTokens | None
    is_refusal: bool
    seed: int
    data: ContrastSet
    filtered: bool
    notes: tuple[str, ...] = ()

    def limits(self, unsteered: Unsteered) -> Limits:
        """The paper's limits; for sets other than refusal induce must rise by more than its standard error."""
        if self.is_refusal:
            return Limits()
        return Limits(induce=float(unsteered.negative.mean()) + unsteered.standard_error, is_relative=True)


def prepare(
    model: ChatModel,
    data: ContrastSet,
    *,
    tokens: Sequence[str] | None = None,
    is_refusal: bool | None = None,
    filtered: bool | None = None,
    n_train: int = N_TRAIN,
    n_validation: int = N_VALIDATION,
    seed: int = 0,
    tick: Tick = no_tick,
) -> Prepared:
    """Split a set, settle its metric, and filter it.

    Args:
        tokens: texts of the first tokens of the metric; by default the paper's for a refusal set on one of its
            families, else found from the training part. Sets with responses have none.
        is_refusal: whether this is a refusal set; by default whether it is the preset of that name.
        filtered: leave out positives that score below 0 and negatives above 0 (section 2.3); by default for refusal.
        tick: told how far it is; what it raises ends it.

    Raises:
        ContrastSetError: if the set is too small, or the filter leaves too few, as on a model that does not refuse.
        SteeringError: if a text of ``tokens`` is not one token.
    """
    refusal = is_refusal_set(data) if is_refusal is None else is_refusal
    train, validation = data.split(n_train, n_validation, seed)
    if train.has_responses:
        return Prepared(train, validation, None, refusal, seed, data, False, tuple(validation.notes))
    chosen = first_tokens(model, train, tokens, is_refusal=refusal, tick=of_several(tick, 0, 2))
    prepared = Prepared(train, validation, chosen, refusal, seed, data, False, tuple(validation.notes))
    is_filtered = refusal if filtered is None else filtered
    return _filtered(model, prepared, of_several(tick, 1, 2)) if is_filtered else prepared


def _filtered(model: ChatModel, prepared: Prepared, tick: Tick) -> Prepared:
    """Without the positives that score below 0 and the negatives above 0."""
    assert prepared.tokens is not None
    ids = prepared.tokens.ids

    def kept(whole: ContrastSet, fewest: int, use: str, tick: Tick) -> ContrastSet:
        sides = []
        for i, (side, sign) in enumerate(((whole.positive, 1), (whole.negative, -1))):
            logits = next_token_logits(model, side, of_several(tick, i, 2))
            metric = first_token_log_odds(logits, ids).tolist()
            sides.append([one for one, value in zip(side, metric, strict=True) if sign * value >= 0])
            if len(sides[-1]) < min(fewest, len(side)):
                name = "positive" if sign > 0 else "negative"
                raise ContrastSetError(_too_few(model, prepared.tokens, use, name, len(sides[-1]), len(side)))
        return replace(whole, positive=sides[0], negative=sides[1])

    train = kept(prepared.train, FEWEST_TO_LEARN, "to learn from", of_several(tick, 0, 2))
    validation = kept(prepared.validation, FEWEST_TO_CHECK, "to check with", of_several(tick, 1, 2))
    left_out = [
        sum(len(getattr(whole, side)) for whole in (prepared.train, prepared.validation))
        - sum(len(getattr(part, side)) for part in (train, validation))
        for side in ("positive", "negative")
    ]
    note = (
        f"The filter left out {left_out[0]} positive examples that do not call for the idea on this model and "
        f"{left_out[1]} negative ones that do."
    )
    return replace(prepared, train=train, validation=validation, filtered=True, notes=(*prepared.notes, note))


def _too_few(model: ChatModel, tokens: FirstTokens | None, use: str, side: str, left: int, of: int) -> str:
    why = "does not begin its reply" if side == "positive" else "begins its reply"
    named = ", ".join(f"“{text}”" for text in (tokens.texts if tokens else ()))
    return (
        f"The filter leaves {left} of {of} {side} examples {use}: to the others {model.label} {why} with {named}. "
        "Use a model that shows the idea more clearly, choose other first tokens, or switch the filter off."
    )


def first_tokens(
    model: ChatModel,
    data: ContrastSet,
    texts: Sequence[str] | None = None,
    *,
    is_refusal: bool | None = None,
    tick: Tick = no_tick,
) -> FirstTokens:
    """The first tokens of the metric for a set of prompts: named, the paper's for refusal, or found in ``data``."""
    if texts is not None:
        return FirstTokens.from_texts(model, texts)
    known = paper_refusal_tokens(model) if (is_refusal_set(data) if is_refusal is None else is_refusal) else None
    if known is not None:
        return known
    positive, negative = (
        next_token_logits(model, side[:TOKEN_EXAMPLES], of_several(tick, i, 2))
        for i, side in enumerate((data.positive, data.negative))
    )
    return found_first_tokens(model, positive, negative)


def is_refusal_set(data: ContrastSet) -> bool:
    """Whether a set's card says that it is of requests a model refuses, so that the paper's own limits hold."""
    return data.card.get("metric") == "refusal"


def shows_idea(model: ChatModel, validation: ContrastSet, tokens: FirstTokens) -> tuple[int, int]:
    """Of how many positive prompts the reply more likely than not begins with ``tokens``, and how many there are.

    On a set of requests to refuse: how far the model refuses at all.
    """
    metric = first_token_log_odds(next_token_logits(model, validation.positive), tokens.ids)
    return int((metric >= 0).sum()), len(validation.positive)
