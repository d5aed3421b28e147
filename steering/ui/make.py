"""The “Make a direction” tab: its components and their handlers. What they do is in `make_work`, their HTML in
`make_markup`."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import make_markup as markup
from steering.ui.engine import Engine
from steering.ui.layout import Components
from steering.ui.make_work import (
    LIMITS,
    SEED,
    Checked,
    Found,
    direction_at,
    find,
    load_direction,
    missing_list,
    read_set,
    token_counter,
    write_files,
)
from steering.ui.scope import ASSETS, queued_message
from steering.ui.session import SESSIONS_KEPT, Session, Sessions
from steering.ui.worker import Job

logger = logging.getLogger(__name__)

SAMPLE = ASSETS / "samples" / "questions-about-the-sea.csv"
SAMPLE_NAME = "The sea"
LONGEST_NAME = 80
VISITORS_AT_ONCE = 32
UPDATE_EVERY = 0.2  # seconds
UNFORESEEN = "Something went wrong inside the program; its log says what. Your texts are still here: try again."
NO_TEXTS = "Give two lists of texts first, or use the sample."
GONE = "Another model is in use now, and this direction was made for the one before. Find it again, or load its file."

Updates = list[Any]


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
            check = _html(markup.step(2, "Check them"), markup.check_html(None, "", []), "make-check")
            name, compute, cancel, progress = _find()
        with gr.Column(min_width=0):
            card = gr.HTML(markup.WELCOME, js_on_load=_SQUARES_SCRIPT, apply_default_css=False, elem_id="quality-card")
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
    _Handlers(tab, engine, sessions).attach()
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
    gr.HTML(html_template=markup.step(1, "Give two lists of texts") + words, js_on_load=None, apply_default_css=False)
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
        gr.HTML(html_template=hint, js_on_load=None, apply_default_css=False, elem_id="make-limits")
    return upload, negative, sample


def _find() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.HTML]:
    gr.HTML(html_template=markup.step(3, "Find the direction"), js_on_load=None, apply_default_css=False)
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


@dataclass
class _Bench:
    """What one visitor's tab needs beside the session: the set as checked, the running work, files to download."""

    checked: Checked | None = None
    default_name: str = ""
    job: Job | None = None
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="direction-")
    )


class _Handlers:
    """What the tab's controls do; every function finds its visitor's session by the request."""

    def __init__(self, tab: MakeTab, engine: Engine, sessions: Sessions) -> None:
        self.tab = tab
        self.engine = engine
        self.sessions = sessions
        self._benches: OrderedDict[str, _Bench] = OrderedDict()

    def attach(self) -> None:
        tab = self.tab
        result = [tab.card, tab.position, tab.layer, tab.actions, tab.download, tab.card_file, tab.note]
        files = [tab.upload, tab.upload_negative]
        given = [tab.check, tab.name]
        changed = [event for file in files for event in (file.upload, file.clear)]
        gr.on(changed, self.read, [*files, tab.name], given, **_SHORT)
        tab.sample.click(self.use_sample, [tab.name], [*given, *files], **_SHORT)
        gr.on(
            [tab.compute.click, tab.name.submit],
            self.compute,
            [tab.name],
            [tab.progress, tab.compute, tab.cancel, *result],
            show_progress="hidden",
            concurrency_limit=VISITORS_AT_ONCE,
            api_visibility="private",
        )
        tab.cancel.click(self.cancel, None, None, queue=False, show_progress="hidden", api_visibility="private")
        tab.card.select(self.press, None, result, **_SHORT)
        gr.on([tab.position.input, tab.layer.input], self.pick, [tab.position, tab.layer], result, **_LAST)
        tab.upload_direction.upload(self.load, [tab.upload_direction], result, **_SHORT)
        tab.use.click(self.explain_use, None, [tab.note], **_SHORT)

    # ------------------------------------------------------------------ the texts

    def read(self, positive: str | None, negative: str | None, name: str, request: gr.Request) -> Updates:
        session = self.sessions.of(request)
        problem = hint = ""
        try:
            hint = missing_list(positive, negative)
            if positive is not None and not hint:
                self._keep(session, read_set(positive, negative, token_counter(self.engine.model)))
        except SteeringError as error:
            problem = str(error)
        except Exception:
            logger.exception("Reading a contrast set failed")
            problem = UNFORESEEN
        return self._given(session, name, problem, hint)

    def use_sample(self, name: str, request: gr.Request) -> Updates:
        session = self.sessions.of(request)
        read = read_set(str(SAMPLE), None, token_counter(self.engine.model))
        self._keep(session, read)
        return [*self._given(session, name, default=SAMPLE_NAME), None, None]

    def _keep(self, session: Session, read: Checked) -> None:
        session.making.data = read.data
        self._bench(session).checked = read

    def _given(
        self, session: Session, name: str, problem: str = "", hint: str = "", default: str | None = None
    ) -> Updates:
        """Step 2, and the name: a name typed by hand stays, a default one follows the file."""
        bench = self._bench(session)
        read = bench.checked
        if read is None:
            return [markup.check_html(None, "", [], problem, hint), name]
        suggested = default or markup.default_name(read.data.name)
        if not problem and not hint and name.strip() in ("", bench.default_name):
            name = bench.default_name = suggested
        split = markup.split_words(read.train, read.held_out)
        return [markup.check_html(read.data, split, read.warnings, problem, hint), name]

    # ------------------------------------------------------------------ finding

    def compute(self, name: str, request: gr.Request) -> Iterator[Updates]:
        """Find the direction; yields the bar at least once a second until the card is there."""
        session = self.sessions.of(request)
        bench = self._bench(session)
        if bench.job is not None:
            yield [*self._running("Still working.", None), *self._result(session)]
            return
        name = name.strip()[:LONGEST_NAME] or bench.default_name or "My idea"
        outcome = ""
        try:
            model = self.engine.ready_model()
            data = session.making.data
            if data is None:
                raise SteeringError(NO_TEXTS)
            before = self._result(session)
            waiting = [self._computing_card(name, data.has_responses, model), *before[1:]]
            waiting[3] = gr.update(visible=False)
            bench.job = job = self.engine.worker.submit(lambda job: find(self.engine, data, job))
            for progress in self._follow(job, session, name):
                yield [*progress, *waiting]
            if job.stopped:
                raise Cancelled
        except Cancelled:
            outcome = markup.progress_html(None, "Cancelled.", "your texts are still here")
        except SteeringError as error:
            outcome = markup.problem_html(str(error))
        except Exception:
            logger.exception("Finding a direction failed")
            outcome = markup.problem_html(UNFORESEEN)
        finally:
            if bench.job is not None:
                bench.job.stop()  # also when the page was closed in the middle
            bench.job = None
        yield [outcome, gr.update(visible=True), gr.update(visible=False), *self._result(session)]

    def _follow(self, job: Job, session: Session, name: str) -> Iterator[Updates]:
        """What to show while a job waits and works; takes up what it found."""
        start: float | None = None
        shown = 0.0
        done, total = 0.0, 1.0
        for report in job.reports():
            now = time.monotonic()
            if isinstance(report, Found):
                self._take(session, report, name)
                continue
            if report is not None:
                _, done, total = report
            if job.stopped and not job.started.is_set():
                return
            if now - shown < UPDATE_EVERY:
                continue
            shown = now
            if job.stopped:
                yield self._running("Cancelling…", done / total, can_cancel=False)
            elif not job.started.is_set():
                people = self.engine.worker.before(job)
                waiting = queued_message(people, self.engine.worker.seconds_before(job)) if people else "Starting…"
                yield self._running(waiting, None)
            else:
                start = start or now
                left = markup.time_left((now - start) * (total - done) / done) if done else ""
                words = f"Reading text {min(int(done) + 1, int(total))} of {int(total)}"
                yield self._running(words, done / total, left)

    def _running(self, words: str, part: float | None, more: str = "", can_cancel: bool = True) -> Updates:
        bar = markup.progress_html(part, words, more)
        return [bar, gr.update(visible=False), gr.update(visible=True, interactive=can_cancel)]

    def _take(self, session: Session, found: Found, name: str) -> None:
        position, layer = found.suggested
        making = session.making
        making.direction = direction_at(found.candidates, found.separation, position, layer, name)
        making.candidates, making.separation = found.candidates, found.separation

    def _computing_card(self, name: str, has_responses: bool, model: Any) -> str:
        if has_responses:
            return markup.computing_card(name, [markup.RESPONSE], {}, model.n_layers)
        ids = model.post_instruction_tokens
        tokens = {place - len(ids): model.tokenizer.decode([token]) for place, token in enumerate(ids)}
        return markup.computing_card(name, list(tokens), tokens, model.n_layers)

    def cancel(self, request: gr.Request) -> None:
        job = self._bench(self.sessions.of(request)).job
        if job is not None:
            job.stop()

    # ------------------------------------------------------------------ choosing

    def press(self, event: gr.EventData, request: gr.Request) -> Updates:
        """A square was pressed."""
        pressed = event._data if isinstance(event._data, dict) else {}
        return self._choose(self.sessions.of(request), pressed.get("position"), pressed.get("layer"))

    def pick(self, position: str | None, layer: float | None, request: gr.Request) -> Updates:
        return self._choose(self.sessions.of(request), position, layer)

    def _choose(self, session: Session, position: Any, layer: Any) -> Updates:
        making = session.making
        if making.candidates is None or making.separation is None or making.direction is None:
            return self._result(session, GONE)
        try:
            making.direction = direction_at(
                making.candidates, making.separation, int(position), int(layer), making.direction.name
            )
        except SteeringError as error:
            return self._result(session, str(error))
        except (TypeError, ValueError):  # not from our controls
            return self._result(session)
        return self._result(session)

    def load(self, path: str | None, request: gr.Request) -> Updates:
        """Take up a direction from a file; one that was made here before gives way to it."""
        session = self.sessions.of(request)
        if path is None:
            return self._result(session)
        try:
            direction = load_direction(path, self.engine.ready_model())
        except SteeringError as error:
            return self._result(session, str(error))
        except Exception:
            logger.exception("Loading a direction failed")
            return self._result(session, UNFORESEEN)
        making = session.making
        making.direction, making.candidates, making.separation = direction, None, None
        return self._result(session)

    def explain_use(self, request: gr.Request) -> str:
        """Beside the page's own handler: why nothing happened, when the direction's model is not in use any more."""
        return markup.problem_html("" if self.sessions.of(request).making.direction is not None else GONE)

    # ------------------------------------------------------------------ what is shown

    def _result(self, session: Session, problem: str = "") -> Updates:
        """The card with its controls and files, as things stand, and a sentence about what did not work."""
        making = session.making
        direction, candidates, separation = making.direction, making.candidates, making.separation
        note = markup.problem_html(problem)
        if direction is None:
            return [markup.WELCOME, gr.update(), gr.update(), gr.update(visible=False), None, None, note]
        weights, card_file = write_files(direction, Path(self._bench(session).folder.name))
        shown = gr.update(visible=True)
        if candidates is None or separation is None:
            card = markup.loaded_card(direction, direction.card.get("n_layers") or direction.layer + 1)
            return [card, gr.update(), gr.update(), shown, weights, card_file, note]
        tokens = markup.tokens_of(candidates.card)
        card = markup.card_html(direction, separation, separation.suggested(), tokens, SEED)
        places = [(markup.position_words(place, tokens), str(place)) for place in candidates.positions]
        position = gr.update(choices=places, value=str(direction.position))
        layer = gr.update(maximum=candidates.n_layers - 1, value=direction.layer)
        return [card, position, layer, shown, weights, card_file, note]

    def _bench(self, session: Session) -> _Bench:
        bench = self._benches.pop(session.key, None) or _Bench()
        self._benches[session.key] = bench
        while len(self._benches) > SESSIONS_KEPT:
            _, oldest = self._benches.popitem(last=False)
            oldest.folder.cleanup()
        return bench


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
});
"""


__all__ = ["MakeTab", "build_make_tab"]
