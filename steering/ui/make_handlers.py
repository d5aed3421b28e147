"""What the controls of “Make a direction” do. They hold no torch: work goes to the model's thread (`make_work`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import make_card, make_markup, make_words
from steering.ui.ideas import fits_model
from steering.ui.make_results import Updates, unchanged
from steering.ui.make_words import GONE
from steering.ui.make_work import (
    Checked,
    Found,
    direction_at,
    find,
    load_direction,
    missing_list,
    read_set,
    report_preset,
    token_counter,
)
from steering.ui.scope import ASSETS
from steering.ui.session import Session
from steering.ui.workbench import UNFORESEEN, Workbench
from steering.ui.worker import Job, Work

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

logger = logging.getLogger(__name__)

SAMPLE = ASSETS / "samples" / "like-shakespeare.jsonl"
SAMPLE_NAME = "Like Shakespeare"
UPDATE_EVERY = 0.2  # seconds
NO_TEXTS = "Give two lists of texts first, or use the sample."


class MakeHandlers(Workbench):
    """What the tab's controls do; every function finds its visitor's session by the request."""

    # ------------------------------------------------------------------ the texts

    def read(self, positive: str | None, negative: str | None, name: str, request: gr.Request) -> Updates:
        session = self.sessions.of(request)
        problem = hint = ""
        try:
            hint = missing_list(positive, negative, self.file_limits)
            if positive is not None and not hint:
                self._keep(session, read_set(positive, negative, token_counter(self.engine.model), self.file_limits))
        except SteeringError as error:
            problem = str(error)
        except Exception:
            logger.exception("Reading a contrast set failed")
            problem = UNFORESEEN
        return self._given(session, name, problem, hint)

    def use_sample(self, name: str, request: gr.Request) -> Updates:
        session = self.sessions.of(request)
        read = read_set(str(SAMPLE), None, token_counter(self.engine.model), self.file_limits)
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
        progress = "" if bench.job is None else gr.skip()  # how an earlier attempt ended does not matter any more
        if read is None:
            return [make_markup.check_html(None, "", [], problem, hint), name, progress]
        suggested = default or make_words.default_name(read.data.name)
        if not problem and not hint and name.strip() in ("", bench.default_name):
            name = bench.default_name = suggested
        split = make_markup.split_words(read.train, read.held_out)
        return [make_markup.check_html(read.data, split, read.warnings, problem, hint), name, progress]

    # ------------------------------------------------------------------ finding

    def compute(self, name: str, request: gr.Request) -> Iterator[Updates]:
        """Compute the direction; yields the bar at least once a second until the card is there."""
        session = self.sessions.of(request)
        before: Updates = []

        def work() -> tuple[str, Work]:
            model = self.engine.ready_model()
            data = session.making.data
            if data is None:
                raise SteeringError(NO_TEXTS)
            wanted = self.name_of(session, name)
            before[:] = [self._computing_card(wanted, data.has_responses, model)]
            return wanted, partial(find, self.engine, data)

        def follow(job: Job, wanted: str) -> Iterator[Updates]:
            before.extend(self.result(session)[1:])
            before[3] = gr.update(visible=False)  # the card is of what is being computed, not of what can be used
            for news in self._follow(job):
                if isinstance(news, Found):
                    self._take(session, news, wanted)
                    return
                yield [*news, *before]
            raise Cancelled

        done = make_markup.done_html("Found.", "Its card says how well it tells texts apart.")
        yield from self.running(session, work, follow, lambda: done)

    def _follow(self, job: Job) -> Iterator[Updates | Found]:
        """What to show while texts are read, at the end what was found; ends without it when given up in line."""
        start: float | None = None
        shown = 0.0
        done, total = 0.0, 1.0
        for report in job.reports():
            now = time.monotonic()
            if isinstance(report, Found):
                yield report
                continue
            if report is not None:
                _, done, total = report
            if job.stopped and not job.started.is_set():
                return
            if now - shown < UPDATE_EVERY:
                continue
            shown = now
            if job.started.is_set():
                start = start or now
            left = make_words.time_left((now - start) * (total - done) / done) if done and start else ""
            words = f"Reading text {min(int(done) + 1, int(total))} of {int(total)}"
            yield self.bar(job, words, done / total, left)

    def _take(self, session: Session, found: Found, name: str) -> None:
        position, layer = found.suggested
        making = session.making
        making.direction = direction_at(found.candidates, found.separation, position, layer, name)
        making.candidates, making.separation, making.search = found.candidates, found.separation, None

    def _computing_card(self, name: str, has_responses: bool, model: ChatModel) -> str:
        if has_responses:
            return make_card.computing_card(name, [make_words.RESPONSE], {}, model.n_layers)
        ids = model.post_instruction_tokens
        tokens = {place - len(ids): model.tokenizer.decode([token]) for place, token in enumerate(ids)}
        return make_card.computing_card(name, list(tokens), tokens, model.n_layers)

    # ------------------------------------------------------------------ choosing

    def press(self, event: gr.EventData, request: gr.Request) -> Updates:
        """A square was pressed."""
        pressed = event._data if isinstance(event._data, dict) else {}
        return self._choose(self.sessions.of(request), pressed.get("position"), pressed.get("layer"))

    def pick(self, position: str | None, layer: float | None, request: gr.Request) -> Updates:
        """One of the two controls was moved. A control put back after a refusal says so too: that changes nothing."""
        session = self.sessions.of(request)
        direction = session.making.direction
        if direction is not None and (str(direction.position), direction.layer) == (position, layer):
            return unchanged()
        return self._choose(session, position, layer)

    def _choose(self, session: Session, position: Any, layer: Any) -> Updates:
        making = session.making
        try:
            if making.search is not None:
                name = making.direction.name if making.direction else making.search.request.name
                making.direction = making.search.direction_at(int(position), int(layer), name)
            elif making.candidates is not None and making.separation is not None and making.direction is not None:
                making.direction = direction_at(
                    making.candidates, making.separation, int(position), int(layer), making.direction.name
                )
            else:
                return self.result(session, GONE)
        except SteeringError as error:
            return self.result(session, str(error))
        except (TypeError, ValueError):  # not from our controls
            return self.result(session)
        return self.result(session)

    def load(self, path: str | None, request: gr.Request) -> Updates:
        """Take up a direction from a file; one that was made here before gives way to it."""
        session = self.sessions.of(request)
        if path is None:
            return self.result(session)
        try:
            direction = load_direction(path, self.engine.ready_model())
        except SteeringError as error:
            return self.result(session, str(error))
        except Exception:
            logger.exception("Loading a direction failed")
            return self.result(session, UNFORESEEN)
        making = session.making
        making.direction, making.candidates, making.separation, making.search = direction, None, None, None
        return self.result(session)

    def show_idea(self, request: gr.Request) -> Updates:
        """The card of the idea that is chosen in the chat, in the place of what was made here."""
        session = self.sessions.of(request)
        try:
            direction = session.own.get(session.idea) or self._preset(session.idea)
        except SteeringError as error:
            return [*self.result(session, str(error)), gr.Tabs(selected="make")]
        if session.making.direction is not direction:
            session.making.forget_found()
            session.making.direction = direction
        return [*self.result(session), gr.Tabs(selected="make")]

    def _preset(self, name: str) -> Direction:
        """A preset's direction for the model in use, made on the model's thread if it has to be."""
        self.engine.ready_model()
        known = self.engine.known_direction(name)
        if known is None:
            job = self.engine.worker.submit(partial(report_preset, self.engine, name))
            known = next(report for report in job.reports() if not isinstance(report, tuple) and report is not None)
        return known

    def explain_use(self, request: gr.Request) -> str:
        """Beside the page's own handler: why nothing happened, when the direction's model is not in use any more."""
        direction, model = self.sessions.of(request).making.direction, self.engine.model
        usable = direction is not None and model is not None and fits_model(direction, model.name, model.revision)
        return make_markup.problem_html("" if usable else GONE)
