"""What the explanations found, as tables: plain CSV, and the sentences that say what each shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from steering.whole_files import written_whole

if TYPE_CHECKING:
    from steering.attribution import Attribution
    from steering.explain import BaseComparison, Neighbours, Profile
    from steering.suffixes import Look, SuffixAnalysis

Row = Sequence[Any]


# What stands over the columns.
PROFILE = ("group", "layer", "cosine", "deviation", "projection", "n")
HEADS = ("layer", "part", "along the direction")
TOKENS = ("side", "token", "logit")


def as_csv(head: Row, rows: Iterable[Row]) -> str:
    """A table as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def csv_address(text: str) -> str:
    """An address that holds a CSV file itself, so that a link to it asks no machine for anything."""
    return f"data:text/csv;charset=utf-8,{quote(text)}"


def write_table(path: Path, head: Row, rows: Iterable[Row]) -> Path:
    """Write one table, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(as_csv(head, rows), encoding="utf-8", newline="")
    return path


def profile_rows(profiles: dict[str, Profile]) -> list[Row]:
    """One row a group and layer: both, mean cosine, its standard deviation, mean projection, how many prompts."""
    return [
        (group, layer, float(found.mean[layer]), float(found.spread[layer]), float(projection), len(found.cosines))
        for group, found in profiles.items()
        for layer, projection in enumerate(found.projections.mean(dim=0))
    ]


def head_rows(found: Attribution, token: int = -1) -> list[Row]:
    """One row a head and MLP at a token: layer, what wrote, how much of r̂; the embedding first, the total last."""
    rows: list[Row] = [("", "embedding", float(found.embedding[token]))]
    for layer in range(found.heads.shape[0]):
        rows += [(layer, f"head {head}", float(x)) for head, x in enumerate(found.heads[layer, :, token])]
        if found.attention_bias[layer, token]:
            rows.append((layer, "attention bias", float(found.attention_bias[layer, token])))
        rows.append((layer, "MLP", float(found.mlps[layer, token])))
    return [*rows, ("", "total", float(found.total[token]))]


def neighbour_rows(found: Neighbours) -> list[Row]:
    """One row a token: promoted or demoted, the token, how much a unit of r̂ changes its logit."""
    sides = (("promoted", found.promoted), ("demoted", found.demoted))
    return [(side, text, value) for side, tokens in sides for text, value in tokens]


def base_rows(found: BaseComparison) -> list[Row]:
    """One row a layer: it, how well the sides are told apart in the chat model, and in its base."""
    return [(layer, *both) for layer, both in enumerate(zip(found.chat, found.base, strict=True))]


def suffix_rows(found: SuffixAnalysis) -> list[Row]:
    """One row a prompt and layer: which prompt, layer, cosine."""
    return [(name, layer, float(x)) for name, look in _looks(found) for layer, x in enumerate(look.cosines)]


def suffix_head_rows(found: SuffixAnalysis) -> list[Row]:
    """One row a prompt, head and part: which prompt, layer, head, what it wrote, the part, attention to it."""
    return [
        (name, layer, head, float(look.heads[row]), part, float(attention[row]))
        for name, look in _looks(found)
        for row, (layer, head) in enumerate(found.top_heads)
        for part, attention in look.attention.items()
    ]


def _looks(found: SuffixAnalysis) -> list[tuple[str, Look]]:
    random = [(f"random {number}", look) for number, look in enumerate(found.with_random, 1)]
    return [("as it is", found.plain), ("with the suffix", found.with_suffix), *random]


# ---------------------------------------------------------------- sentences


def heads_said(found: Attribution, n: int = 3, token: int = -1) -> list[str]:
    """The heads that wrote most of r̂ at a token, a sentence each."""
    total, before = float(found.total[token]), found.heads.shape[0]
    return [
        f"Layer {layer}, head {head} wrote {value:+.3g} along the direction, of {total:+.3g} before layer {before}."
        for layer, head, value in found.top_heads(n, token)
    ]


def peak_said(n_layers: int, group: str, profile: Profile) -> str:
    """Where along the layers a group of prompts shows most of the direction."""
    layer = int(profile.mean.abs().argmax())
    spread = f" ± {float(profile.spread[layer]):.2f}" if len(profile.cosines) > 1 else ""
    return (
        f"{group}: the direction shows most at layer {layer} of {n_layers}, cosine "
        f"{float(profile.mean[layer]):+.2f}{spread} (n = {len(profile.cosines)})."
    )


def base_said(found: BaseComparison, layer: int) -> str:
    """How well the direction tells the sides apart in both models, at a layer."""
    n = sum(len(one.cosines) for one in found.chat_profiles)
    return (
        f"At layer {layer} the direction tells the sides apart with an AUROC of {found.chat[layer]:.2f} in the chat "
        f"model and of {found.base[layer]:.2f} in its base (n = {n}); 0.5 is chance."
    )


def suffix_said(found: SuffixAnalysis, layer: int) -> list[str]:
    """What the suffix changed at a layer and in the top heads, beside the random ones."""
    mean, spread = found.random_cosines
    lines = [
        f"At layer {layer} the cosine is {float(found.plain.cosines[layer]):+.2f} as it is, "
        f"{float(found.with_suffix.cosines[layer]):+.2f} with the suffix, and {float(mean[layer]):+.2f} ± "
        f"{float(spread[layer]):.2f} with {len(found.with_random)} random ones of equal length."
    ]
    for row, (at, head) in enumerate(found.top_heads):
        random = sum(float(look.heads[row]) for look in found.with_random) / len(found.with_random)
        attention = found.with_suffix.attention
        looks = ", ".join(f"{float(share[row]):.0%} to the {part}" for part, share in attention.items())
        lines.append(
            f"Layer {at}, head {head} wrote {float(found.plain.heads[row]):+.3g} as it is, "
            f"{float(found.with_suffix.heads[row]):+.3g} with the suffix, {random:+.3g} with random ones; with the "
            f"suffix it looks {looks}."
        )
    return lines
