"""The “Make a direction” tab: its components, and which handler of `make_handlers` each of them calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.ui import make_card, make_markup
from steering.ui.best_handlers import BestHandlers
from steering.ui.engine import Engine
from steering.ui.layout import Components
from steering.ui.limits import Limits
from steering.ui.make_handlers import SAMPLE, MakeHandlers
from steering.ui.make_work import file_limits
from steering.ui.pieces import DROPS_SCRIPT, focus_back, focus_on
from steering.ui.session import Sessions
from steering.ui.squares import SQUARES_SCRIPT
from steering.ui.workbench import LONGEST_NAME

VISITORS_AT_ONCE = 32


@dataclass(frozen=True)
class MakeTab:
    """The tab's components; ``use`` is for the page to attach to, after whose press ``Making.direction`` is chosen."""

    upload: gr.File
    upload_negative: gr.File
    sample: gr.Button
    check: gr.HTML
    name: gr.Textbox
    compute: gr.Button
    best: gr.Button
    cancel: gr.Button
    first_tokens: gr.Dropdown
    is_refusal: gr.Checkbox
    progress: gr.HTML
    card: gr.HTML
    position: gr.Dropdown
    layer: gr.Slider
    actions: gr.Row
    use: gr.Button
    download: gr.DownloadButton
    card_file: gr.DownloadButton
    relax: gr.Button
    measure: gr.Button
    upload_direction: gr.File
    note: gr.HTML


def build_make_tab(components: Components, engine: Engine, sessions: Sessions, limits: Limits) -> MakeTab:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    with components.make_tab, gr.Row(elem_classes="make"):
        with gr.Column(min_width=0):
            given = _give(limits)
            check = _html(make_markup.step(2, "Check them"), make_markup.check_html(None, "", []), "make-check")
            finding = _find()
        with gr.Column(min_width=0):
            card = gr.HTML(make_card.WELCOME, js_on_load=_CARD_SCRIPT, apply_default_css=False, elem_id="quality-card")
            picking = _pick()
            acting = _actions()
            note = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="make-note")
            upload_direction = gr.File(
                label="Load a direction from its file",
                elem_id="upload-direction",
                elem_classes="drop",
                interactive=True,
            )
    tab = MakeTab(
        **given, check=check, **finding, card=card, **picking, **acting, note=note, upload_direction=upload_direction
    )
    handlers = MakeHandlers(engine, sessions, limits)
    _attach(tab, handlers, BestHandlers(handlers), components)
    return tab


def _html(before: str, value: str, elem_id: str) -> gr.HTML:
    """A part that changes, under a heading that does not."""
    gr.HTML(html_template=before, js_on_load=None, apply_default_css=False)
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _give(limits: Limits) -> dict[str, Any]:
    allowed = file_limits(limits)
    words = (
        '<p class="step-words">One list shows your idea, the other does not. One file with pairs works too. '
        "30 texts a side is enough to start; 100 is better.</p>"
    )
    gr.HTML(
        html_template=make_markup.step(1, "Give two lists of texts") + words, js_on_load=None, apply_default_css=False
    )
    with gr.Row(elem_classes="drops"):
        upload = gr.File(label="Shows the idea", elem_id="upload", elem_classes="drop", interactive=True)
        negative = gr.File(label="Does not show it", elem_id="upload-negative", elem_classes="drop", interactive=True)
    with gr.Row(elem_classes="drop-foot"):
        sample = gr.Button(
            "Use the sample: answers like Shakespeare’s", size="sm", elem_id="use-sample", elem_classes="try-button"
        )
        hint = (
            f'<p class="hint">txt, csv or jsonl, up to {allowed.bytes // 10**6} MB: {allowed.rows:,} texts, '
            f'{allowed.characters:,} characters each · <a href="gradio_api/file={SAMPLE}" download>the sample as a file'
            "</a></p>"
        )
        gr.HTML(html_template=hint, js_on_load=DROPS_SCRIPT, apply_default_css=False, elem_id="make-limits")
    return {"upload": upload, "upload_negative": negative, "sample": sample}


def _find() -> dict[str, Any]:
    gr.HTML(html_template=make_markup.step(3, "Find the direction"), js_on_load=None, apply_default_css=False)
    with gr.Row(elem_classes="find-row"):
        name = gr.Textbox(label="Name it", max_length=LONGEST_NAME, lines=1, elem_id="direction-name", interactive=True)
        best = gr.Button("Find the best", variant="primary", elem_id="find-best", min_width=0)
        compute = gr.Button("Compute", elem_id="compute", min_width=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id="cancel-compute", min_width=0, visible=False)
    progress = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="make-progress")
    gr.HTML(html_template=_FIND_WORDS, js_on_load=None, apply_default_css=False, elem_id="find-words")
    with gr.Accordion("More about finding the best", open=False, elem_id="find-more"):
        first_tokens = gr.Dropdown(
            [],
            multiselect=True,
            allow_custom_value=True,
            label="Words that an answer with the idea begins with",
            info="For lists of questions. Left empty, they are found; type one and press Enter to name it yourself.",
            elem_id="first-tokens",
            interactive=True,
        )
        is_refusal = gr.Checkbox(
            label="These are requests a model should refuse: use the paper’s limits and its filter",
            elem_id="is-refusal",
            interactive=True,
        )
    return {
        "name": name,
        "best": best,
        "compute": compute,
        "cancel": cancel,
        "first_tokens": first_tokens,
        "is_refusal": is_refusal,
        "progress": progress,
    }


def _pick() -> dict[str, Any]:
    with gr.Row(elem_classes="pick-row"):  # shown by make.css while there is a map
        position = gr.Dropdown(
            [], label="Position", elem_id="direction-position", interactive=True, filterable=False, min_width=0
        )
        layer = gr.Slider(
            0, 1, step=1, label="Layer", buttons=[], elem_id="direction-layer", elem_classes="number", interactive=True
        )
    return {"position": position, "layer": layer}


def _actions() -> dict[str, Any]:
    relax = gr.Button("Relax the limit", variant="primary", elem_id="relax", visible=False)
    with gr.Row(elem_classes="card-actions", visible=False) as actions:
        use = gr.Button("Use it in the chat", variant="primary", elem_id="use-direction")
        download = gr.DownloadButton("Download the direction", elem_id="download-direction")
        card_file = gr.DownloadButton("Card as JSON", elem_id="download-card")
        measure = gr.Button("Measure this place", elem_id="measure", visible=False)
    return {
        "relax": relax,
        "actions": actions,
        "use": use,
        "download": download,
        "card_file": card_file,
        "measure": measure,
    }


def _attach(tab: MakeTab, handlers: MakeHandlers, best: BestHandlers, components: Components) -> None:
    result = [
        *(tab.card, tab.position, tab.layer, tab.actions, tab.download, tab.card_file),
        *(tab.relax, tab.measure, tab.first_tokens, tab.note),
    ]
    files = [tab.upload, tab.upload_negative]
    given = [tab.check, tab.name, tab.progress]
    changed = [event for file in files for event in (file.upload, file.clear)]
    gr.on(changed, handlers.read, [*files, tab.name], given, **_SHORT)
    tab.sample.click(handlers.use_sample, [tab.name], [*given, *files], **_SHORT)
    long = {
        "outputs": [tab.progress, tab.compute, tab.best, tab.cancel, *result],
        "js": focus_on("cancel-compute", "compute"),
        "show_progress": "hidden",
        "concurrency_limit": VISITORS_AT_ONCE,
        "api_visibility": "private",
    }
    searching = [tab.best.click, tab.name.submit]
    for finding, focus in (
        (gr.on(searching, best.find, [tab.name, tab.first_tokens, tab.is_refusal], **long), "find-best"),
        (tab.compute.click(handlers.compute, [tab.name], **long), "compute"),
        (tab.relax.click(best.relax, None, **long), "find-best"),
        (tab.measure.click(best.measure, None, **long), "find-best"),
    ):
        finding.then(None, None, None, js=focus_back(focus), **_SHORT)
    tab.cancel.click(handlers.cancel, None, None, queue=False, show_progress="hidden", api_visibility="private")
    tab.card.select(handlers.press, None, result, **_SHORT)
    gr.on([tab.position.input, tab.layer.input], handlers.pick, [tab.position, tab.layer], result, **_LAST)
    tab.upload_direction.upload(handlers.load, [tab.upload_direction], result, **_SHORT)
    tab.use.click(handlers.explain_use, None, [tab.note], **_SHORT)
    components.idea_card.click(handlers.show_idea, None, [*result, components.tabs], **_SHORT)


_FIND_WORDS = (
    '<p class="hint"><b>Find the best</b> tries every place on the model, measures how far it can be turned up, and '
    "holds it against 40 controls: one to three minutes. <b>Compute</b> only looks where the texts are told apart "
    "best: seconds.</p>"
)

_SHORT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_LAST: dict[str, Any] = _SHORT | {"trigger_mode": "always_last"}

_CARD_SCRIPT = (
    SQUARES_SCRIPT
    + """
let open = false;
element.addEventListener('toggle', (event) => { if (event.target.matches('details')) open = event.target.open; }, true);
watch('value', () => {
  const details = element.querySelector('details');
  if (details) details.open = open;
  const box = element.querySelector('.squares-box');
  const chosen = element.querySelector('td.chosen');
  if (box && chosen && box.scrollWidth > box.clientWidth) box.scrollLeft = chosen.offsetLeft - box.clientWidth / 2;
});
"""
)

__all__ = ["MakeTab", "build_make_tab"]
