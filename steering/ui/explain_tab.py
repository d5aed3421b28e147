"""The “Explain” tab: its components, and which handler of `explain_handlers` each of them calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.ui import explain_more as more
from steering.ui import explain_words as words
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.explain_handlers import ExplainHandlers
from steering.ui.explain_pieces import waiting
from steering.ui.layout import Components
from steering.ui.limits import Limits
from steering.ui.pieces import fixed, focus_back, focus_on
from steering.ui.second_model import LONGEST_NAME
from steering.ui.session import Sessions
from steering.ui.squares import SQUARES_SCRIPT

VISITORS_AT_ONCE = 32


@dataclass(frozen=True)
class Asking:
    """A box, the button that starts, the one that cancels, and the line that says how far it is."""

    text: gr.Textbox
    run: gr.Button
    cancel: gr.Button
    progress: gr.HTML


def build_explain_tab(components: Components, chat: Chat, sessions: Sessions) -> None:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    handlers = ExplainHandlers(chat, sessions)
    limits = chat.operator.limits
    with components.explain_tab, gr.Column(elem_id="explain", min_width=0):
        what = _html("explain-what")
        prompt = _asking("explain", "The prompt", words.FIRST_PROMPT, "Explain", limits, is_primary=True)
        where = _html("explain-where", waiting(words.WHERE, words.WHERE_FIRST))
        with gr.Row(elem_id="explain-inside"):
            heads = gr.HTML(
                waiting(words.HEADS, words.HEADS_FIRST),
                js_on_load=_MAP_SCRIPT,
                apply_default_css=False,
                elem_id="explain-heads",
            )
            looks = _html("explain-looks")
        with gr.Column(elem_classes="quality explain-card", elem_id="explain-suffix-card", min_width=0):
            fixed(_head(words.SUFFIX, words.SUFFIX_WORDS), "explain-suffix-words")
            suffix = _asking("explain-suffix", "The suffix", words.suffix_for(FIRST_IDEA), "Compare", limits)
            suffix_found = _html("explain-suffix-found")
        speaks = _html("explain-speaks", waiting(words.SPEAKS, words.SPEAKS_FIRST))
        base = _base_card(handlers, limits)
    chosen = [components.strength, components.settings["removal"], components.settings["addition"]]
    shown = [what, suffix.text]
    components.explain_tab.select(handlers.show, [suffix.text], shown, **_SHORT)
    components.in_use.change(handlers.refresh, [suffix.text], shown, **_LAST)
    _attach(prompt, handlers.explain, [prompt.text, *chosen], [what, where, heads, looks, speaks], handlers)
    heads.select(handlers.press, None, [looks], **_LAST)
    _attach(suffix, handlers.compare, [prompt.text, suffix.text, *chosen], [suffix_found], handlers)
    if base is not None:
        asking, found = base
        _attach(asking, handlers.compare_base, [asking.text, *chosen], [found], handlers)


def _html(elem_id: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _head(title: str, said: str) -> str:
    """A card's heading; both are ours."""
    return f'<h2>{title}</h2><p class="hint">{said}</p>'


def _asking(
    name: str, label: str, value: str, action: str, limits: Limits, *, is_primary: bool = False, longest: int = 0
) -> Asking:
    with gr.Row(elem_classes="explain-ask"):
        text = gr.Textbox(
            value,
            label=label,
            lines=1,
            max_lines=3,
            max_length=longest or limits.characters,
            elem_id=f"{name}-text",
            interactive=True,
            min_width=0,
        )
        kind = "primary" if is_primary else "secondary"
        run = gr.Button(action, variant=kind, elem_id=f"{name}-run", min_width=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id=f"{name}-cancel", min_width=0, visible=False)
    return Asking(text, run, cancel, _html(f"{name}-progress"))


def _base_card(handlers: ExplainHandlers, limits: Limits) -> tuple[Asking, gr.HTML] | None:
    """The base model's card; where none is loaded it says how the command line does it."""
    if not handlers.may_load_base:
        fixed(more.base_off_html(), "explain-base-off")
        return None
    with gr.Column(elem_classes="quality explain-card", elem_id="explain-base-card", min_width=0):
        fixed(_head(words.BASE, words.BASE_WORDS), "explain-base-words")
        asking = _asking("explain-base", words.BASE_LABEL, "", "Compare with it", limits, longest=LONGEST_NAME)
        return asking, _html("explain-base-found")


def _attach(
    asking: Asking,
    handler: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    handlers: ExplainHandlers,
) -> None:
    run, cancel = asking.run.elem_id, asking.cancel.elem_id
    gr.on(
        [asking.run.click, asking.text.submit],
        handler,
        inputs,
        [asking.progress, asking.run, asking.cancel, *outputs],
        js=focus_on(str(cancel), str(run)),
        **_LONG,
    ).then(None, None, None, js=focus_back(str(run)), **_SHORT)
    asking.cancel.click(handlers.errands.cancel, None, None, queue=False, **_SHORT)


# What is pressed shows so at once, in the map and among the buttons over it; where it looks comes from the server.
_MAP_SCRIPT = (
    SQUARES_SCRIPT
    + """
const bringIntoView = () => {
  const box = element.querySelector('.explain-map');
  const square = box?.querySelector('button[aria-pressed=true]')?.closest('td');
  if (!square) return;
  const names = box.querySelector('th').offsetWidth;  // they stay where they are, over what is scrolled
  const { offsetLeft: left, offsetTop: top, offsetWidth: width, offsetHeight: height } = square;
  if (left < box.scrollLeft + names || left + width > box.scrollLeft + box.clientWidth) {
    box.scrollLeft = left - (box.clientWidth + names) / 2;
  }
  if (top < box.scrollTop || top + height > box.scrollTop + box.clientHeight) {
    box.scrollTop = top - box.clientHeight / 2;
  }
};
element.addEventListener('click', (event) => {
  const pressed = event.target.closest('button[data-layer]');
  if (!pressed) return;
  const { position, layer } = pressed.dataset;
  for (const button of element.querySelectorAll('button[data-layer]')) {
    const same = button.dataset.position === position && button.dataset.layer === layer;
    button.setAttribute('aria-pressed', String(same));
    if (button.closest('td')) button.tabIndex = same ? 0 : -1;
  }
  bringIntoView();
});
watch('value', () => requestAnimationFrame(bringIntoView));
"""
)

_SHORT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_LAST: dict[str, Any] = _SHORT | {"trigger_mode": "always_last"}
_LONG: dict[str, Any] = _SHORT | {"concurrency_limit": VISITORS_AT_ONCE}

__all__ = ["build_explain_tab"]
