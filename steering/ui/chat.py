"""The Chat tab's handlers: asking, stopping, going back, choosing. They hold no model and no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from steering.errors import Cancelled, SteeringError
from steering.ui.activity import RunningTurn
from steering.ui.chat_view import ChatView, View
from steering.ui.columns import BOTH, PROMPTED, SETS
from steering.ui.conversations import Turn
from steering.ui.ideas import fits_model, is_own, prompt_of, title_of
from steering.ui.scope import branch_line, queued_message, state_line
from steering.ui.session import Session
from steering.ui.turn import OtherIdea, Tick, TurnRequest, checked_coefficient, told
from steering.ui.worker import Reports

if TYPE_CHECKING:
    from steering.interventions import Dial

logger = logging.getLogger(__name__)

FIRST_IDEA = "poetic"
STOPPED_EARLY = "Stopped before the first word. Your question is back in the box."
UNFORESEEN = "Something went wrong inside the program; its log says what. Ask again, or choose another idea."
PATIENCE_TO_STOP = 3.0  # seconds


class Chat(ChatView):
    """What a visitor can do with the conversations of the columns."""

    # ------------------------------------------------------------------ asking

    def accept(self, session: Session, message: str) -> str:
        """Take a question from the box; what the box should hold then."""
        question = (message or "").strip()
        if not question or session.is_busy:
            return message
        session.pending = question[: self.operator.limits.characters]
        if session.editing is not None:
            session.conversation(session.idea).branch(session.editing)
            session.editing = None
        return ""

    def refuse(self, session: Session, sentence: str) -> None:
        """Say why a question was not taken, unless a reply is being written, whose state stays to be seen."""
        if not session.is_busy:
            session.log = (session.log or self.names_line(session)) + state_line("error", sentence)

    def accept_again(self, session: Session) -> None:
        """Take the last question once more; with sampling, with other dice."""
        if self._take_back(session):
            session.tries += 1

    def _take_back(self, session: Session) -> bool:
        """Let the last question be asked again in its place; whether there is one, and nothing is being written."""
        turns = session.conversation(session.idea).turns
        if not turns or session.is_busy:
            return False
        session.editing = None
        session.pending = turns.pop().question
        return True

    def respond(self, session: Session, strength: float, settings: dict[str, Any]) -> Iterator[View]:
        """Answer the pending question in every column; yields what to show, about twelve times a second."""
        question, session.pending = session.pending, ""
        if not question:
            yield self.view(session)
            return
        idea, columns = session.idea, session.columns
        session.live = live = Turn(
            question, columns, [""] * len(columns), self.beginning(session) + state_line("prefill")
        )
        session.live_idea = idea
        session.log = live.log
        running: RunningTurn | None = None
        failed = False
        try:
            request = self._request(session, question, strength, settings)
            live.settings = self._told(request)
            yield self.view(session)
            session.job = job = self.engine.ask(request)
            running = self.operator.activity.turn_started(session.key, rows=len(columns), kind="chat", stop=job.stop)
            for _ in self._follow(job, live, running):
                if session.idea == session.live_idea:
                    session.log = live.log
                    yield self.view(session)
            live.log += self._ending(job, live)
        except Cancelled:
            live.log += state_line("stopped", STOPPED_EARLY)
        except SteeringError as error:
            failed = True
            live.log += state_line("error", str(error))
        except Exception:
            failed = True
            logger.exception("A turn failed")
            live.log += state_line("error", UNFORESEEN)
        finally:
            if running is not None:
                running.ended(stopped=job.stopped, failed=failed)
            session.stop()  # also when the page was closed in the middle
            session.live = session.job = session.dial = session.other_dial = None
        if not session.live_idea:
            live.log = self.rest_log(session)
        elif any(live.replies) or any(live.thoughts):  # what was written stays, whatever ended it
            session.conversation(idea).append(live, self.operator.limits.turns)
        else:
            session.unanswered = question
            conversation = session.conversation(idea)
            conversation.tidy()
            live.log += branch_line(conversation.current + 1, len(conversation.branches))
        if session.idea == idea:
            session.log = live.log
        yield self.view(session)

    @staticmethod
    def _ending(job: Reports, live: Turn) -> str:
        written = any(live.replies) or any(live.thoughts)
        if job.stopped:
            return state_line("stopped", "" if written else STOPPED_EARLY)
        if not written:
            return state_line("idle", "The model had nothing to say in any of the answers. Ask it differently.")
        return state_line("idle", live.note)

    def _request(self, session: Session, question: str, strength: float, settings: dict[str, Any]) -> TurnRequest:
        self.engine.ready_model()
        session.dial = self.engine.worker.dial(session.sign * checked_coefficient(strength))
        session.other_dial = self.engine.worker.dial(checked_coefficient(session.other_strength))
        columns = session.columns
        return TurnRequest(
            idea=session.idea,
            own=session.own.get(session.idea),
            histories=session.conversation(session.idea).histories(columns),
            question=question,
            dial=session.dial,
            columns=columns,
            other=self._other(session, session.other_dial) if BOTH in columns else None,
            knobs=self.knobs(session),
            prompt=prompt_of(session.idea, title_of(session.idea, session)) if PROMPTED in columns else "",
            owner=session.key,
            system_prompt=str(settings["system_prompt"] or "")[: self.operator.limits.characters],
            max_new_tokens=int(min(self.operator.limits.tokens, max(1, settings["max_new_tokens"]))),
            temperature=float(settings["temperature"]),
            top_p=float(settings["top_p"]),
            repetition_penalty=float(settings["repetition_penalty"]),
            seed=int(settings["seed"] or 0) + (session.tries if settings["temperature"] else 0),
            removal=str(settings["removal"]),
            addition=str(settings["addition"]),
            thinking=bool(settings["thinking"]),
            thinking_acts=str(settings["thinking_acts"]),
            seconds=self.operator.limits.seconds,
        )

    def _told(self, request: TurnRequest) -> dict[str, Any]:
        """What a turn is written with, for whoever takes it home."""
        return told(request)

    def _other(self, session: Session, dial: Dial) -> OtherIdea:
        idea = self.other_idea(session)
        return OtherIdea(idea, session.own.get(idea), dial)

    def _follow(self, job: Reports, live: Turn, running: RunningTurn) -> Iterator[None]:
        """Write a job's reports into the turn; yields after each change."""
        waiting = ""
        for report in job.reports():
            if report is None:
                words = queued_message(before, job.seconds_before) if (before := job.before) else ""
                if words and words != waiting:
                    waiting = words
                    live.log += state_line("queued", words, button="Waiting…")
                    yield
            elif isinstance(report, Tick):
                self.take(report, live)
                running.wrote(sum(report.n_tokens))
                yield
            else:
                what, done, total = report
                live.log += state_line("prefill", f"Finding the direction, only once. {what}: {done / total:.0%}")
                yield

    @staticmethod
    def take(tick: Tick, live: Turn) -> None:
        """Write a tick into the turn."""
        live.log += tick.lines
        if tick.started:
            live.log += state_line("prefill")
            return
        live.replies, live.thoughts = tick.texts, tick.thoughts
        live.notes = tick.notes
        live.likeliest.update(tick.likeliest)
        live.log += state_line("running", rate=tick.rate)
        if tick.left_out:
            live.note = f"Done. The oldest {tick.left_out} messages did not fit any more and were left out."

    # ------------------------------------------------------------------ going back

    def undo(self, session: Session) -> str | None:
        """Take the last turn away; its question, or None."""
        conversation = session.conversation(session.idea)
        if session.is_busy or not conversation.turns:
            return None
        session.editing = None
        question = conversation.turns.pop().question
        conversation.tidy()
        session.log = self.rest_log(session)
        return question

    def edit(self, session: Session) -> str | None:
        """The last question, to be asked differently with the old answers kept; pressed again, the one before it."""
        turns = session.conversation(session.idea).turns
        if session.is_busy or not turns:
            return None
        before = session.editing if session.editing is not None else len(turns)
        session.editing = before - 1 if before else len(turns) - 1
        words = "Edit the question and ask. The answers there are stay, on a branch of their own."
        if len(turns) > 1:
            words = f"Question {session.editing + 1} of {len(turns)} is in the box. {words} Press again for another."
        session.log += state_line("idle", words)
        return turns[session.editing].question

    def go_branch(self, session: Session, step: int) -> None:
        """Bring another branch of the conversation into view."""
        if session.is_busy:
            return
        session.editing = None
        session.conversation(session.idea).go(step)
        session.log = self.rest_log(session)

    def clear(self, session: Session) -> None:
        """Begin the idea's conversation anew."""
        session.stop()
        if session.live_idea == session.idea:
            session.live_idea = ""  # what is still being written belongs to no conversation any more
        session.forget(session.idea)
        session.tries = 0
        session.log = self.rest_log(session)

    # ------------------------------------------------------------------ choosing

    def choose(self, session: Session, idea: str) -> None:
        """Bring an idea's conversation into view; what runs for another is stopped and keeps what it wrote."""
        if idea not in [key for _, key in self.choices(session)]:
            return
        if idea != session.idea:
            session.stop()
            session.editing = None
        session.idea, session.notice = idea, ""
        session.log = self.rest_log(session)

    def compare(self, session: Session, beside: str) -> bool:
        """Set other columns side by side; whether the last question must be asked again to fill them.

        What is being written is stopped first.
        """
        if beside not in SETS or (beside == session.beside and beside != "both"):
            return False
        session.stop()
        end = time.monotonic() + PATIENCE_TO_STOP
        while session.is_busy and time.monotonic() < end:
            time.sleep(0.02)
        if session.is_busy:
            return False
        session.beside = beside
        turns = session.conversation(session.idea).turns
        lacks = bool(turns) and (beside in ("both", "knob") or not set(session.columns) <= set(turns[-1].columns))
        if lacks:
            self._take_back(session)
        session.log = self.rest_log(session)
        return lacks

    def choose_other(self, session: Session, idea: str) -> None:
        """Choose what is turned up when two ideas act at once."""
        if idea in [key for _, key in self.other_choices(session)]:
            session.other = idea
            session.other_strength = self.strength(session, idea).start
            session.log += self.names_line(session)

    def opposite(self, session: Session, third_answer: str) -> None:
        """Let the third answer have the direction added or subtracted."""
        session.sign = -1 if third_answer == "opposite" else 1
        session.log += self.names_line(session)

    def turn_dial(self, session: Session, strength: float | None) -> None:
        """Move the coefficient while replies are being written."""
        if session.dial is not None and strength is not None:
            session.dial.value = session.sign * checked_coefficient(strength)

    def turn_other_dial(self, session: Session, strength: float | None) -> None:
        """Move that of the second idea, also while nothing is being written."""
        if strength is not None:
            session.other_strength = checked_coefficient(strength)
            if session.other_dial is not None:
                session.other_dial.value = session.other_strength

    def put_aside(self, session: Session) -> str:
        """After a model was exchanged: leave an idea that is another model's; the sentence that says so, or ""."""
        model = self.engine.model
        if model is None or session.model_seen == (model.name, model.revision):
            return ""
        session.model_seen = (model.name, model.revision)
        session.making.forget_found()
        aside = [d.name for d in session.own.values() if not fits_model(d, model.name, model.revision)]
        if is_own(session.idea) and session.own[session.idea].name in aside:
            session.stop()
            session.idea = FIRST_IDEA
            session.log = self.rest_log(session)
        if not aside:
            return ""
        names = ", ".join(f"“{name}”" for name in aside)
        return f"{names} was made for another model and is put aside; it comes back with it."
