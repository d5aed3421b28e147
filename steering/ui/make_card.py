"""The quality card: what was measured of a direction, and the map of places to choose from.

Names, labels and tokens come from people, files and tokenizers, and pass through `escaped`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steering.ui.make_words import RESPONSE, escaped, position_words, signed, verdict, visible_token

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.separation import Separation

LONGEST_TOKEN = 12  # characters of a token beside its row of squares
TOO_LATE = 0.8  # of the depth; from there on too little of the model is left to act on (the paper's limit)

WELCOME = (
    '<section class="quality waiting"><h2>Your direction appears here</h2><p>First the map of places to look, a layer '
    "and a position each; then a card that says how well the best one tells apart texts it was not made from.</p>"
    "</section>"
)


def computing_card(name: str, positions: Sequence[int], tokens: Mapping[int, str], n_layers: int) -> str:
    """The card's place while the examples are read: its map, still empty."""
    squares = _squares(positions, tokens, n_layers, lambda position, layer: '<td class="empty"></td>', None)
    return (
        f'<section class="quality"><div class="quality-head"><div><h2>{escaped(name)}</h2>'
        f"<p>Each square is one place to look: a layer and a position. The card follows.</p></div></div>"
        f"{squares}</section>"
    )


def card_html(
    direction: Direction, separation: Separation, suggested: tuple[int, int], tokens: Mapping[int, str], seed: int
) -> str:
    """The quality card of a direction that was made here: what was measured, and the map to choose from."""
    n_layers = separation.auroc.shape[1]
    row = separation.positions.index(direction.position)
    auroc = float(separation.auroc[row, direction.layer])
    kind, words = verdict(auroc)
    card = direction.card
    n_texts = card["n_positive"] + card["n_negative"] + separation.total
    head = _head(direction.name, f"from {n_texts} texts · {card['model_label']} · seed {seed}", kind, words)
    figures = _key_figures(
        (int(separation.right[row, direction.layer]), separation.total), direction, n_layers, auroc, tokens
    )
    table = _table(separation, tokens)
    places = len(separation.positions) * n_layers
    return (
        f'<section class="quality">{head}{figures}'
        '<div class="quality-sub"><h3>Where the idea was found</h3><p>fuller colour: told apart better · '
        "press a square to choose it</p></div>"
        f"{_measured_squares(direction, separation, suggested, tokens)}"
        f"{_squares_foot(direction, suggested, separation)}"
        f"<details><summary>All {places} candidates as a table</summary>{table}</details></section>"
    )


def loaded_card(direction: Direction) -> str:
    """The card of a direction from a file: only what the file says, and no map, for that needs the texts."""
    card = direction.card
    origin = [f"from the file’s own card · {card.get('model_label') or card.get('model') or 'model not named'}"]
    if card.get("data"):
        origin.append(f"texts: {card['data']}")
    kind = words = ""
    auroc = card.get("auroc")
    if isinstance(auroc, float):
        kind, words = verdict(auroc)
    figures = _key_figures(card.get("sorted_right"), direction, card["n_layers"], auroc, tokens_of(card))
    return (
        f'<section class="quality">{_head(direction.name, " · ".join(origin), kind, words)}{figures}'
        '<p class="hint">The map of squares is not in the file. Find the direction again to choose another place.</p>'
        "</section>"
    )


def tokens_of(card: Mapping[str, Any]) -> dict[int, str]:
    """The post-instruction tokens a card names, by position; empty when it names none."""
    listed = card.get("position_tokens")
    if not isinstance(listed, list) or not all(isinstance(token, str) for token in listed):
        return {}
    return {place - len(listed): token for place, token in enumerate(listed)}


def _head(name: str, origin: str, kind: str, words: str) -> str:
    judged = f'<p class="verdict {kind}">{words}</p>' if words else ""
    return f'<div class="quality-head"><div><h2>{escaped(name)}</h2><p>{escaped(origin)}</p></div>{judged}</div>'


def _key_figures(
    right: Sequence[int] | None, direction: Direction, n_layers: int, auroc: float | None, tokens: Mapping[int, str]
) -> str:
    figures = []
    if right is not None:
        figures.append((f"{right[0]} of {right[1]}", "texts it had not seen, sorted right"))
    place = position_words(direction.position, tokens)
    figures.append((f"Layer {direction.layer} <small>of {n_layers}</small>", escaped(place)))
    if auroc is not None:
        figures.append(
            (
                f"{auroc:.2f}",
                '<abbr title="area under the receiver operating characteristic">AUROC</abbr>: how often a text with '
                "the idea ranks above one without; 0.50 is chance",
            )
        )
    listed = "".join(f"<div><dt>{key}</dt><dd>{words}</dd></div>" for key, words in figures)
    return f'<dl class="key-figures">{listed}</dl>'


def _measured_squares(
    direction: Direction, separation: Separation, suggested: tuple[int, int], tokens: Mapping[int, str]
) -> str:
    chosen = (direction.position, direction.layer)
    n_layers = separation.auroc.shape[1]

    def cell(position: int, layer: int) -> str:
        value = float(separation.auroc[separation.positions.index(position), layer])
        place = f"layer {layer}, {_row_words(position)}"
        if not math.isfinite(value):
            return f'<td class="empty same" title="{place}: the sides do not differ here">–</td>'
        is_chosen, is_suggested = (position, layer) == chosen, (position, layer) == suggested
        classes = [
            name
            for name, holds in (
                ("late", is_late(layer, n_layers)),
                ("suggested", is_suggested),
                ("chosen", is_chosen),
            )
            if holds
        ]
        shade = min(1.0, max(0.0, 2 * value - 1))
        words = f"{place}: {value:.2f}" + (", suggested" if is_suggested else "")
        return (
            f'<td class="{" ".join(classes)}" style="--value:{shade:.3f}"><button type="button" '
            f'data-position="{position}" data-layer="{layer}" tabindex="{0 if is_chosen else -1}" '
            f'aria-pressed="{"true" if is_chosen else "false"}" aria-label="{words}" title="{words}"></button></td>'
        )

    return _squares(separation.positions, tokens, n_layers, cell, direction.layer)


def is_late(layer: int, n_layers: int) -> bool:
    """Whether too little of the model follows for the direction to act on."""
    return layer >= TOO_LATE * n_layers


def named_layers(n_layers: int, chosen: int | None) -> set[int]:
    """The columns that carry their number: every fourth, the last, and the chosen one, none beside another."""
    names = set(range(0, n_layers, 4))
    for layer in (n_layers - 1, *([] if chosen is None else [chosen])):
        names = {name for name in names if abs(name - layer) > 1} | {layer}
    return names


def _squares(
    positions: Sequence[int],
    tokens: Mapping[int, str],
    n_layers: int,
    cell: Callable[[int, int], str],
    chosen: int | None,
) -> str:
    names = named_layers(n_layers, chosen)
    head = "".join(
        f'<th scope="col"{" class=chosen" if layer == chosen else ""}>'
        f"{layer if layer in names else _unseen(layer)}</th>"
        for layer in range(n_layers)
    )
    rows = "".join(
        f"<tr>{_row_head(position, tokens)}{''.join(cell(position, layer) for layer in range(n_layers))}</tr>"
        for position in positions
    )
    return (
        '<div class="squares-box"><table class="squares" aria-label="How well each place tells the two sides apart">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _unseen(layer: int) -> str:
    """A column's number for screen readers alone."""
    return f'<i class="unseen">{layer}</i>'


def _row_head(position: int, tokens: Mapping[int, str]) -> str:
    if position == RESPONSE:
        return '<th scope="row">mean over reply</th>'
    token = visible_token(tokens.get(position, ""))
    short = token if len(token) <= LONGEST_TOKEN else token[: LONGEST_TOKEN - 1] + "…"
    return f'<th scope="row" title="{escaped(token)}"><span>{escaped(short)}</span> {signed(position)}</th>'


def _row_words(position: int) -> str:
    return "mean over the reply" if position == RESPONSE else f"position {signed(position)}"


def _squares_foot(direction: Direction, suggested: tuple[int, int], separation: Separation) -> str:
    n_layers = separation.auroc.shape[1]
    chosen = (direction.position, direction.layer)
    parts = [f"<b>chosen: layer {direction.layer}, {_row_words(direction.position)}</b>"]
    if chosen == suggested:
        parts[0] = parts[0].replace("chosen:", "chosen, as suggested:")
    else:
        parts.append(f'<span class="key-suggested">suggested: layer {suggested[1]}, {_row_words(suggested[0])}</span>')
    if any(not math.isfinite(value) for value in separation.auroc.ravel().tolist()):
        parts.append("<span>– the sides do not differ</span>")
    if is_late(n_layers - 1, n_layers):
        parts.append('<span class="key-late">usually too late to use</span>')
    return f'<div class="squares-foot">{"".join(parts)}</div>'


def _table(separation: Separation, tokens: Mapping[int, str]) -> str:
    rows = []
    for row, position in enumerate(separation.positions):
        token = visible_token(tokens[position]) if position in tokens else ""
        place = "mean over the reply" if position == RESPONSE else f"{signed(position)} {token}"
        for layer in range(separation.auroc.shape[1]):
            value = float(separation.auroc[row, layer])
            measured = (
                f"<td>{value:.3f}</td><td>{int(separation.right[row, layer])} of {separation.total}</td>"
                if math.isfinite(value)
                else "<td>the sides do not differ</td><td>–</td>"
            )
            rows.append(f"<tr><td>{escaped(place)}</td><td>{layer}</td>{measured}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Position", "Layer", "AUROC", "Sorted right"))
    return (
        '<div class="table-box" tabindex="0" role="region" aria-label="All candidates"><table class="pairs">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
