"""What the right half of “Make a direction” shows: the card with its controls, buttons and files, as things stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.ui import make_card, make_markup, make_words
from steering.ui.make_words import SEED
from steering.ui.make_work import write_files
from steering.ui.session import Making
from steering.ui.squares import tokens_of

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.ui.best_search import Search

Updates = list[Any]

N_RESULTS = 10  # outputs of `result`


def result(making: Making, folder: Path, problem: str = "", *, measuring: bool = False) -> Updates:
    """The card with its controls and files, as things stand, and a sentence about what did not work.

    Args:
        folder: where the files to download are written.
        measuring: whether the direction's figures are still on their way.
    """
    direction, search = making.direction, making.search
    note = make_markup.problem_html(problem)
    shown, hidden = gr.update(visible=True), gr.update(visible=False)
    can_relax = search is not None and search.choice.offer is not None and not measuring
    relax = gr.update(value=_relax_words(search), visible=True) if can_relax else hidden
    if direction is None:
        card = make_card.WELCOME
        if search is not None:
            card = make_card.missed_card(search) if search.choice.problem else make_card.searching_card(search)
        return [card, gr.update(), gr.update(), hidden, None, None, relax, hidden, _choices(search), note]
    can_measure = search is not None and not measuring and "trust" not in direction.card
    position, layer = _place(making, direction)
    usable = not measuring or "strength" in direction.card  # its controls may come later
    weights, card_file = write_files(direction, folder) if usable else (None, None)
    actions, measure = shown if usable else hidden, shown if can_measure else hidden
    card = _card(making, direction, measuring)
    return [card, position, layer, actions, weights, card_file, relax, measure, _choices(search), note]


def _card(making: Making, direction: Direction, measuring: bool) -> str:
    if making.search is not None:
        return make_card.search_card(making.search, direction, measuring)
    if making.candidates is None or making.separation is None:
        return make_card.loaded_card(direction)
    suggested, tokens = making.separation.suggested(), tokens_of(making.candidates.card)
    return make_card.card_html(direction, making.separation, suggested, tokens, SEED)


def _place(making: Making, direction: Direction) -> Updates:
    """The two controls that choose a place, set to the direction's."""
    candidates = making.search.candidates if making.search is not None else making.candidates
    if candidates is None:
        return [gr.update(), gr.update()]
    tokens = tokens_of(candidates.card)
    places = [(make_words.position_words(place, tokens), str(place)) for place in candidates.positions]
    return [
        gr.update(choices=places, value=str(direction.position)),
        gr.update(maximum=candidates.n_layers - 1, value=direction.layer),
    ]


def unchanged() -> Updates:
    """`result` when nothing of it has changed."""
    return [gr.skip()] * N_RESULTS


def _relax_words(search: Search | None) -> str:
    """What the button that relaxes a limit says."""
    assert search is not None
    assert search.choice.offer is not None
    before, after = search.limits, search.choice.offer
    if after.kl != before.kl:
        return f"Allow KL up to {after.kl:g} instead of {before.kl:g}"
    if after.depth != before.depth:
        return "Allow later layers too"
    return f"Ask for less when turned up: above {after.induce:.3g} instead of {before.induce:.3g}"


def _choices(search: Search | None) -> Any:
    """The first tokens that were found, to choose among; what was named by hand stays."""
    tokens = None if search is None else search.prepared.tokens
    return gr.update() if tokens is None else gr.update(choices=list(tokens.texts))
