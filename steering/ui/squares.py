"""The map of places, a layer and a position each, as a table of squares; and the same as a table of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steering.ui.make_words import RESPONSE, escaped, signed, visible_token

LONGEST_TOKEN = 12  # characters of a token beside its row of squares
# Squares are one stop of the Tab key; arrows, Home and End move between them, and Enter or a press chooses. A button
# outside the map may name a square too.
SQUARES_SCRIPT = """
const squares = () => [...element.querySelectorAll('td > button[data-layer]')];
element.addEventListener('click', (event) => {
  const square = event.target.closest('button[data-layer]');
  if (square) trigger('select', { position: square.dataset.position, layer: square.dataset.layer });
});
element.addEventListener('keydown', (event) => {
  const square = event.target.closest('td > button[data-layer]');
  if (!square || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = squares();
  const row = all.filter((other) => other.dataset.position === square.dataset.position);
  const column = all.filter((other) => other.dataset.layer === square.dataset.layer);
  const next = {
    ArrowLeft: row[row.indexOf(square) - 1], ArrowRight: row[row.indexOf(square) + 1],
    ArrowUp: column[column.indexOf(square) - 1], ArrowDown: column[column.indexOf(square) + 1],
    Home: row[0], End: row[row.length - 1],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  for (const other of all) other.tabIndex = other === next ? 0 : -1;
  next.focus();
});
"""

TOO_LATE = 0.8  # of the depth; from there on too little of the model is left to act on (the paper's limit)


def tokens_of(card: Mapping[str, Any]) -> dict[int, str]:
    """The post-instruction tokens a card names, by position; empty when it names none."""
    listed = card.get("position_tokens")
    if not isinstance(listed, list) or not all(isinstance(token, str) for token in listed):
        return {}
    return {place - len(listed): token for place, token in enumerate(listed)}


def is_late(layer: int, n_layers: int) -> bool:
    """Whether too little of the model follows for the direction to act on."""
    return layer >= TOO_LATE * n_layers


def named_layers(n_layers: int, chosen: int | None) -> set[int]:
    """The columns that carry their number: every fourth, the last, and the chosen one, none beside another."""
    names = set(range(0, n_layers, 4))
    for layer in (n_layers - 1, *([] if chosen is None else [chosen])):
        names = {name for name in names if abs(name - layer) > 1} | {layer}
    return names


def squares(
    positions: Sequence[int],
    tokens: Mapping[int, str],
    n_layers: int,
    cell: Callable[[int, int], str],
    chosen: int | None,
    label: str = "How well each place tells the two sides apart",
) -> str:
    """The map as a table: positions down, layers across, each square being what ``cell`` writes."""
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
        f'<div class="squares-box"><table class="squares" aria-label="{label}">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _unseen(layer: int) -> str:
    """A column's number for screen readers alone."""
    return f'<i class="unseen">{layer}</i>'


def _row_head(position: int, tokens: Mapping[int, str]) -> str:
    if position == RESPONSE:
        return '<th scope="row">over the reply</th>'
    token = visible_token(tokens.get(position, ""))
    short = token if len(token) <= LONGEST_TOKEN else token[: LONGEST_TOKEN - 1] + "…"
    return f'<th scope="row" title="{escaped(token)}"><span>{escaped(short)}</span> {signed(position)}</th>'


def row_words(position: int) -> str:
    return "mean over the reply" if position == RESPONSE else f"position {signed(position)}"


def squares_table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """What a map shows, as a table to scroll in; rows are markup."""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return (
        '<div class="table-box" tabindex="0" role="region" aria-label="All candidates"><table class="pairs">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
