"""The “Evaluate” tab: its components, and which handler of `evaluate_handlers` each of them calls."""

from __future__ import annotations

from typing import Any

import gradio as gr

from steering.ui import evaluate_words as words
from steering.ui.chat import Chat
from steering.ui.evaluate_found import HELD_OUT
from steering.ui.evaluate_handlers import EvaluateHandlers, named_choices
from steering.ui.evaluate_markup import command_html
from steering.ui.explain_pieces import waiting
from steering.ui.layout import Components
from steering.ui.pieces import fixed, focus_back, focus_on
from steering.ui.second_model import LONGEST_NAME
from steering.ui.session import Sessions

VISITORS_AT_ONCE = 32


def build_evaluate_tab(components: Components, chat: Chat, sessions: Sessions) -> None:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    handlers = EvaluateHandlers(chat, sessions)
    with components.evaluate_tab, gr.Column(elem_id="evaluate", min_width=0):
        what = _html("evaluate-what")
        with gr.Row(elem_id="evaluate-ask"):
            count = gr.Radio(
                list(handlers.counts),
                value=handlers.counts[1],
                label="Questions of each kind",
                elem_id="evaluate-count",
                min_width=0,
            )
            length = gr.Radio(
                list(handlers.lengths),
                value=handlers.lengths[0],
                label="Longest answer, tokens",
                elem_id="evaluate-length",
                min_width=0,
            )
            which = gr.Radio(
                [words.HARMLESS_ONLY, words.BOTH],
                value=words.BOTH,
                label="Which questions",
                elem_id="evaluate-which",
                min_width=0,
            )
            run = gr.Button("Evaluate", variant="primary", elem_id="evaluate-run", min_width=0)
            cancel = gr.Button("Cancel", variant="stop", elem_id="evaluate-cancel", min_width=0, visible=False)
        more = _more(handlers)
        progress = _html("evaluate-progress")
        found = _html("evaluate-found", waiting(words.PLOTS, words.FIRST))
        beside = _html("evaluate-beside")
        fixed(command_html(), "evaluate-command")
    components.evaluate_tab.select(handlers.show, None, [what], **_SHORT)
    components.in_use.change(handlers.show, None, [what], trigger_mode="always_last", **_SHORT)
    run.click(
        handlers.evaluate,
        [count, length, which, components.strength, *more],
        [progress, run, cancel, what, found, beside],
        js=focus_on("evaluate-cancel", "evaluate-run"),
        concurrency_limit=VISITORS_AT_ONCE,
        **_SHORT,
    ).then(None, None, None, js=focus_back("evaluate-run"), **_SHORT)
    cancel.click(handlers.errands.cancel, None, None, queue=False, **_SHORT)


def _more(handlers: EvaluateHandlers) -> list[gr.components.Component]:
    """What only the person at the machine may ask for; behind a word that opens it."""
    with (
        gr.Accordion(words.MORE, open=False, elem_id="evaluate-more", visible=handlers.has_more),
        gr.Row(elem_id="evaluate-others"),
    ):
        sets = [
            gr.Dropdown(
                named_choices(side),
                value=HELD_OUT,
                label=words.FROM[side],
                elem_id=f"evaluate-{side}",
                interactive=True,
                filterable=False,
                min_width=0,
            )
            for side in handlers.SIDES
        ]
        fixed(f'<p class="hint">{words.FETCHED}</p>', "evaluate-fetched")
        judge = gr.Textbox(
            label=words.JUDGE,
            info=words.JUDGE_HELP,
            placeholder=words.JUDGE_EXAMPLE,
            lines=1,
            max_length=LONGEST_NAME,
            elem_id="evaluate-judge",
            interactive=True,
            min_width=0,
        )
        edited = gr.Checkbox(
            label=words.EDITED, info=words.EDITED_HELP, elem_id="evaluate-edited", interactive=True, min_width=0
        )
    return [*sets, judge, edited]


def _html(elem_id: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=elem_id)


_SHORT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

__all__ = ["build_evaluate_tab"]
