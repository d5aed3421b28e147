"""What stands on the page: every component, its id and its place; no event handler.

Ids are stable (browser tests and scripts rely on them): ``#message #ask #stop #strength #beside #pane-baseline #pane-
ablated #pane-added #pane-fourth #pane-fifth #scope``, and ``#served`` where servers answer (`remote_page`). There are
always five panes; the script shows as many as the log names columns. Looks are in ``assets/frame.css`` (colours,
frame, container queries; inlined into the head) and ``assets/page.css`` (the rest, through ``css=``, which Gradio
rewrites and prefixes). What the browser does by itself is in ``assets/page.js`` (theme, drawer, widen, copy, save,
strength words, keyboard and screen-reader repairs) and ``assets/scope*.js`` (everything that follows the log of
`steering.ui.scope`).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.report_pictures import STYLE as STYLE_OF_PICTURES
from steering.ui import markup
from steering.ui.columns import BESIDE
from steering.ui.how import how_it_works
from steering.ui.limits import Limits
from steering.ui.pieces import action, fixed
from steering.ui.scope import ASSETS, PLACES, build_scope
from steering.ui.settings import settings_drawer
from steering.ui.theme import InkOnPaper

NAMES = ("As it is", "Idea taken out", "Idea turned up", "Fourth answer", "Fifth answer")


@dataclass(frozen=True)
class Components:
    """The components that handlers read or write, by name.

    Notes for whoever wires them:
    - ``ask`` and ``stop`` take turns by the state in the scope's log; handlers need not show or hide them.
    - An empty message never reaches the server from the page: the browser says so under the box.
    - ``examples``: four buttons whose text is the question; set with ``gr.update(value=…)``, hide with ``visible``.
    - ``chats``: five, by place (`scope.PLACES`); a value is a list of ``{"role", "content"}``. Put every text through
      `as_text`. Which of them are shown follows from the log. A thought is a message of its own before its answer, with
      ``metadata={"title": "Thought", "status": "pending"}``, and "done" when it is over: that folds it.
    - ``strength``: 0 to ``maximum``; when the idea changes set ``maximum``/``step`` here and send an `idea_line`.
    - ``beside``: a key of `columns.SETS`. ``other_row`` holds ``other_idea`` and ``other_strength``, invisible until
      `gr.update(visible=True)`; the page has room for it without moving.
    - ``share``, ``copy_markdown``, ``save_run``: pressed by the buttons that are seen. Let the handler put a text into
      ``carried``, then hand it on in the browser: ``.then(None, carried, None, js=COPY_LINK)``, and so on.
    - ``branch_back`` and ``branch_on`` are shown when a `branch_line` names more than one branch.
    - ``scope.select`` asks what might have been said at a token (``number`` of the `gr.EventData`); the answer, a
      `likeliest_line`, goes into ``looked``.
    - ``third_answer``: "added" or "opposite"; ``removal`` and ``addition``: as in `methods`.
    - ``thinking`` and ``thinking_acts`` are invisible until the model can think: ``gr.update(visible=True)``.
    - ``in_use`` holds the name and revision of the model in use once it is there, and so tells when another came.
    - ``model_status`` is a read-only text; ``settings`` are the inputs that `SETTINGS` names, in its order.
    - ``edit`` should take the last turn back and put its question into ``message``.
    - ``make_tab``, ``blind_tab``, ``explain_tab``, ``evaluate_tab`` and ``home_tab`` are empty; enter them again
      (``with components.make_tab:``) to fill them.
    """

    tabs: gr.Tabs
    chat_tab: gr.Tab
    make_tab: gr.Tab
    blind_tab: gr.Tab
    explain_tab: gr.Tab
    evaluate_tab: gr.Tab
    home_tab: gr.Tab
    idea: gr.Radio
    message: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    examples: list[gr.Button]
    strength: gr.Slider
    beside: gr.Radio
    other_row: gr.Row
    other_idea: gr.Dropdown
    other_strength: gr.Slider
    chats: list[gr.Chatbot]
    branch_back: gr.Button
    branch_on: gr.Button
    retry: gr.Button
    undo: gr.Button
    edit: gr.Button
    idea_card: gr.Button
    clear: gr.Button
    share: gr.Button
    copy_markdown: gr.Button
    save_run: gr.Button
    carried: gr.Textbox
    in_use: gr.Textbox
    scope: gr.HTML
    looked: gr.HTML
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
    besides: Sequence[tuple[str, str]] = BESIDE,
    answers: Sequence[Any] = ((),) * len(PLACES),
    log: str,
    limits: Limits,
    foot: str = markup.FOOT,
) -> Components:
    """Create the whole page inside the current ``gr.Blocks(fill_width=True)``.

    ``ideas``, ``models`` and ``besides`` are (label, value) pairs, ``models_left_out`` (label, reason); ``examples``
    are four questions; ``answers`` are the messages that the panes begin with; ``log`` is the scope's first
    value, at least an `idea_line` and a `state_line`.
    """
    fixed(markup.HEADER, "topwrap")
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
                    fixed(markup.ZONES, "zonewrap")
                    beside = gr.Radio(
                        list(besides), value=besides[0][1], label="Compare with", elem_id="beside", interactive=True
                    )
                    other_row, other_idea, other_strength = _other(ideas, strength, strength_maximum, strength_step)
            fixed(markup.column_buttons("Answer to look at", pressed=0), "switcher")
            with gr.Row(elem_id="panes"):
                chats = [_pane(name, column, answers[column]) for column, name in enumerate(PLACES)]
            with gr.Row(elem_id="statusbar"):
                fixed(markup.STATUS, "status")
                branch_back, branch_on = _branches()
                retry, undo, edit, clear, idea_card = (
                    action(words, elem_id)
                    for words, elem_id in zip(
                        markup.ACTIONS, ("retry", "undo", "edit", "clear", "idea-card"), strict=True
                    )
                )
                fixed(markup.TAKE, "takewrap")
            scope = build_scope(log)
            looked = _looked()
            share, copy_markdown, save_run = (
                gr.Button(words, elem_id=elem_id, visible="hidden")
                for words, elem_id in (
                    ("Copy link", "share-now"),
                    ("Copy as Markdown", "copy-markdown-now"),
                    ("Download run", "save-run-now"),
                )
            )
            carried = gr.Textbox(label="Carried", elem_id="carried", visible="hidden", interactive=True)
            in_use = gr.Textbox(label="The model in use", elem_id="in-use", visible="hidden")
        with gr.Tab("Make a direction", id="make", elem_id="tab-make") as make_tab:
            pass
        with gr.Tab("Blind test", id="blind", elem_id="tab-blind") as blind_tab:
            pass
        with gr.Tab("Explain", id="explain", elem_id="tab-explain") as explain_tab:
            pass
        with gr.Tab("Evaluate", id="evaluate", elem_id="tab-evaluate") as evaluate_tab:
            pass
        with gr.Tab("Take it home", id="home", elem_id="tab-home") as home_tab:
            pass
        with gr.Tab("How it works", id="how", elem_id="tab-how"):
            how_it_works()
    fixed(foot, "foot")
    model_choice, model_status, settings, reset = settings_drawer(models, models_left_out, model, limits)
    return Components(
        tabs=tabs,
        chat_tab=chat_tab,
        make_tab=make_tab,
        blind_tab=blind_tab,
        explain_tab=explain_tab,
        evaluate_tab=evaluate_tab,
        home_tab=home_tab,
        idea=idea_choice,
        message=message,
        ask=ask,
        stop=stop,
        examples=example_buttons,
        strength=strength_slider,
        beside=beside,
        other_row=other_row,
        other_idea=other_idea,
        other_strength=other_strength,
        chats=chats,
        branch_back=branch_back,
        branch_on=branch_on,
        retry=retry,
        undo=undo,
        edit=edit,
        idea_card=idea_card,
        clear=clear,
        share=share,
        copy_markdown=copy_markdown,
        save_run=save_run,
        carried=carried,
        in_use=in_use,
        scope=scope,
        looked=looked,
        model=model_choice,
        model_status=model_status,
        settings=settings,
        reset_settings=reset,
    )


# What a handler's ``js=`` does with a text that it was given: copy or save it, and say so. Only the browser knows the
# address that a link without one leads to.
COPY_LINK = "(text) => { steeringPage.copy(new URL(text, location.href).href, 'share'); }"
COPY_MARKDOWN = "(text) => { steeringPage.copy(text, 'copy-markdown'); }"
SAVE_RUN = "(text) => { steeringPage.save('steering-run.json', text, 'application/json'); }"


STYLES = ("page.css", "make.css", "blind.css", "explain.css", "evaluate.css", "home.css")


def page_options() -> dict[str, Any]:
    """Keyword arguments for ``Blocks.launch``: theme, styles, scripts, icon."""
    frame = (ASSETS / "frame.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return {
        "theme": InkOnPaper(),
        "css": "".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES) + STYLE_OF_PICTURES,
        "head": f'<meta name="description" content="{markup.DESCRIPTION}">\n<style>\n{frame}\n</style>\n'
        f"<script>\n{script}\n</script>\n",
        "favicon_path": ASSETS / "favicon.svg",
    }


def as_text(text: str) -> str:
    """A text from a person, a model or a file, for a Chatbot: shown letter by letter, never taken for markup."""
    return html.escape(text, quote=False)


def _examples(questions: Sequence[str]) -> list[gr.Button]:
    with gr.Row(elem_id="try"):
        fixed(markup.TRY_HEAD, "try-head")
        return [gr.Button(question, size="sm", elem_classes="try-button", min_width=0) for question in questions]


def _other(
    ideas: Sequence[tuple[str, str]], strength: float, maximum: float, step: float
) -> tuple[gr.Row, gr.Dropdown, gr.Slider]:
    """The second of two ideas, the one that is turned up, and how strongly."""
    with gr.Row(elem_id="other-row", visible=False) as row:
        idea = gr.Dropdown(
            list(ideas),
            value=ideas[-1][1],
            label="Idea turned up",
            elem_id="other-idea",
            interactive=True,
            filterable=False,
            min_width=0,
        )
        slider = gr.Slider(
            0,
            maximum,
            value=strength,
            step=step,
            label="How strongly the other idea",
            elem_id="other-strength",
            buttons=[],
            interactive=True,
            min_width=0,
        )
    return row, idea, slider


def _branches() -> tuple[gr.Button, gr.Button]:
    with gr.Row(elem_id="branches"):
        back = action("‹", "branch-back")
        fixed(markup.BRANCH, "branch-wrap")
        return back, action("›", "branch-on")


def _looked() -> gr.HTML:
    """Brings a `likeliest_line` to the page, and hands it to the scope; shows nothing itself."""
    return gr.HTML(
        "",
        html_template="<span></span>",
        js_on_load="watch('value', () => document.dispatchEvent("
        "new CustomEvent('steering-looked', { detail: props.value })));",
        apply_default_css=False,
        elem_id="looked",
        elem_classes="unseen",
    )


def _pane(name: str, column: int, messages: Sequence[Any]) -> gr.Chatbot:
    with gr.Column(elem_id=f"pane-{name}", elem_classes=["pane", f"pane-{column}"], min_width=0):
        fixed(markup.pane_head(column, NAMES[column]), f"head-{name}")
        return gr.Chatbot(
            list(messages),
            elem_id=f"chat-{name}",
            elem_classes="chat",
            label=NAMES[column],
            show_label=False,
            container=False,
            layout="panel",
            buttons=[],
            feedback_options=None,
            sanitize_html=True,
            allow_tags=False,
            render_markdown=False,
            latex_delimiters=[],
            group_consecutive_messages=False,
        )
