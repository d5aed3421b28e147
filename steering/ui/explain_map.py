"""The map of heads: what each wrote along the direction, as squares that can be pressed to see where the head looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.ui import explain_words as words
from steering.ui.make_words import escaped
from steering.ui.squares import named_layers

if TYPE_CHECKING:
    from steering.ui.explain_found import Head, Heads

MLP = "mlp"  # in place of a head's number
FAINT = 0.72  # the power that lifts what is small, as on the chat's map
LEAST_WIDTH, HEAD_WIDTH = 28, 64  # px of a square, and of what stands left of them


def head_squares(heads: Heads, chosen: Head) -> str:
    """The map: heads down, and the MLP below them; layers across. Orange along the direction, blue against it.

    chosen: the square that is pressed, and that the Tab key leads to.
    """
    n_layers, n_heads = len(heads.values), len(heads.values[0])
    most = max(abs(value) for row in (*heads.values, heads.mlps) for value in row) or 1.0

    def cell(name: str, position: str, layer: int, value: float) -> str:
        place = None if position == MLP else (layer, int(position))
        kinds = {"against": value < 0, "suggested": place in heads.top}
        said = escaped(f"layer {layer}, {name}: {words.wrote(value)}")
        return (
            f'<td class="{" ".join(kind for kind, holds in kinds.items() if holds)}" '
            f'style="--value:{(abs(value) / most) ** FAINT:.3f}"><button type="button" data-position="{position}" '
            f'data-layer="{layer}" tabindex="{0 if place == chosen else -1}" '
            f'aria-pressed="{_truth(place == chosen)}" aria-label="{said}" title="{said}"></button></td>'
        )

    def row(name: str, position: str, values: Sequence[float]) -> str:
        cells = "".join(cell(name, position, layer, value) for layer, value in enumerate(values))
        return f'<tr><th scope="row">{name}</th>{cells}</tr>'

    rows = [row(f"head {head}", str(head), [values[head] for values in heads.values]) for head in range(n_heads)]
    rows.append(row("MLP", MLP, heads.mlps))
    names = named_layers(n_layers, chosen[0])
    head = "".join(
        f'<th scope="col">{layer if layer in names else _unseen(str(layer))}</th>' for layer in range(n_layers)
    )
    return (
        '<div class="squares-box explain-map"><table class="squares" '
        f'style="min-width: {HEAD_WIDTH + n_layers * LEAST_WIDTH}px" aria-label="{words.MAP_NAME}">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _unseen(text: str) -> str:
    return f'<i class="unseen">{text}</i>'


def head_buttons(heads: Heads, chosen: Head) -> str:
    """The heads that wrote most, one press each."""
    buttons = "".join(
        f'<button type="button" data-position="{head}" data-layer="{layer}" '
        f'aria-pressed="{_truth((layer, head) == chosen)}">{_name((layer, head))}'
        f"<span>{words.wrote(heads.wrote((layer, head)))}</span></button>"
        for layer, head in heads.top
    )
    return f'<div class="explain-top" role="group" aria-label="The heads that wrote most">{buttons}</div>'


def _name(head: Head) -> str:
    name = words.head_name(head)
    return name[0].upper() + name[1:]
