"""The HTML of the three steps of “Make a direction”. Texts from people and files pass through `escaped`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.ui.make_words import escaped

if TYPE_CHECKING:
    from steering.contrast import ContrastSet, Example

PAIRS_SHOWN = 3
LONGEST_EXAMPLE = 140  # characters of a text in the table of examples


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


def progress_html(part: float | None, words: str, more: str = "", label: str = "Finding the direction") -> str:
    """The bar, or only its words while nothing can be measured (``part`` None); ``label`` names it, and is ours."""
    bar = ""
    if part is not None:
        percent = round(100 * min(1.0, max(0.0, part)))
        bar = (
            f'<div class="progress" role="progressbar" aria-label="{label}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        )
    after = f" · {escaped(more)}" if more else ""
    return f'{bar}<p class="progress-words"><b>{escaped(words)}</b>{after}</p>'


def done_html(words: str, more: str) -> str:
    """How finding a direction ended, when nothing is wrong; screen readers speak it."""
    return f'<p class="progress-words" role="status"><b>{escaped(words)}</b> {escaped(more)}</p>'
