"""The “Take it home” tab: its components, and which handler of `take_home_files` and `take_home_models` each calls.

Where no models are written (`steering.ui.take_home_rules`) their steps are not there at all, and nor are their events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steering.exchange_kinds import TITLES
from steering.ui import take_home_markup as markup
from steering.ui import take_home_words as words
from steering.ui.chat import Chat
from steering.ui.chat_handlers import ChatHandlers
from steering.ui.errands import Errands, Updates
from steering.ui.layout import Components
from steering.ui.pieces import DROPS_SCRIPT, fixed, focus_back, focus_on
from steering.ui.session import Sessions
from steering.ui.take_home_files import TakeHomeFiles
from steering.ui.take_home_models import TakeHomeModels

VISITORS_AT_ONCE = 32
LONGEST_REPOSITORY = 120  # characters; the hub allows 96 a part


@dataclass(frozen=True)
class FileStep:
    """The first step: what leaves, as which file, and a file back."""

    what: gr.HTML
    kind: gr.Radio
    note: gr.HTML
    download: gr.DownloadButton
    upload: gr.File
    layer: gr.Dropdown
    brought: gr.HTML


@dataclass(frozen=True)
class ModelStep:
    """The second step: a changed model."""

    form: gr.Radio
    note: gr.HTML
    folder: gr.Textbox
    write: gr.Button
    cancel: gr.Button
    outcome: gr.HTML


@dataclass(frozen=True)
class PushStep:
    """The third step: the hub."""

    what: gr.Dropdown
    repository: gr.Textbox
    public: gr.Checkbox
    look: gr.Button
    push: gr.Button
    cancel: gr.Button
    note: gr.HTML


def build_home_tab(components: Components, chat: Chat, sessions: Sessions, chat_handlers: ChatHandlers) -> None:
    """Fill the tab and attach its handlers; call it inside the page's ``gr.Blocks``."""
    rules = chat.operator.take_home
    models: ModelStep | None = None
    pushing: PushStep | None = None
    with components.home_tab, gr.Row(elem_id="home", elem_classes="make"):
        with gr.Column(min_width=0):
            files = _file_step()
        with gr.Column(min_width=0):
            if rules.folder is None:
                fixed(markup.off_html(), "home-off")
            else:
                fixed(markup.model_step_html(rules.folder), "home-models")
                models = _model_step()
                fixed(markup.push_step_html(rules.may_push), "home-hub")
                pushing = _push_step() if rules.may_push else None
    errands = Errands(chat, sessions, words.SAYINGS, lambda session: session.home)
    file_handlers = TakeHomeFiles(chat, sessions, errands, chat_handlers)
    if models is None:
        _attach_files(files, file_handlers, components, _entering(files, file_handlers, sessions))
        return
    model_handlers = TakeHomeModels(chat, sessions, errands, file_handlers)
    entering = _entering_all(files, file_handlers, sessions, models, model_handlers)
    _attach_files(files, file_handlers, components, entering)
    _attach_models(models, [pushing.what] if pushing else [], model_handlers, components)
    if pushing is not None:
        _attach_push(pushing, model_handlers)


def _html(elem_id: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _file_step() -> FileStep:
    first = words.FILE_KINDS[0]
    what = _html("home-what")
    kind = gr.Radio(
        [(TITLES[kind], kind) for kind in words.FILE_KINDS],
        value=first,
        label=words.KIND_LABEL,
        elem_id="home-kind",
        elem_classes="pills",
        interactive=True,
    )
    note = _html("home-file", markup.file_html(first, is_there=False))
    download = gr.DownloadButton("Download", variant="primary", elem_id="home-download", interactive=False)
    upload = gr.File(label=words.BACK_LABEL, elem_id="home-upload", elem_classes="drop", interactive=True)
    gr.HTML(
        html_template=f'<p class="hint">{words.BACK_HINT}</p>',
        js_on_load=DROPS_SCRIPT,
        apply_default_css=False,
        elem_id="home-upload-hint",
    )
    layer = gr.Dropdown(
        [], label=words.WHICH_LAYER, elem_id="home-layer", interactive=True, filterable=False, visible=False
    )
    return FileStep(what, kind, note, download, upload, layer, _html("home-brought"))


def _model_step() -> ModelStep:
    first = next(iter(words.FORMS))
    form = gr.Radio(
        [(title, form) for form, title in words.FORMS.items()],
        value=first,
        label="What is changed",
        elem_id="home-form",
        elem_classes="pills",
        interactive=True,
    )
    note = _html("home-form-note", markup.form_html(first))
    with gr.Row(elem_classes="home-row"):
        folder = gr.Textbox(
            label="Name of its folder", max_length=200, lines=1, elem_id="home-folder", interactive=True
        )
        write = gr.Button("Write it", variant="primary", elem_id="home-write", min_width=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id="home-cancel", min_width=0, visible=False)
    return ModelStep(form, note, folder, write, cancel, _html("home-outcome"))


def _push_step() -> PushStep:
    with gr.Row(elem_classes="home-push"):
        what = gr.Dropdown(
            [("The direction’s file", words.THE_DIRECTION)],
            value=words.THE_DIRECTION,
            label="What goes there",
            elem_id="home-push-what",
            interactive=True,
            filterable=False,
            min_width=0,
        )
        repository = gr.Textbox(
            label="Repository",
            placeholder="owner/name",
            max_length=2 * LONGEST_REPOSITORY,
            lines=1,
            elem_id="home-repository",
            interactive=True,
            min_width=0,
        )
    public = gr.Checkbox(label="Everyone may see it", elem_id="home-public", interactive=True)
    with gr.Row(elem_classes="card-actions"):
        look = gr.Button("Show what would go", elem_id="home-look", min_width=0)
        push = gr.Button("Push", variant="primary", elem_id="home-push", min_width=0, interactive=False)
        cancel = gr.Button("Cancel", variant="stop", elem_id="home-push-cancel", min_width=0, visible=False)
    return PushStep(what, repository, public, look, push, cancel, _html("home-push-note"))


@dataclass(frozen=True)
class Entering:
    """Showing what leaves now: idea, model and strength may have changed since it was shown.

    Attributes:
        enter: does it.
        refresh: does it if another model is in use than when the tab was looked at.
    """

    inputs: list[Any]
    outputs: list[Any]
    enter: Callable[..., Updates]
    refresh: Callable[..., Updates]

    def on(self, event: Callable[..., Any]) -> None:
        """Let an event show it."""
        event(self.enter, self.inputs, self.outputs, **_IN_ORDER)


def _entering(files: FileStep, file_handlers: TakeHomeFiles, sessions: Sessions) -> Entering:
    """Where there is the first step alone."""
    outputs = [files.what, files.note, files.download]

    def enter(kind: str, request: gr.Request) -> Updates:
        return file_handlers.show(sessions.of(request), kind)

    def refresh(kind: str, request: gr.Request) -> Updates:
        is_old = file_handlers.is_out_of_date(sessions.of(request))
        return enter(kind, request) if is_old else [gr.skip()] * len(outputs)

    return Entering([files.kind], outputs, enter, refresh)


def _entering_all(
    files: FileStep,
    file_handlers: TakeHomeFiles,
    sessions: Sessions,
    models: ModelStep,
    model_handlers: TakeHomeModels,
) -> Entering:
    """Where models are written too."""
    outputs = [files.what, files.note, files.download, models.note, models.folder]

    def enter(kind: str, form: str, folder: str, request: gr.Request) -> Updates:
        session = sessions.of(request)
        return [*file_handlers.show(session, kind), *model_handlers.show(session, form, folder)]

    def refresh(kind: str, form: str, folder: str, request: gr.Request) -> Updates:
        is_old = file_handlers.is_out_of_date(sessions.of(request))
        return enter(kind, form, folder, request) if is_old else [gr.skip()] * len(outputs)

    return Entering([files.kind, models.form, models.folder], outputs, enter, refresh)


def _attach_files(step: FileStep, handlers: TakeHomeFiles, components: Components, entering: Entering) -> None:
    entering.on(components.home_tab.select)
    components.in_use.change(entering.refresh, entering.inputs, entering.outputs, **_LAST)
    step.kind.input(handlers.offer, [step.kind], [step.note, step.download], **_LAST)
    step.download.click(handlers.find, [step.kind], [step.what, step.note, step.download], **_LONG)
    message, brought = components.message, [step.brought, step.layer, *handlers.brought_back]
    given = [step.upload.upload, step.upload.clear]
    entering.on(gr.on(given, handlers.bring_new_back, [step.upload, message], brought, **_LONG).then)
    entering.on(step.layer.input(handlers.bring_back, [step.upload, step.layer, message], brought, **_LONG).then)


def _attach_models(
    step: ModelStep, written: list[gr.Dropdown], handlers: TakeHomeModels, components: Components
) -> None:
    chosen = [step.note, step.folder]
    step.form.input(handlers.choose_form, [step.form, step.folder], chosen, **_LAST)
    settings = [components.settings["removal"], components.settings["addition"]]
    gr.on(
        [step.write.click, step.folder.submit],
        handlers.write,
        [step.form, step.folder, components.strength, *settings],
        [step.outcome, step.write, step.cancel, *written, step.folder],
        js=focus_on("home-cancel", "home-write"),
        **_LONG,
    ).then(None, None, None, js=focus_back("home-write"), **_SHORT)
    step.cancel.click(handlers.errands.cancel, None, None, queue=False, **_SHORT)


def _attach_push(step: PushStep, handlers: TakeHomeModels) -> None:
    what = [step.what, step.repository, step.public]
    gr.on([step.look.click, step.repository.submit], handlers.look, what, [step.note, step.push], **_SHORT)
    step.push.click(
        handlers.push,
        what,
        [step.note, step.look, step.push, step.cancel],
        js=focus_on("home-push-cancel", "home-push"),
        **_LONG,
    ).then(None, None, None, js=focus_back("home-look"), **_SHORT)
    step.cancel.click(handlers.errands.cancel, None, None, queue=False, **_SHORT)


_SHORT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# What shows the same things from what is chosen now is done in the order in which it was asked for: else an answer to
# what was chosen a moment ago could come last, and stay.
_IN_ORDER: dict[str, Any] = _SHORT | {"concurrency_id": "take-home", "concurrency_limit": 1}
_LAST: dict[str, Any] = _IN_ORDER | {"trigger_mode": "always_last"}
_LONG: dict[str, Any] = _SHORT | {"concurrency_limit": VISITORS_AT_ONCE}

__all__ = ["build_home_tab"]
