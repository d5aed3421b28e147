"""What the pictures of the “Explain” tab show, in plain sentences. Nothing here is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.explain_tables import as_csv
from steering.ui.explain_words import (
    AS_IT_IS,
    BASE_MODEL,
    CHAT_MODEL,
    WITH_IDEA,
    WITH_IT,
    WITH_RANDOM,
    WITHOUT_IDEA,
    head_name,
    number,
    percent,
    shown_token,
    wrote,
)

if TYPE_CHECKING:
    from steering.ui.explain_found import BaseFound, Curve, Head, Heads, Looks, Of, Speaks, SuffixFound, Where

TOKENS_NAMED = 3  # of those that a direction speaks for


def _with_spread(curve: Curve, layer: int) -> str:
    return number(curve.mean[layer]) + (f" ± {curve.spread[layer]:.2f}" if curve.n > 1 else "")


def sides_said(where: Where, of: Of) -> str:
    """What the picture of the sides shows."""
    layer = min(of.layer, of.n_layers - 1)
    prompt = f"your prompt at {_with_spread(where.prompt, layer)}"
    texts = where.texts
    if texts is None:
        return (
            f"At layer {layer}, where the direction was found, {prompt}. The texts it was made from are not known here."
        )
    with_idea, without = (_with_spread(texts.curves[name], layer) for name in (WITH_IDEA, WITHOUT_IDEA))
    how = (
        " The texts are answers, over which this is the mean; your prompt is seen at its last token."
        if texts.are_answers
        else ""
    )
    return (
        f"At layer {layer}, where the direction was found, texts with the idea stand at {with_idea}, texts without it "
        f"at {without}, and {prompt}.{how}"
    )


def ways_said(where: Where, of: Of) -> str:
    """What the picture of the three ways shows."""
    layer = min(of.layer, of.n_layers - 1)
    parts = [f"at {number(curve.mean[layer])} {name}" for name, curve in where.ways.items()]
    return f"At layer {layer} your prompt stands {', '.join(parts)}."


def heads_said(heads: Heads) -> str:
    """Which heads write it, in plain words."""
    named = _listed([f"{head_name(head)} ({wrote(heads.wrote(head))})" for head in heads.top])
    return (
        f"{named[0].upper()}{named[1:]} wrote most: plus is along the direction, minus against it. Of "
        f"{wrote(heads.total)} in all, the heads together wrote {wrote(sum(map(sum, heads.values)))}, the MLPs "
        f"{wrote(sum(heads.mlps))}."
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"


def looks_said(looks: Looks, head: Head) -> str:
    """Where a head looks, in plain words."""
    shares = sorted(looks.shares(head).items(), key=lambda one: -one[1])
    parts = ", ".join(f"{percent(share)} to the {part}" for part, share in shares)
    return f"From the last token it looks {parts}."


def looks_csv(looks: Looks, head: Head) -> str:
    """A head's attention as a table: one row a token."""
    rows = zip(range(len(looks.pieces)), looks.pieces, looks.parts, looks.of(head), strict=True)
    return as_csv(("place", "token", "part", "attention"), rows)


def mlp_said(heads: Heads, layer: int) -> str:
    return (
        f"The MLP of layer {layer} wrote {wrote(heads.mlps[layer])} along the direction. It does not look anywhere: it "
        "works on one token at a time."
    )


def suffix_said(found: SuffixFound) -> str:
    """What the suffix changed, in plain words, and whether any text would have."""
    layer = min(found.of.layer, found.of.n_layers - 1)
    plain, suffixed, random = (found.curves[name] for name in (AS_IT_IS, WITH_IT, WITH_RANDOM))
    before, after = plain.mean[layer], suffixed.mean[layer]
    away, spread = abs(after - random.mean[layer]), random.spread[layer]
    verdict = (
        "That is within what random text does."
        if away <= 2 * spread
        else "That is more than random text does, so it is these words."
    )
    return (
        f"At layer {layer} the suffix moves the prompt from {number(before)} to {number(after)}; random text of the "
        f"same length, to {_with_spread(random, layer)}. {verdict}"
    )


def suffix_field(found: SuffixFound) -> str:
    return (
        f"{found.curves[WITH_RANDOM].n} random suffixes of as many tokens, drawn from the vocabulary with seed 0; "
        "their band is one standard deviation."
    )


def base_said(found: BaseFound) -> str:
    layer = min(found.of.layer, found.of.n_layers - 1)
    chat, base = (found.curves[name][layer] for name in (CHAT_MODEL, BASE_MODEL))
    verdict = (
        "the base model tells the texts apart already"
        if base >= 0.9
        else "the base model tells them apart partly"
        if base >= 0.7
        else "the base model hardly tells them apart"
    )
    return f"At layer {layer}, {verdict}: {base:.2f} there, {chat:.2f} in the chat model; 1 is always, 0.5 is chance."


def tokens_said(speaks: Speaks) -> str:
    """What the direction speaks for, in plain words."""
    up, down = (
        ", ".join(f"“{shown_token(text)}”" for text, _ in side[:TOKENS_NAMED])
        for side in (speaks.promoted, speaks.demoted)
    )
    return (
        f"Alone before the model’s output, it makes {up} likelier and {down} less likely. For a direction of a middle "
        "layer that need not say much."
    )


def presets_said(presets: Sequence[tuple[str, float]]) -> str:
    """Which of the other ideas it is most like."""
    if not presets:
        return "No other idea’s direction is known for this model yet: choose one in the chat and ask, then look again."
    title, cosine = presets[0]
    return f"Most like “{title}” ({number(cosine)}); 1 would be the same direction, 0 nothing in common."
