"""What stands on the page: every component, its id and its place; no event handler.

Ids are stable (browser tests and scripts rely on them): ``#message #ask #stop #strength #pane-baseline
#pane-ablated #pane-added #scope``. Looks are in ``assets/frame.css`` (colours, frame, container queries; inlined
into the head) and ``assets/page.css`` (the rest, through ``css=``, which Gradio rewrites and prefixes). What the
browser does by itself is in ``assets/page.js`` (theme, drawer, widen, copy, strength words, keyboard and screen-reader
repairs) and ``assets/scope.js`` (everything that follows the log of `steering.ui.scope`).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.ui import markup
from steering.ui.how import how_it_works
from steering.ui.limits import Limits
from steering.ui.methods import ADDITION_HELP, ADDITIONS, REMOVAL_HELP, REMOVALS
from steering.ui.scope import ASSETS, VARIANTS, build_scope
from steering.ui.theme import InkOnPaper

NAMES = ("As it is", "Idea taken out", "Idea turned up")
SETTINGS: dict[str, Any] = {
    "system_prompt": "",
    "max_new_tokens": 120,
    "temperature": 0.0,
    "top_p": 1.0,
    "repetition_penalty": 1.15,
    "seed": 0,
    "third_answer": "added",
    "removal": "centred",
    "addition": "added",
    "thinking": False,
    "scroll_together": False,
}


@dataclass(frozen=True)
class Components:
    """The components that handlers read or write, by name.

    Notes for whoever wires them:
    - ``ask`` and ``stop`` take turns by the state in the scope's log; handlers need not show or hide them.
    - An empty message never reaches the server from the page: the browser says so under the box.
    - ``examples``: four buttons whose text is the question; set with ``gr.update(value=…)``, hide with ``visible``.
    - ``chats``: by variant name; a value is a list of ``{"role", "content"}``. Put every text through `as_text`.
    - ``strength``: 0 to ``maximum``; when the idea changes set ``maximum``/``step`` here and send an `idea_line`.
    - ``third_answer``: "added" or "opposite"; ``removal`` and ``addition``: as in `methods`.
    - ``thinking`` is invisible until the model can think: ``gr.update(visible=True)``.
    - ``model_status`` is a read-only text; ``settings`` are the inputs that `SETTINGS` names, in its order.
    - ``edit`` should take the last turn back and put its question into ``message``.
    - ``make_tab`` and ``blind_tab`` are empty; enter them again (``with components.make_tab:``) to fill them.
    """

    tabs: gr.Tabs
    chat_tab: gr.Tab
    make_tab: gr.Tab
    blind_tab: gr.Tab
    idea: gr.Radio
    message: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    examples: list[gr.Button]
    strength: gr.Slider
    chats: dict[str, gr.Chatbot]
    retry: gr.Button
    undo: gr.Button
    edit: gr.Button
    idea_card: gr.Button
    clear: gr.Button
    scope: gr.HTML
    model: gr.Dropdown
    model_status: gr.Textbox
    settings: dict[str, gr.components.Component]
    reset_settings: gr.Button


def build_layout(
    *,
    ideas: Sequence[tuple[str, str]],
    idea: str,
    question: str,
    examples: Sequence[str],
    models: Sequence[tuple[str, str]],
    models_left_out: Sequence[tuple[str, str]],
    model: str,
    strength: float,
    strength_maximum: float,
    strength_step: float = 0.1,
    log: str,
    limits: Limits,
) -> Components:
    """Create the whole page inside the current ``gr.Blocks(fill_width=True)``.

    ``ideas`` and ``models`` are (label, value) pairs, ``models_left_out`` (label, reason); ``examples`` are four
    questions; ``log`` is the scope's first value, at least an `idea_line` and a `state_line`.
    """
    _fixed(markup.HEADER, "topwrap")
    with gr.Tabs(elem_id="tabs", selected="chat") as tabs:
        with gr.Tab("Chat", id="chat", elem_id="tab-chat") as chat_tab:
            with gr.Row(elem_id="console"):
                with gr.Column(elem_id="asking", min_width=0):
                    idea_choice = gr.Radio(list(ideas), value=idea, label="Idea", elem_id="idea", interactive=True)
                    with gr.Row(elem_id="question"):
                        message = gr.Textbox(
                            question,
                            label="Your question",
                            lines=1,
                            max_lines=3,
                            max_length=limits.characters,
                            elem_id="message",
                            interactive=True,
                        )
                        ask = gr.Button("Ask all three", variant="primary", elem_id="ask", min_width=0)
                        stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=0)
                    example_buttons = _examples(examples)
                with gr.Column(elem_id="strongly", min_width=0):
                    strength_slider = gr.Slider(
                        0,
                        strength_maximum,
                        value=strength,
                        step=strength_step,
                        label="How strongly",
                        elem_id="strength",
                        buttons=[],
                        interactive=True,
                    )
                    _fixed(markup.ZONES, "zonewrap")
            _fixed(markup.variant_buttons("Answer to look at", pressed=0), "switcher")
            with gr.Row(elem_id="panes"):
                chats = {name: _pane(name, variant) for variant, name in enumerate(VARIANTS)}
            with gr.Row(elem_id="statusbar"):
                _fixed(markup.STATUS, "status")
                retry = _action("Try again", "retry")
                undo = _action("Undo", "undo")
                edit = _action("Edit", "edit")
                clear = _action("Clear", "clear")
                idea_card = _action("Its card", "idea-card")
            scope = build_scope(log)
        with gr.Tab("Make a direction", id="make", elem_id="tab-make") as make_tab:
            pass
        with gr.Tab("Blind test", id="blind", elem_id="tab-blind") as blind_tab:
            pass
        with gr.Tab("How it works", id="how", elem_id="tab-how"):
            how_it_works()
    _fixed(markup.FOOT, "foot")
    model_choice, model_status, settings, reset = _settings(models, models_left_out, model, limits)
    return Components(
        tabs=tabs,
        chat_tab=chat_tab,
        make_tab=make_tab,
        blind_tab=blind_tab,
        idea=idea_choice,
        message=message,
        ask=ask,
        stop=stop,
        examples=example_buttons,
        strength=strength_slider,
        chats=chats,
        retry=retry,
        undo=undo,
        edit=edit,
        idea_card=idea_card,
        clear=clear,
        scope=scope,
        model=model_choice,
        model_status=model_status,
        settings=settings,
        reset_settings=reset,
    )


def page_options() -> dict[str, Any]:
    """Keyword arguments for ``Blocks.launch``: theme, styles, scripts, icon."""
    frame = (ASSETS / "frame.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return {
        "theme": InkOnPaper(),
        "css": "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "make.css", "blind.css")),
        "head": f'<meta name="description" content="{markup.DESCRIPTION}">\n<style>\n{frame}\n</style>\n'
        f"<script>\n{script}\n</script>\n",
        "favicon_path": ASSETS / "favicon.svg",
    }


def as_text(text: str) -> str:
    """A text from a person, a model or a file, for a Chatbot: shown letter by letter, never taken for markup."""
    return html.escape(text, quote=False)


def _fixed(template: str, elem_id: str) -> gr.HTML:
    """Markup of our own that never changes from the server's side."""
    return gr.HTML(html_template=template, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _examples(questions: Sequence[str]) -> list[gr.Button]:
    with gr.Row(elem_id="try"):
        _fixed(markup.TRY_HEAD, "try-head")
        return [gr.Button(question, size="sm", elem_classes="try-button", min_width=0) for question in questions]


def _pane(name: str, variant: int) -> gr.Chatbot:
    with gr.Column(elem_id=f"pane-{name}", elem_classes=["pane", f"pane-v{variant}"], min_width=0):
        _fixed(markup.pane_head(variant, NAMES[variant]), f"head-{name}")
        return gr.Chatbot(
            elem_id=f"chat-{name}",
            elem_classes="chat",
            label=NAMES[variant],
            show_label=False,
            container=False,
            layout="panel",
            height=244,
            buttons=[],
            feedback_options=None,
            sanitize_html=True,
            allow_tags=False,
            render_markdown=False,
            latex_delimiters=[],
            group_consecutive_messages=False,
        )


def _action(words: str, elem_id: str) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=elem_id, elem_classes="quiet", min_width=0)


def _settings(
    models: Sequence[tuple[str, str]], left_out: Sequence[tuple[str, str]], model: str, limits: Limits
) -> tuple[gr.Dropdown, gr.Textbox, dict[str, gr.components.Component], gr.Button]:
    start = SETTINGS
    with gr.Column(elem_id="settings", min_width=0):
        _fixed(markup.SETTINGS_HEAD, "settings-head")
        model_choice = gr.Dropdown(
            list(models), value=model, label="Model", elem_id="model", interactive=True, filterable=False
        )
        model_status = gr.Textbox(
            "",
            label="About this model",
            show_label=False,
            lines=1,
            max_lines=5,
            interactive=False,
            elem_id="model-status",
        )
        if left_out:
            _fixed(markup.models_left_out(left_out), "models-left-out")
        settings: dict[str, gr.components.Component] = {
            "system_prompt": gr.Textbox(
                start["system_prompt"],
                label="System prompt",
                placeholder="The model's own",
                lines=2,
                max_lines=6,
                max_length=limits.characters,
                elem_id="system-prompt",
                interactive=True,
            ),
            "max_new_tokens": _number_slider(
                "Longest answer, in tokens", 20, limits.tokens, start["max_new_tokens"], 1
            ),
            "temperature": _number_slider(
                "Temperature", 0, 1.5, start["temperature"], 0.05, "0 gives the same answer each time"
            ),
            "top_p": _number_slider("Top-p", 0.05, 1, start["top_p"], 0.05, "Counts when the temperature is above 0"),
            "repetition_penalty": _number_slider(
                "Repetition penalty", 1, 1.5, start["repetition_penalty"], 0.05, "1 is none; small models loop without"
            ),
            "seed": gr.Number(
                start["seed"], label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed", interactive=True
            ),
            "third_answer": gr.Radio(
                [("Turned up", "added"), ("Its opposite", "opposite")],
                value=start["third_answer"],
                label="Third answer",
                elem_id="third-answer",
                elem_classes="pills",
                interactive=True,
            ),
            "removal": gr.Radio(
                [(words, name) for name, words in REMOVALS.items()],
                value=start["removal"],
                label="How it is taken out",
                info=REMOVAL_HELP,
                elem_id="removal",
                elem_classes="pills",
                interactive=True,
            ),
            "addition": gr.Radio(
                [(words, name) for name, words in ADDITIONS.items()],
                value=start["addition"],
                label="How it is turned up",
                info=ADDITION_HELP,
                elem_id="addition",
                elem_classes="pills",
                interactive=True,
            ),
            "thinking": gr.Checkbox(
                start["thinking"],
                label="Let the model think first",
                elem_id="thinking",
                interactive=True,
                visible=False,
            ),
            "scroll_together": gr.Checkbox(
                start["scroll_together"],
                label="Scroll the three answers together",
                elem_id="scroll-together",
                interactive=True,
            ),
        }
        reset = gr.Button("Reset settings", size="sm", elem_id="reset-settings")
    return model_choice, model_status, settings, reset


def _number_slider(
    label: str, minimum: float, maximum: float, value: float, step: float, info: str | None = None
) -> gr.Slider:
    return gr.Slider(
        minimum,
        maximum,
        value=value,
        step=step,
        label=label,
        info=info,
        buttons=[],
        elem_classes="number",
        interactive=True,
    )
