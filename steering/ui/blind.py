"""The “Blind test” tab: its components, and which handler of `blind_handlers` each of them calls.

Nothing on the page tells the order of the answers before the vote: the three places have the same markup, the buttons
differ by their letter, and answers are sent complete and in the order in which they are shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.ui import blind_markup
from steering.ui.blind_handlers import FIRST_IDEA, READY, VOTE_WORDS, BlindHandlers
from steering.ui.blind_votes import LETTERS
from steering.ui.chat import Chat
from steering.ui.ideas import example_of, questions_of
from steering.ui.layout import Components
from steering.ui.session import Session, Sessions

VISITORS_AT_ONCE = 32
# Both are fixed, or a browser's votes would be lost whenever the program starts anew. They keep nothing secret.
STORAGE_KEY, STORAGE_SECRET = "steering-blind-votes", "steering-playground"


@dataclass(frozen=True)
class BlindTab:
    """The tab's components; ``votes`` are kept in the browser."""

    votes: gr.BrowserState
    idea: gr.Dropdown
    question: gr.Textbox
    ask: gr.Button
    cancel: gr.Button
    examples: list[gr.Button]
    status: gr.HTML
    answers: list[gr.HTML]
    choices: list[gr.Button]
    result: gr.HTML
    forget: gr.Button


def build_blind_tab(components: Components, chat: Chat, sessions: Sessions) -> BlindTab:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    votes = gr.BrowserState({}, storage_key=STORAGE_KEY, secret=STORAGE_SECRET)
    with components.blind_tab, gr.Column(elem_id="blind"):
        _fixed(blind_markup.INTRO, "blind-intro")
        asking = _asking(chat)
        with gr.Row(elem_id="blind-answers"):
            places = [_place(place) for place in range(len(LETTERS))]
        result = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="blind-result")
        forget = gr.Button("Forget my votes", size="sm", elem_id="blind-forget", elem_classes="quiet", visible=False)
    tab = BlindTab(
        votes=votes,
        **asking,
        answers=[answer for answer, _ in places],
        choices=[choice for _, choice in places],
        result=result,
        forget=forget,
    )
    _attach(tab, components.blind_tab, BlindHandlers(chat, sessions))
    return tab


def _fixed(template: str, elem_id: str) -> gr.HTML:
    return gr.HTML(html_template=template, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _asking(chat: Chat) -> dict[str, Any]:
    with gr.Row(elem_id="blind-asking"):
        idea = gr.Dropdown(
            chat.choices(Session("", FIRST_IDEA)),
            value=FIRST_IDEA,
            label="Idea",
            elem_id="blind-idea",
            filterable=False,
            interactive=True,
            min_width=0,
        )
        question = gr.Textbox(
            example_of(FIRST_IDEA),
            label="Your question",
            lines=1,
            max_lines=3,
            max_length=chat.operator.limits.characters,
            elem_id="blind-question",
            interactive=True,
            min_width=0,
        )
        ask = gr.Button("Write three answers", variant="primary", elem_id="blind-ask", min_width=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id="blind-cancel", min_width=0, visible=False)
    with gr.Row(elem_id="blind-try"):
        _fixed(blind_markup.TRY, "blind-try-head")
        examples = [
            gr.Button(words, size="sm", elem_classes="try-button", min_width=0) for words in questions_of(FIRST_IDEA)
        ]
    status = gr.HTML(
        blind_markup.status_html("idle", READY, ""), js_on_load=_SPEAK, apply_default_css=False, elem_id="blind-status"
    )
    _fixed(blind_markup.SPOKEN, "blind-spoken-box")
    return {"idea": idea, "question": question, "ask": ask, "cancel": cancel, "examples": examples, "status": status}


def _place(place: int) -> tuple[gr.HTML, gr.Button]:
    """An answer and its button."""
    letter = LETTERS[place].lower()
    with gr.Column(elem_id=f"blind-place-{letter}", elem_classes="blind-place", min_width=0):
        answer = gr.HTML(
            blind_markup.answer_html(place), js_on_load=None, apply_default_css=False, elem_id=f"blind-answer-{letter}"
        )
        choice = gr.Button(VOTE_WORDS[place], elem_id=f"blind-vote-{letter}", min_width=0, visible=False)
    return answer, choice


def _attach(tab: BlindTab, shown_by: gr.Tab, handlers: BlindHandlers) -> None:
    shown = [tab.status, tab.ask, tab.cancel, *tab.answers, *tab.choices, tab.result, tab.forget]
    given, chosen = [tab.idea, tab.question, tab.votes], [tab.question, *tab.examples, *shown]
    shown_by.select(handlers.enter, given, [tab.idea, *chosen], **_QUICK)
    tab.idea.input(handlers.choose, given, chosen, **_QUICK)
    for button in tab.examples:
        button.click(lambda question: question, [button], [tab.question], **_QUICK)
    gr.on(
        [tab.ask.click, tab.question.submit],
        handlers.write,
        given,
        shown,
        js=_focus("#blind-cancel", gone="#blind-ask"),
        show_progress="hidden",
        concurrency_limit=VISITORS_AT_ONCE,
        api_visibility="private",
    ).then(None, None, None, js=_focus("#blind-answers:has(button) h3", "#blind-ask", gone="#blind-cancel"), **_QUICK)
    tab.cancel.click(handlers.cancel, None, None, **_QUICK)
    for button in tab.choices:
        button.click(handlers.vote, [button, tab.votes], [tab.votes, *shown], **_QUICK).then(
            None, None, None, js=_focus("#blind-result h3", gone="#blind-answers button", always=True), **_QUICK
        )
    tab.forget.click(handlers.forget, None, [tab.votes, tab.result, tab.forget], **_QUICK).then(
        None, None, None, js=_focus("#blind-result .forgotten", gone="#blind-forget", always=True), **_QUICK
    )


_QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

# The status line changes every second; a screen reader hears what it is told to say, and that only once.
_SPEAK = """
let said = '';
watch('value', () => {
  const line = element.querySelector('.status');
  if (!line || line.dataset.say === said) return;
  said = line.dataset.say;
  document.getElementById('blind-spoken').textContent = said;
});
"""


def _focus(*selectors: str, gone: str, always: bool = False) -> str:
    """Script for an event: once nothing matches ``gone``, the first of the selectors that matches gets the focus.

    Unless ``always``, only if the focus was lost, because what had it was taken off the page.
    """
    return f"""(...inputs) => {{
  const end = performance.now() + 3000;
  const look = () => {{
    const found = {json.dumps(selectors)}.map((selector) => document.querySelector(selector)).find(Boolean);
    if (found && !document.querySelector({json.dumps(gone)})) {{
      if (!{json.dumps(always)} && document.activeElement !== document.body) return;
      found.focus({{ preventScroll: true }});
      (found.closest('.block') ?? found).scrollIntoView({{ block: 'nearest' }});
    }} else if (performance.now() < end) requestAnimationFrame(look);
  }};
  requestAnimationFrame(look);
  return inputs;
}}"""


__all__ = ["BlindTab", "build_blind_tab"]
