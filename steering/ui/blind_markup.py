"""The HTML of the “Blind test” tab. Texts from people, models and files pass through `escaped`."""

from __future__ import annotations

from collections.abc import Sequence

from steering.ui.blind_votes import LETTERS, SHORT_NAMES, Round, share_words, shares, tally_words
from steering.ui.make_words import escaped
from steering.ui.markup import swatch
from steering.ui.scope import State
from steering.ui.settings import SETTINGS

INTRO = (
    "<h2>Which answer sounds most human?</h2>"
    '<p class="step-words">Ask one question. The same model answers three times: as it is, with one idea taken out, '
    "and with it turned up. The answers come complete, in random order and without labels, and end at "
    f"{SETTINGS['max_new_tokens']} tokens, even mid-sentence. Press the one that sounds most human; then the labels "
    "appear.</p>"
)
TRY = '<span class="try-word">Try</span>'
SPOKEN = '<div id="blind-spoken" class="unseen" aria-live="polite"></div>'
EMPTY = "The answer appears here."
FORGOTTEN = '<p class="forgotten" tabindex="-1">Your votes are forgotten.</p>'


def status_html(state: State, words: str, spoken: str | None = None) -> str:
    """The status line. ``spoken`` is what screen readers say of it, only when it differs from what they said last."""
    say = words if spoken is None else spoken
    return (
        f'<div class="status" data-s="{state}" data-say="{escaped(say)}"><i aria-hidden="true"></i>'
        f"<span>{escaped(words)}</span></div>"
    )


def answer_html(place: int, text: str | None = None) -> str:
    """An answer without its label; the markup of all three is the same but for letter and text."""
    words = f'<p class="blind-empty">{EMPTY}</p>' if text is None else _text(text)
    return f'<article class="blind-answer"><h3 tabindex="-1">Answer {LETTERS[place]}</h3>{words}</article>'


def revealed_html(round_: Round, place: int, chosen: int) -> str:
    """An answer with its label."""
    variant = round_.order[place]
    label = escaped(round_.label(place))
    mark = '<b class="blind-chosen">Your choice</b>' if place == chosen else ""
    return (
        f'<article class="blind-answer v{variant}{" chosen" if mark else ""}"><h3 tabindex="-1">'
        f"Answer {LETTERS[place]}{swatch(variant)}<span>{label[:1].upper()}{label[1:]}</span></h3>{mark}"
        f"{_text(round_.replies[place])}</article>"
    )


def _text(text: str) -> str:
    return f'<p class="blind-text">{escaped(text)}</p>'


def revealed_words(round_: Round, chosen: int, *, counted: bool) -> str:
    """What was chosen; the head of the result."""
    again = "" if counted else '<p class="hint">Not counted: you have voted on this question before.</p>'
    return f'<h3 tabindex="-1">You chose answer {LETTERS[chosen]}: {escaped(round_.label(chosen))}.</h3>{again}'


def tally_html(counted: Sequence[int], title: str, model: str) -> str:
    """The tally in words and as bars; ``title`` is the idea's, ``model`` the model's label."""
    if not sum(counted):
        return (
            f'<p class="hint">No vote yet on {escaped(title)} with {escaped(model)}. Votes are kept in this browser '
            "only.</p>"
        )
    rows = "".join(
        f'<div class="tally-row v{variant}">{swatch(variant)}<span>{name}</span>'
        f'<i style="--low:{share.low:.4f};--value:{share.value:.4f};--high:{share.high:.4f}"></i>'
        f"<output>{share_words(share)}</output></div>"
        for variant, (name, share) in enumerate(zip(SHORT_NAMES, shares(counted), strict=True))
    )
    return (
        f'<p class="tally-words">{tally_words(counted)}</p><div class="tally" aria-hidden="true">{rows}</div>'
        f'<p class="hint">{escaped(title)} with {escaped(model)}. In brackets: 95 % intervals (Wilson). The line '
        "stands at one third, where guessing ends up. Votes are kept in this browser only.</p>"
    )
