"""What the first step of “Take it home” does: the direction as a file for other tools, and such a file back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import LayerWantedError, SteeringError
from steering.ui import make_markup
from steering.ui import take_home_markup as markup
from steering.ui import take_home_words as words
from steering.ui.chat import Chat
from steering.ui.chat_handlers import ChatHandlers
from steering.ui.errands import Errands, Told, Updates
from steering.ui.ideas import is_own, title_of
from steering.ui.make_work import report_preset
from steering.ui.session import Session, Sessions
from steering.ui.take_home_work import read_foreign, read_own, write_file

if TYPE_CHECKING:
    from steering.directions import Direction

logger = logging.getLogger(__name__)


class TakeHomeFiles:
    """What the controls of the first step do; every function finds its visitor's session by the request.

    Args:
        errands: what takes long.
        chat_handlers: by whom what comes back becomes the idea of the chat.
    """

    def __init__(self, chat: Chat, sessions: Sessions, errands: Errands, chat_handlers: ChatHandlers) -> None:
        self.chat = chat
        self.engine = chat.engine
        self.sessions = sessions
        self.errands = errands
        self.chat_handlers = chat_handlers

    # ------------------------------------------------------------------ what leaves

    def at_hand(self, session: Session) -> Direction | None:
        """The direction of the idea in the chat, if it need not be found first."""
        if is_own(session.idea):
            return session.own[session.idea]
        return None if self.engine.model is None else self.engine.readable_direction(session.idea)

    def show(self, session: Session, kind: str) -> Updates:
        """What leaves, and the file of this kind: the updates of the heading, the note and the download button."""
        model, direction = self.engine.model, self.at_hand(session)
        session.home.shown_for = self._model
        title = title_of(session.idea, session)
        layer = None if direction is None else direction.layer
        what = markup.what_html(title, model.label if model else "", layer, model.n_layers if model else 0)
        return [what, *self._offer(session, kind, direction)]

    def is_out_of_date(self, session: Session) -> bool:
        """Whether another model is in use than when the tab was shown; not while nobody has looked at it."""
        return session.home.shown_for not in (None, self._model)

    @property
    def _model(self) -> tuple[str, str]:
        model = self.engine.model
        return (model.name, model.revision) if model else ("", "")

    def offer(self, kind: str, request: gr.Request) -> Updates:
        """Another kind of file was chosen: its note and the download button."""
        session = self.sessions.of(request)
        return self._offer(session, kind, self.at_hand(session))

    def _offer(self, session: Session, kind: str, direction: Direction | None) -> Updates:
        if kind not in words.FILE_KINDS:
            return [gr.skip(), gr.skip()]
        if direction is None:
            can_be_found = self.engine.model is not None
            button = gr.update(value=None, label="Find the direction", interactive=can_be_found)
            return [markup.file_html(kind, is_there=False), button]
        try:
            exported = write_file(direction, kind, session.home.folder)
        except SteeringError as error:
            button = gr.update(value=None, label="Not as this file", interactive=False)
            return [markup.file_html(kind, problem=str(error)), button]
        except Exception:
            logger.exception("Writing a direction's file failed")
            return [markup.file_html(kind, problem=words.UNFORESEEN), gr.update(value=None, interactive=False)]
        button = gr.update(value=exported.path, label=f"Download {exported.path.name}", interactive=True)
        return [markup.file_html(kind, exported.notes), button]

    def find(self, kind: str, request: gr.Request) -> Iterator[Updates]:
        """The button was pressed where there was no file yet: find the direction. As `show`."""
        session = self.sessions.of(request)
        if self.engine.model is None or self.at_hand(session) is not None or kind not in words.FILE_KINDS:
            yield [gr.skip(), gr.skip(), gr.skip()]
            return
        finding = partial(report_preset, self.engine, session.idea)
        for note, *updates in self.errands.run(
            request,
            "find",
            lambda _session, _watch: self.engine.worker.submit(finding),
            Told(),
            lambda bar, _can_cancel: [bar, gr.skip(), gr.update(interactive=False)],
            lambda session, _direction: ["", *self.show(session, kind)],
            lambda said: [said, gr.skip(), gr.update(interactive=True)],
        ):
            yield updates if len(updates) == 3 else [gr.skip(), note, updates[-1]]

    # ------------------------------------------------------------------ the way back

    @property
    def brought_back(self) -> list[Any]:
        """The components of the chat that `bring_back` sets, after the note and the layer."""
        return self.chat_handlers.taken_up

    def bring_new_back(self, path: str | None, message: str, request: gr.Request) -> Iterator[Updates]:
        """A file was given, or taken away again: it becomes the idea of the chat."""
        yield from self.bring_back(path, None, message, request)

    def bring_back(self, path: str | None, layer: int | None, message: str, request: gr.Request) -> Iterator[Updates]:
        """As `bring_new_back`, once the layer was chosen of a file that has several, or names none."""
        session = self.sessions.of(request)
        if path is None:
            yield self._brought(session, "")
            return
        try:
            model = self.engine.ready_model()
            direction = read_own(path, layer, model)
        except LayerWantedError as error:
            layers = list(error.layers) or list(range(model.n_layers))
            choice = gr.update(choices=layers, value=None, visible=True)
            yield self._brought(session, markup.said_html(words.which_layer(bool(error.layers))), choice)
            return
        except SteeringError as error:
            yield self._brought(session, make_markup.problem_html(str(error)))
            return
        except Exception:
            logger.exception("Reading a direction's file failed")
            yield self._brought(session, make_markup.problem_html(words.UNFORESEEN))
            return
        if direction is not None:
            yield self._take_up(session, direction, (), message)
            return
        reading = partial(read_foreign, self.engine, path, layer)
        yield from self.errands.run(
            request,
            "import",
            lambda _session, _watch: self.engine.worker.submit(reading, short=True),
            Told(),
            lambda bar, _can_cancel: self._brought(session, bar, gr.skip()),
            lambda session, imported: self._take_up(session, imported.direction, imported.notes, message),
            lambda said: self._brought(session, said, gr.skip()),
        )

    def _take_up(self, session: Session, direction: Direction, notes: tuple[str, ...], message: str) -> Updates:
        chosen = self.chat_handlers.take_up(session, direction, message)
        note = markup.brought_html(direction.name, notes)
        return [note, gr.skip() if notes else gr.update(visible=False), *chosen]

    def _brought(self, session: Session, note: str, layer: Any = None) -> Updates:
        """A note, and the chat as it is."""
        hidden = gr.update(visible=False, value=None) if layer is None else layer
        return [note, hidden, *[gr.skip()] * len(self.brought_back)]
