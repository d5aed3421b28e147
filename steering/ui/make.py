"""The “Make a direction” tab: its components, and which handler of `make_handlers` each of them calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.ui import make_card, make_markup
from steering.ui.engine import Engine
from steering.ui.layout import Components
from steering.ui.make_handlers import LONGEST_NAME, SAMPLE, MakeHandlers
from steering.ui.make_work import LIMITS
from steering.ui.session import Sessions

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
    cancel: gr.Button
    progress: gr.HTML
    card: gr.HTML
    position: gr.Dropdown
    layer: gr.Slider
    actions: gr.Row
    use: gr.Button
    download: gr.DownloadButton
    card_file: gr.DownloadButton
    upload_direction: gr.File
    note: gr.HTML


def build_make_tab(components: Components, engine: Engine, sessions: Sessions) -> MakeTab:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    with components.make_tab, gr.Row(elem_classes="make"):
        with gr.Column(min_width=0):
            upload, upload_negative, sample = _give()
            check = _html(make_markup.step(2, "Check them"), make_markup.check_html(None, "", []), "make-check")
            name, compute, cancel, progress = _find()
        with gr.Column(min_width=0):
            card = gr.HTML(
                make_card.WELCOME, js_on_load=_SQUARES_SCRIPT, apply_default_css=False, elem_id="quality-card"
            )
            position, layer = _pick()
            actions, use, download, card_file = _actions()
            note = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="make-note")
            upload_direction = gr.File(
                label="Load a direction from its file",
                elem_id="upload-direction",
                elem_classes="drop",
                interactive=True,
            )
    tab = MakeTab(
        upload=upload,
        upload_negative=upload_negative,
        sample=sample,
        check=check,
        name=name,
        compute=compute,
        cancel=cancel,
        progress=progress,
        card=card,
        position=position,
        layer=layer,
        actions=actions,
        use=use,
        download=download,
        card_file=card_file,
        upload_direction=upload_direction,
        note=note,
    )
    _attach(tab, MakeHandlers(engine, sessions))
    return tab


def _html(before: str, value: str, elem_id: str) -> gr.HTML:
    """A part that changes, under a heading that does not."""
    gr.HTML(html_template=before, js_on_load=None, apply_default_css=False)
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _give() -> tuple[gr.File, gr.File, gr.Button]:
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
            "Use the sample: questions about the sea", size="sm", elem_id="use-sample", elem_classes="try-button"
        )
        hint = (
            f'<p class="hint">txt, csv or jsonl, up to {LIMITS.bytes // 10**6} MB: {LIMITS.rows:,} texts, '
            f'{LIMITS.characters:,} characters each · <a href="gradio_api/file={SAMPLE}" download>the sample as a file'
            "</a></p>"
        )
        gr.HTML(html_template=hint, js_on_load=_DROPS_SCRIPT, apply_default_css=False, elem_id="make-limits")
    return upload, negative, sample


def _find() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.HTML]:
    gr.HTML(html_template=make_markup.step(3, "Find the direction"), js_on_load=None, apply_default_css=False)
    with gr.Row(elem_classes="find-row"):
        name = gr.Textbox(label="Name it", max_length=LONGEST_NAME, lines=1, elem_id="direction-name", interactive=True)
        compute = gr.Button("Find the direction", variant="primary", elem_id="compute", min_width=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id="cancel-compute", min_width=0, visible=False)
    progress = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="make-progress")
    return name, compute, cancel, progress


def _pick() -> tuple[gr.Dropdown, gr.Slider]:
    with gr.Row(elem_classes="pick-row"):  # shown by make.css while there is a map
        position = gr.Dropdown(
            [], label="Position", elem_id="direction-position", interactive=True, filterable=False, min_width=0
        )
        layer = gr.Slider(
            0, 1, step=1, label="Layer", buttons=[], elem_id="direction-layer", elem_classes="number", interactive=True
        )
    return position, layer


def _actions() -> tuple[gr.Row, gr.Button, gr.DownloadButton, gr.DownloadButton]:
    with gr.Row(elem_classes="card-actions", visible=False) as actions:
        use = gr.Button("Use it in the chat", variant="primary", elem_id="use-direction")
        download = gr.DownloadButton("Download the direction", elem_id="download-direction")
        card_file = gr.DownloadButton("Card as JSON", elem_id="download-card")
    return actions, use, download, card_file


def _attach(tab: MakeTab, handlers: MakeHandlers) -> None:
    result = [tab.card, tab.position, tab.layer, tab.actions, tab.download, tab.card_file, tab.note]
    files = [tab.upload, tab.upload_negative]
    given = [tab.check, tab.name, tab.progress]
    changed = [event for file in files for event in (file.upload, file.clear)]
    gr.on(changed, handlers.read, [*files, tab.name], given, **_SHORT)
    tab.sample.click(handlers.use_sample, [tab.name], [*given, *files], **_SHORT)
    finding = gr.on(
        [tab.compute.click, tab.name.submit],
        handlers.compute,
        [tab.name],
        [tab.progress, tab.compute, tab.cancel, *result],
        js=_FOCUS_CANCEL,
        show_progress="hidden",
        concurrency_limit=VISITORS_AT_ONCE,
        api_visibility="private",
    )
    finding.then(None, None, None, js=_FOCUS_COMPUTE, **_SHORT)
    tab.cancel.click(handlers.cancel, None, None, queue=False, show_progress="hidden", api_visibility="private")
    tab.card.select(handlers.press, None, result, **_SHORT)
    gr.on([tab.position.input, tab.layer.input], handlers.pick, [tab.position, tab.layer], result, **_LAST)
    tab.upload_direction.upload(handlers.load, [tab.upload_direction], result, **_SHORT)
    tab.use.click(handlers.explain_use, None, [tab.note], **_SHORT)


_SHORT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_LAST: dict[str, Any] = _SHORT | {"trigger_mode": "always_last"}

# Squares are one stop of the Tab key; arrows, Home and End move between them, and Enter or a press chooses.
_SQUARES_SCRIPT = """
const squares = () => [...element.querySelectorAll('button[data-layer]')];
element.addEventListener('click', (event) => {
  const square = event.target.closest('button[data-layer]');
  if (square) trigger('select', { position: square.dataset.position, layer: square.dataset.layer });
});
element.addEventListener('keydown', (event) => {
  const square = event.target.closest('button[data-layer]');
  if (!square || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = squares();
  const row = all.filter((other) => other.dataset.position === square.dataset.position);
  const column = all.filter((other) => other.dataset.layer === square.dataset.layer);
  const next = {
    ArrowLeft: row[row.indexOf(square) - 1], ArrowRight: row[row.indexOf(square) + 1],
    ArrowUp: column[column.indexOf(square) - 1], ArrowDown: column[column.indexOf(square) + 1],
    Home: row[0], End: row[row.length - 1],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  for (const other of all) other.tabIndex = other === next ? 0 : -1;
  next.focus();
});
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


# Gradio gives every box for files the same name; here each says what it is for. They are mounted anew now and then.
_DROPS_SCRIPT = """
const tab = element.closest('.make');
const name = () => {
  for (const box of tab.querySelectorAll('.drop')) {
    const button = box.querySelector('button.upload-container');
    const label = box.querySelector('[data-testid=block-label]');
    if (!button || !label) continue;
    const words = `${label.textContent.trim()}: ${button.innerText.trim()}`;
    if (button.getAttribute('aria-label') !== words) button.setAttribute('aria-label', words);
  }
};
new MutationObserver(name).observe(tab, { childList: true, subtree: true });
name();
"""

# “Find the direction” and “Cancel” take turns: whoever pressed one with the keyboard goes on at the other.
_FOCUS_CANCEL = """(...inputs) => {
  const end = performance.now() + 3000;
  const look = () => {
    const cancel = document.getElementById('cancel-compute');
    if (cancel && !document.getElementById('compute')) {
      if (document.activeElement === document.body) cancel.focus();
    } else if (performance.now() < end) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  return inputs;
}"""
_FOCUS_COMPUTE = """() => requestAnimationFrame(() => {
  if (document.activeElement === document.body) document.getElementById('compute')?.focus({ preventScroll: true });
})"""

__all__ = ["MakeTab", "build_make_tab"]
