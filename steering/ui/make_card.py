"""The quality card: what was measured of a direction, and the map of places to choose from.

Names, labels and tokens come from people, files and tokenizers, and pass through `escaped`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steering.ui.best_map import search_squares, search_table
from steering.ui.make_checks import by_hand_html, checks_html, trust_html, verdict_of
from steering.ui.make_words import RESPONSE, escaped, position_words, signed, verdict, visible_token
from steering.ui.squares import is_late, row_words, squares, squares_table, tokens_of

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.separation import Separation
    from steering.ui.best_search import Search

WELCOME = (
    '<section class="quality waiting"><h2>Your direction appears here</h2><p>First the map of places to look, a layer '
    "and a position each; then a card that says how well the best one tells apart texts it was not made from.</p>"
    "</section>"
)

NO_OFFER = (
    "No single limit can be relaxed so far that a place keeps to it and is still of use. Give more texts, or texts "
    "that differ in the idea alone; or choose a place all the same."
)


def computing_card(name: str, positions: Sequence[int], tokens: Mapping[int, str], n_layers: int) -> str:
    """The card's place while the examples are read: its map, still empty."""
    map_ = squares(positions, tokens, n_layers, lambda position, layer: '<td class="empty"></td>', None)
    return (
        f'<section class="quality"><div class="quality-head"><div><h2>{escaped(name)}</h2>'
        f"<p>Each square is one place to look: a layer and a position. The card follows.</p></div></div>"
        f"{map_}</section>"
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


def searching_card(search: Search) -> str:
    """The card's place while candidates are tried: the map, as far as it is filled."""
    n_done = len(search.scores)
    return (
        f'<section class="quality">{_head(search.request.name, _texts_words(search))}'
        f'<div class="quality-sub"><h3>{n_done} of {search.n_places} places decided</h3><p>fuller colour: taken out '
        "there, more of the idea goes away</p></div>"
        f"{search_squares(search, None)}</section>"
    )


def missed_card(search: Search) -> str:
    """What there is to see when no candidate keeps to all limits."""
    no_offer = "" if search.choice.offer else f'<p class="hint">{NO_OFFER}</p>'
    return (
        f'<section class="quality">{_head(search.request.name, _texts_words(search), "bad", "None passes")}'
        f'<p class="warning">{escaped(search.choice.problem)}</p>{no_offer}{_notes(search)}'
        '<div class="quality-sub"><h3>What each place fails</h3><p>press a square to choose it all the same</p></div>'
        f"{search_squares(search, None)}"
        f"<details><summary>All {search.n_places} candidates as a table</summary>{search_table(search)}</details>"
        "</section>"
    )


def search_card(search: Search, direction: Direction, measuring: bool) -> str:
    """The card of a direction found by its scores; ``measuring``: whether strength and controls are on their way."""
    card = direction.card
    kind, words = verdict_of(card)
    if measuring:
        kind, words = "partly", "Still being measured"
    head = _head(direction.name, f"{_texts_words(search)} · {card['model_label']} · seed {card['seed']}", kind, words)
    figures = _key_figures(
        card.get("sorted_right"), direction, search.candidates.n_layers, card.get("auroc"), tokens_of(card)
    )
    return (
        f'<section class="quality">{head}{figures}{checks_html(direction.name, card)}{by_hand_html(card)}'
        f"{trust_html(card)}{_notes(search)}"
        '<div class="quality-sub"><h3>Where the idea was found</h3><p>fuller colour: taken out there, more of the idea '
        "goes away · press a square to choose it</p></div>"
        f"{search_squares(search, (direction.position, direction.layer))}"
        f"<details><summary>All {search.n_places} candidates as a table</summary>{search_table(search)}</details>"
        "</section>"
    )


def _texts_words(search: Search) -> str:
    prepared = search.prepared
    sides = (
        prepared.train.positive,
        prepared.train.negative,
        prepared.validation.positive,
        prepared.validation.negative,
    )
    return f"from {sum(map(len, sides))} texts"


def _notes(search: Search) -> str:
    """What the paper chose on this model, and what was left out."""
    lines = [*([search.paper_words] if search.paper_words else []), *search.prepared.notes]
    return "".join(f'<p class="hint">{escaped(line)}</p>' for line in lines)


def loaded_card(direction: Direction) -> str:
    """The card of a direction from a file: only what the file says, and no map, for that needs the texts."""
    card = direction.card
    origin = [f"from its own card · {card.get('model_label') or card.get('model') or 'model not named'}"]
    if card.get("data"):
        origin.append(f"texts: {card['data']}")
    figures = _key_figures(card.get("sorted_right"), direction, card["n_layers"], card.get("auroc"), tokens_of(card))
    return (
        f'<section class="quality">{_head(direction.name, " · ".join(origin), *verdict_of(card))}{figures}'
        f"{checks_html(direction.name, card)}{by_hand_html(card)}{trust_html(card)}"
        '<p class="hint">The map of squares is not kept with a direction. Find it again from its texts to choose '
        "another place.</p>"
        "</section>"
    )


def _head(name: str, origin: str, kind: str = "", words: str = "") -> str:
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
    strength = direction.card.get("strength")
    if strength:
        low, high = strength["sweet"]
        words = f"the sweet spot when turned up; the text breaks above {strength['end']:.2g}"
        figures.append((f"{low:.2g} to {high:.2g}", words))
    elif auroc is not None:
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
        place = f"layer {layer}, {row_words(position)}"
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

    return squares(separation.positions, tokens, n_layers, cell, direction.layer)


def _squares_foot(direction: Direction, suggested: tuple[int, int], separation: Separation) -> str:
    n_layers = separation.auroc.shape[1]
    chosen = (direction.position, direction.layer)
    parts = [f"<b>chosen: layer {direction.layer}, {row_words(direction.position)}</b>"]
    if chosen == suggested:
        parts[0] = parts[0].replace("chosen:", "chosen, as suggested:")
    else:
        parts.append(f'<span class="key-suggested">suggested: layer {suggested[1]}, {row_words(suggested[0])}</span>')
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
    return squares_table(("Position", "Layer", "AUROC", "Sorted right"), rows)
