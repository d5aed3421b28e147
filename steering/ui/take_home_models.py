"""What the second and third step of “Take it home” do: write a changed model, and push it, or the direction.

Each asks anew whether it is allowed here: what a page does not show can be asked for all the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui import make_markup
from steering.ui import take_home_markup as markup
from steering.ui import take_home_words as words
from steering.ui.chat import Chat
from steering.ui.errands import Errands, Told, Updates, buttons_at_rest, buttons_running, in_a_thread
from steering.ui.ideas import title_of
from steering.ui.methods import ADDITIONS, REMOVALS
from steering.ui.session import Session, Sessions
from steering.ui.take_home_files import TakeHomeFiles
from steering.ui.take_home_work import Order, Written, cannot_be, write_model
from steering.ui.worker import Reports, Work

logger = logging.getLogger(__name__)


class TakeHomeModels:
    """What the controls of these steps do; every function finds its visitor's session by the request."""

    def __init__(self, chat: Chat, sessions: Sessions, errands: Errands, files: TakeHomeFiles) -> None:
        self.chat = chat
        self.engine = chat.engine
        self.rules = chat.operator.take_home
        self.sessions = sessions
        self.errands = errands
        self.files = files

    # ------------------------------------------------------------------ choosing

    def show(self, session: Session, form: str, folder: str) -> Updates:
        """What a form of the model is, and the folder's suggested name, if nobody typed another."""
        if form not in words.FORMS:
            return [gr.skip(), gr.skip()]
        home = session.home
        suggested = words.suggested_folder(title_of(session.idea, session), form)
        folder = str(folder or "")
        if folder.strip() in ("", home.default_name):
            home.default_name = folder = self._free(suggested)
        model, direction = self.engine.model, self.files.at_hand(session)
        problem = "" if model is None else cannot_be(form, model, None if direction is None else direction.layer)
        return [markup.form_html(form, problem), folder]

    def choose_form(self, form: str, folder: str, request: gr.Request) -> Updates:
        """Another form was chosen."""
        return self.show(self.sessions.of(request), form, folder)

    def _free(self, name: str) -> str:
        """The name, or the first with a number behind it that no folder has."""
        root = self.rules.require_models()
        numbered = (f"{name}-{number}" for number in range(2, 1000))
        return (
            name if not (root / name).exists() else next((one for one in numbered if not (root / one).exists()), name)
        )

    # ------------------------------------------------------------------ writing

    def write(
        self, form: str, name: str, strength: float | None, removal: str, addition: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Write the model: outcome, the two buttons, what can be pushed, and the folder's name."""

        def begin(session: Session, watch: Callable[[Work], Work]) -> Reports:
            self.rules.require_here(request.headers.get("host"))
            work = partial(write_model, self.engine, self._order(session, form, name, strength, removal, addition))
            return self.engine.worker.submit(watch(work))

        told = Told(words.STEPS.get(form, ()), words.ENDS.get(form, ()))
        yield from self.errands.run(
            request, "write", begin, told, self._writing, partial(self._written, form), self._not_written
        )

    def _order(
        self, session: Session, form: str, name: str, strength: float | None, removal: str, addition: str
    ) -> Order:
        target = self.rules.target(str(name or ""))
        model = self.engine.ready_model()
        if form not in words.FORMS or removal not in REMOVALS or addition not in ADDITIONS:
            raise SteeringError("This is not what the page sends. Load the page again, and try once more.")
        coefficient = session.sign * float(strength or 0.0)
        if form == "added" and not (coefficient and math.isfinite(coefficient)):
            raise SteeringError(words.NO_STRENGTH)
        return Order(
            form,
            session.idea,
            session.own.get(session.idea),
            coefficient,
            removal,
            addition,
            target,
            (model.name, model.revision),
        )

    @staticmethod
    def _writing(bar: str, can_cancel: bool) -> Updates:
        return [bar, *buttons_running(can_cancel), gr.skip(), gr.skip()]

    def _written(self, form: str, session: Session, written: Written) -> Updates:
        name = written.folder.name
        session.home.written[name] = written.folder
        session.home.default_name = suggested = self._free(
            words.suggested_folder(title_of(session.idea, session), form)
        )
        done = markup.written_html(name, written.compared, written.folder, written.code, written.note)
        return [done, *buttons_at_rest(), gr.update(choices=_choices(session), value=name), suggested]

    @staticmethod
    def _not_written(said: str) -> Updates:
        return [said, *buttons_at_rest(), gr.skip(), gr.skip()]

    # ------------------------------------------------------------------ pushing

    def look(self, what: str | None, repository: str, public: bool, request: gr.Request) -> Updates:
        """Show what would go, and send nothing: the note, and the button that sends it."""
        from huggingface_hub import get_token

        from steering.hub import push

        session = self.sessions.of(request)
        session.home.looked_at = None
        try:
            self._require_push(request)
            path, asked = self._to_push(session, what, repository, public)
            pushed = push(path, asked[1], private=not public, dry_run=True)
        except SteeringError as error:
            return [make_markup.problem_html(str(error)), gr.update(interactive=False)]
        except Exception:
            logger.exception("Looking at what would be pushed failed")
            return [make_markup.problem_html(words.UNFORESEEN), gr.update(interactive=False)]
        session.home.looked_at = asked
        has_account = bool(get_token())
        note = markup.files_html(pushed.files, asked[1], not pushed.private, "" if has_account else words.NO_ACCOUNT)
        return [note, gr.update(interactive=has_account)]

    def push(self, what: str | None, repository: str, public: bool, request: gr.Request) -> Iterator[Updates]:
        """Send what was looked at: note, the two buttons, and the one that cancels."""
        from steering.hub import Pushed, push

        def begin(session: Session, watch: Callable[[Work], Work]) -> Reports:
            self._require_push(request)
            path, asked = self._to_push(session, what, repository, public)
            if asked != session.home.looked_at:
                raise SteeringError(words.LOOK_FIRST)

            def send(job: Any) -> None:
                job.report(push(path, asked[1], private=not public, progress=job.progress))

            return in_a_thread(watch(send))

        def ended(session: Session, pushed: Pushed) -> Updates:
            session.home.looked_at = None
            return [markup.pushed_html(pushed.address, pushed.private), *_push_at_rest()]

        hidden = gr.update(visible=False)
        yield from self.errands.run(
            request,
            "push",
            begin,
            Told(),
            lambda bar, can_cancel: [bar, hidden, hidden, gr.update(visible=True, interactive=can_cancel)],
            ended,
            lambda said: [said, *_push_at_rest()],
        )

    def _require_push(self, request: gr.Request) -> None:
        self.rules.require_push()
        self.rules.require_here(request.headers.get("host"))

    def _to_push(
        self, session: Session, what: str | None, repository: str, public: bool
    ) -> tuple[Path, tuple[str, str, bool]]:
        """The file or folder to send, and what tells this push from others."""
        named = str(repository or "").strip()
        if not named:
            raise SteeringError("The repository has no name yet. It has the form owner/name.")
        if what == words.THE_DIRECTION or not what:
            direction = self.files.at_hand(session)
            if direction is None:
                raise SteeringError("The direction is not found yet. Press “Find the direction” under 1 first.")
            return direction.save(session.home.folder / "direction.safetensors"), (session.idea, named, public)
        if what not in session.home.written:
            raise SteeringError(words.NOT_YOURS)
        return session.home.written[what], (f"folder {what}", named, public)


def _choices(session: Session) -> list[tuple[str, str]]:
    """What can be pushed."""
    return [("The direction’s file", words.THE_DIRECTION), *[(name, name) for name in session.home.written]]


def _push_at_rest() -> Updates:
    """The buttons that show, push and cancel; what was pushed must be looked at again."""
    return [gr.update(visible=True), gr.update(visible=True, interactive=False), gr.update(visible=False)]
