"""The HTML of the “Take it home” tab. Texts from people, files and the library pass through `escaped`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steering.exchange_kinds import USES
from steering.ui import take_home_words as words
from steering.ui.make_markup import problem_html, step
from steering.ui.make_words import escaped

WHOLE = "It holds all of the direction, and comes back unchanged."


def what_html(title: str, model: str, layer: int | None, n_layers: int) -> str:
    """What leaves, and the heading of the first step."""
    return (
        f'<h2 class="home-title">{escaped(words.heading(title))}</h2>'
        f'<p class="step-words">{escaped(words.about(model, layer, n_layers))}</p>'
        f'<div class="home-step">{step(1, words.FILE_STEP)}</div><p class="step-words">{words.FILE_WORDS}</p>'
    )


def file_html(kind: str, notes: Sequence[str] = (), problem: str = "", *, is_there: bool = True) -> str:
    """What a kind of file is for and what it does not hold; the sentence when it cannot be had."""
    use = f'<p class="step-words">{escaped(USES[kind])}</p>'
    if problem:
        return use + problem_html(problem)
    if not is_there:
        return use
    return use + "".join(f'<p class="hint">{escaped(note)}</p>' for note in notes or (WHOLE,))


def brought_html(name: str, notes: Sequence[str]) -> str:
    """That a file's direction is in use now, and what was made up about it."""
    said = f'<p class="progress-words" role="status"><b>“{escaped(name)}”</b> is your own idea in the chat now.</p>'
    return said + "".join(f'<p class="hint">{escaped(note)}</p>' for note in notes)


def model_step_html(folder: Path) -> str:
    """The second step's heading, and where it writes to."""
    return (
        step(2, words.MODEL_STEP)
        + f'<p class="step-words">{escaped(words.MODEL_WORDS)}<code>{_literal(escaped(str(folder)))}</code>.</p>'
    )


def off_html() -> str:
    """In the place of the second and third step where they are not offered."""
    return (
        step(2, words.MODEL_STEP)
        + f'<p class="step-words">{escaped(words.OFF_WORDS)}</p>'
        + f'<pre class="home-code" tabindex="0">{_literal(escaped(words.OFF_COMMANDS))}</pre>'
    )


def push_step_html(may_push: bool) -> str:
    """The third step's heading."""
    said = words.PUSH_WORDS if may_push else words.NO_PUSH_WORDS
    return step(3, words.PUSH_STEP) + f'<p class="step-words">{escaped(said)}</p>'


def form_html(form: str, problem: str = "", note: str = "") -> str:
    """What a form of the model is, and why it cannot be had, where that is known already."""
    said = f'<p class="hint">{escaped(words.FORM_WORDS[form])}</p>'
    said += f'<p class="hint">{escaped(note)}</p>' if note else ""
    return said + (f'<p class="warning">{escaped(problem)}</p>' if problem else "")


def written_html(name: str, compared: str, folder: Path, code: str, note: str) -> str:
    """How writing ended: how near it is to what was seen, where it lies, and how it is loaded."""
    more = f'<p class="hint">{escaped(note)}</p>' if note else ""
    return (
        f'<section class="quality" aria-label="What was written"><div class="quality-head"><div>'
        f"<h2>{escaped(name)}</h2>"
        '<p role="status">Written, whole and checked</p></div></div>'
        f'<h3>Held against what you saw</h3><p class="home-compared">{escaped(compared)}</p>{more}'
        f'<h3>Where it lies</h3><p class="home-compared"><code>{escaped(str(folder))}</code></p>'
        f'<h3>Load it</h3><pre class="home-code" tabindex="0" aria-label="Python that loads it">{escaped(code)}</pre>'
        "</section>"
    )


def files_html(files: Mapping[str, int], where: str, is_public: bool, problem: str = "") -> str:
    """What would go to the hub, and why it cannot yet."""
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td>{words.size(n_bytes)}</td></tr>" for name, n_bytes in files.items()
    )
    seen_by = "everyone could see it" if is_public else "only you and your organisation could see it"
    return (
        f'<p class="progress-words" role="status"><b>This would go to {escaped(where)}</b>, and {seen_by}. Nothing was '
        'sent yet.</p><table class="pairs home-files"><thead><tr><th scope="col">File</th><th scope="col">Size</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
        + (f'<p class="warning">{escaped(problem)}</p>' if problem else "")
    )


def pushed_html(address: str, is_private: bool) -> str:
    """Where what was sent can be looked at."""
    seen_by = "Only you and your organisation see it." if is_private else "Everyone sees it."
    link = f'<a href="{escaped(address)}" target="_blank" rel="noopener">{escaped(address)}</a>'
    return f'<p class="progress-words" role="status"><b>Sent.</b> {seen_by} {link}</p>'


def said_html(sentence: str) -> str:
    """A sentence about something that went well or was asked for; screen readers speak it."""
    return f'<p class="progress-words" role="status">{escaped(sentence)}</p>' if sentence else ""


def _literal(markup: str) -> str:
    """Markup for a template: none of its text is one of Gradio's placeholders."""
    return markup.replace("{", "&#123;").replace("$", "&#36;")
