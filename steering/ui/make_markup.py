"""The HTML of the “Make a direction” tab. Every text from a person, a file or a tokenizer passes through `escaped`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.contrast import ContrastSet, Example
    from steering.directions import Direction
    from steering.metrics import Separation

RESPONSE = 0  # steering.activations.RESPONSE; importing that would load torch before the page is up
PAIRS_SHOWN = 3
LONGEST_EXAMPLE = 140  # characters of a text in the table of examples
LONGEST_TOKEN = 12  # characters of a token beside its row of squares
TOO_LATE = 0.8  # of the depth; from there on too little of the model is left to act on (the paper's limit)
# AUROC from which the held-out texts count as sorted well, or partly.
SORTED_WELL, SORTED_PARTLY = 0.9, 0.7

WELCOME = (
    '<section class="quality waiting"><h2>Your direction appears here</h2><p>First the map of places to look, a layer '
    "and a position each; then a card that says how well the best one tells apart texts it was not made from.</p>"
    "</section>"
)


def escaped(text: str) -> str:
    """A text from outside as it stands, never as markup."""
    return html.escape(text)


# ---------------------------------------------------------------------- words


def default_name(stem: str) -> str:
    """A name for people from a file's name without its ending."""
    words = re.sub(r"[_\-.\s]+", " ", stem).strip()
    return (words[:1].upper() + words[1:])[:80] or "My idea"


def file_name(name: str, ending: str) -> str:
    """A name for a file from a direction's name: lower-case letters, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return f"{plain or 'direction'}{ending}"


def visible_token(token: str) -> str:
    """A token so that it can be seen: line breaks as ↵, spaces as ␣, marks of the template in ‹ ›."""
    mark = re.fullmatch(r"<\|?(.+?)\|?>", token.strip())
    if mark:
        return f"‹{mark[1]}›"
    return token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") or "∅"


def signed(position: int) -> str:
    """A position as it is written everywhere on the page: with a real minus sign."""
    return f"−{-position}" if position < 0 else str(position)


def position_words(position: int, tokens: Mapping[int, str]) -> str:
    """What a position is, for people; not escaped."""
    if position == RESPONSE:
        return "mean over the reply"
    seen = visible_token(tokens[position]) if position in tokens else ""
    if position == -1:
        return "position −1, the last token before the answer" + (f" ({seen})" if seen else "")
    return f"position {signed(position)}" + (f", the token {seen}" if seen else "")


def time_left(seconds: float) -> str:
    """About how long something still takes, in words that do not change too often."""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} seconds left"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'' if minutes == 1 else 's'} left"


def verdict(auroc: float) -> tuple[str, str]:
    """(class, words) for how well texts that it was not made from are told apart."""
    if auroc >= SORTED_WELL:
        return "good", "Tells them apart well"
    if auroc >= SORTED_PARTLY:
        return "partly", "Tells them apart partly"
    return "bad", "Hardly better than chance"


# ---------------------------------------------------------------------- the steps


def step(number: int, title: str) -> str:
    """A step's heading; ``title`` is ours."""
    return f'<div class="step"><span>{number}</span><h2>{title}</h2></div>'


def problem_html(sentence: str) -> str:
    """A sentence about something that did not work, spoken at once by screen readers."""
    return f'<p class="warning problem" role="alert">{escaped(sentence)}</p>' if sentence else ""


def warnings_html(sentences: Sequence[str]) -> str:
    return "".join(f'<p class="warning"><b>Worth a look.</b> {escaped(sentence)}</p>' for sentence in sentences)


def check_html(data: ContrastSet | None, split: str, warnings: Sequence[str], problem: str = "", hint: str = "") -> str:
    """Step 2: counts, examples and warnings of the set in hand; above them what was wrong with the newest file.

    ``split`` are the words of `split_words`; ``hint`` says what is still missing.
    """
    above = problem_html(problem) + (f'<p class="step-words">{escaped(hint)}</p>' if hint else "")
    if data is None:
        return above or '<p class="hint">What was read from your files appears here.</p>'
    if problem or hint:
        above += f'<p class="hint">Still in use: {escaped(data.name)}.</p>'
    counts = (
        f"<div><dt>show it</dt><dd>{len(data.positive)}</dd></div>"
        f"<div><dt>do not</dt><dd>{len(data.negative)}</dd></div>"
        f"<div><dt>to learn + to check, a side</dt><dd>{escaped(split)}</dd></div>"
    )
    return f'{above}<dl class="figures">{counts}</dl>{_pairs_table(data)}{warnings_html(warnings)}'


def split_words(train: ContrastSet, held_out: ContrastSet) -> str:
    """“48 + 16”, or both sides where they differ."""
    sides = [
        f"{len(learn)} + {len(check)}"
        for learn, check in ((train.positive, held_out.positive), (train.negative, held_out.negative))
    ]
    return sides[0] if sides[0] == sides[1] else " and ".join(sides)


def shown_pairs(data: ContrastSet) -> list[tuple[Example, Example]]:
    """Three examples a side; the two of a pair stand side by side."""
    partners = {example.pair: example for example in data.negative if example.pair is not None}
    pairs = [(example, partners[example.pair]) for example in data.positive if example.pair in partners]
    return (pairs or list(zip(data.positive, data.negative, strict=False)))[:PAIRS_SHOWN]


def _pairs_table(data: ContrastSet) -> str:
    rows = "".join(
        f"<tr><td>{escaped(_shortened(positive.text))}</td><td>{escaped(_shortened(negative.text))}</td></tr>"
        for positive, negative in shown_pairs(data)
    )
    return (
        '<table class="pairs"><thead><tr><th scope="col">Shows it</th><th scope="col">Does not</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_EXAMPLE else line[: LONGEST_EXAMPLE - 1].rstrip() + "…"


# ---------------------------------------------------------------------- step 3: progress


def progress_html(part: float | None, words: str, more: str = "") -> str:
    """The bar, or only its words while nothing can be measured (``part`` None)."""
    bar = ""
    if part is not None:
        percent = round(100 * min(1.0, max(0.0, part)))
        bar = (
            f'<div class="progress" role="progressbar" aria-label="Finding the direction" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        )
    after = f" · {escaped(more)}" if more else ""
    return f'{bar}<p class="progress-words"><b>{escaped(words)}</b>{after}</p>'


# ---------------------------------------------------------------------- the card


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


def loaded_card(direction: Direction, n_layers: int) -> str:
    """The card of a direction from a file: only what the file says, and no map, for that needs the texts."""
    card = direction.card
    origin = [f"from the file’s own card · {card.get('model_label') or card.get('model') or 'model not named'}"]
    if card.get("data"):
        origin.append(f"texts: {card['data']}")
    kind = words = ""
    auroc = card.get("auroc")
    if isinstance(auroc, float):
        kind, words = verdict(auroc)
    figures = _key_figures(card.get("sorted_right"), direction, n_layers, auroc, tokens_of(card))
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


def _squares(positions: Sequence[int], tokens: Mapping[int, str], n_layers: int, cell: Any, chosen: int | None) -> str:
    names = named_layers(n_layers, chosen)
    head = "".join(
        f'<th scope="col"{" class=chosen" if layer == chosen else ""}>{layer if layer in names else ""}</th>'
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
    return f'<table class="pairs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
