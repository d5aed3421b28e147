"""The Chat tab's handlers: asking, stopping, going back, choosing an idea. They hold no model and no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from steering.errors import Cancelled, SteeringError
from steering.ui.activity import RunningTurn
from steering.ui.engine import Engine
from steering.ui.ideas import (
    Strength,
    example_of,
    fits_model,
    idea_choices,
    is_own,
    note_on,
    preset_card_of_direction,
    preset_strength,
    questions_of,
    strength_of,
    title_of,
)
from steering.ui.layout import as_text
from steering.ui.operator import Operator
from steering.ui.scope import idea_line, queued_message, state_line
from steering.ui.session import Session, Turn
from steering.ui.turn import Tick, TurnRequest, checked_coefficient, turn_work
from steering.ui.worker import Job

logger = logging.getLogger(__name__)

FIRST_IDEA = "poetic"
STOPPED_EARLY = "Stopped before the first word. Your question is back in the box."
UNFORESEEN = "Something went wrong inside the program; its log says what. Ask again, or choose another idea."

Messages = list[dict[str, str]]
View = tuple[Messages, Messages, Messages, str]


class Chat:
    """What a visitor can do with the three conversations."""

    def __init__(self, engine: Engine, operator: Operator | None = None) -> None:
        self.engine = engine
        self.operator = operator or Operator()

    # ------------------------------------------------------------------ what is shown

    def view(self, session: Session) -> View:
        """The three panes and the scope's log as they are now."""
        turns = list(session.conversation(session.idea))
        if session.live and session.live_idea == session.idea:
            turns.append(session.live)
        first, second, third = (
            [
                message
                for turn in turns
                for message in (
                    {"role": "user", "content": as_text(turn.question)},
                    {"role": "assistant", "content": as_text(turn.replies[variant])},
                )
            ]
            for variant in range(3)
        )
        return first, second, third, session.log

    def rest_log(self, session: Session) -> str:
        """The log of the newest turn of the idea in view, or of nothing yet."""
        if session.live and session.live_idea == session.idea:
            return session.live.log
        turns = session.conversation(session.idea)
        return turns[-1].log if turns else self.names_line(session) + state_line("idle", self._note(session))

    def _note(self, session: Session) -> str:
        """What to know of the idea in view on the model in use before asking."""
        model = self.engine.model
        if is_own(session.idea):
            return ""
        if model is None or model.name == "bundled":
            return note_on(session.idea, preset_card_of_direction(session.idea))
        known = self.engine.known_direction(session.idea)
        return note_on(session.idea, known.card) if known else ""

    def names_line(self, session: Session) -> str:
        strength = self.strength(session)
        return idea_line(
            "Your idea" if is_own(session.idea) else title_of(session.idea, session),
            sweet=strength.sweet,
            end=strength.end,
            dose=strength.dose,
            opposite=session.sign < 0,
        )

    def strength(self, session: Session) -> Strength:
        """The slider's range for the idea in view and the model in use."""
        model = self.engine.model
        if is_own(session.idea):
            return strength_of(session.own[session.idea])
        if model is None or model.name == "bundled":
            return preset_strength(session.idea)
        known = self.engine.known_direction(session.idea)
        return strength_of(known) if known else Strength(1.0, 3.0, None)

    def choices(self, session: Session) -> list[tuple[str, str]]:
        model = self.engine.model
        return idea_choices(session, model.name if model else "", model.revision if model else "")

    # ------------------------------------------------------------------ asking

    def accept(self, session: Session, message: str) -> str:
        """Take a question from the box; what the box should hold then."""
        question = (message or "").strip()
        if not question or session.is_busy:
            return message
        session.pending = question[: self.operator.limits.characters]
        return ""

    def refuse(self, session: Session, sentence: str) -> None:
        """Say why a question was not taken, unless a reply is being written, whose state stays to be seen."""
        if not session.is_busy:
            session.log = (session.log or self.names_line(session)) + state_line("error", sentence)

    def accept_again(self, session: Session) -> None:
        """Take the last question once more; with sampling, with other dice."""
        turns = session.conversation(session.idea)
        if turns and not session.is_busy:
            session.pending = turns.pop().question
            session.tries += 1

    def respond(self, session: Session, strength: float, settings: dict[str, Any]) -> Iterator[View]:
        """Answer the pending question three times; yields what to show, about twelve times a second."""
        question, session.pending = session.pending, ""
        if not question:
            yield self.view(session)
            return
        idea = session.idea
        session.live = live = Turn(question, ["", "", ""], self.names_line(session) + state_line("prefill"))
        session.live_idea = idea
        session.log = live.log
        running: RunningTurn | None = None
        failed = False
        try:
            request = self._request(session, question, strength, settings)
            yield self.view(session)
            session.job = job = self.engine.worker.submit(lambda job: turn_work(self.engine, request, job), short=True)
            running = self.operator.activity.turn_started(session.key, rows=3, kind="chat", stop=job.stop)
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
            session.live = session.job = session.dial = None
        if not session.live_idea:
            live.log = self.rest_log(session)
        elif any(live.replies):  # what was written stays, whatever ended it
            session.conversation(idea).append(live)
        else:
            session.unanswered = question
        if session.idea == idea:
            session.log = live.log
        yield self.view(session)

    @staticmethod
    def _ending(job: Job, live: Turn) -> str:
        if job.stopped:
            return state_line("stopped", "" if any(live.replies) else STOPPED_EARLY)
        if not any(live.replies):
            return state_line("idle", "The model had nothing to say in any of the three answers. Ask it differently.")
        return state_line("idle", live.note)

    def _request(self, session: Session, question: str, strength: float, settings: dict[str, Any]) -> TurnRequest:
        from steering.interventions import Dial

        self.engine.ready_model()
        session.dial = Dial(session.sign * checked_coefficient(strength))
        own = session.own.get(session.idea)
        return TurnRequest(
            idea=session.idea,
            own=own,
            histories=session.histories(session.idea),
            question=question,
            dial=session.dial,
            system_prompt=str(settings["system_prompt"] or "")[: self.operator.limits.characters],
            max_new_tokens=int(min(self.operator.limits.tokens, max(1, settings["max_new_tokens"]))),
            temperature=float(settings["temperature"]),
            top_p=float(settings["top_p"]),
            repetition_penalty=float(settings["repetition_penalty"]),
            seed=int(settings["seed"] or 0) + (session.tries if settings["temperature"] else 0),
            removal=str(settings["removal"]),
            addition=str(settings["addition"]),
            thinking=bool(settings["thinking"]),
            seconds=self.operator.limits.seconds,
        )

    def _follow(self, job: Job, live: Turn, running: RunningTurn) -> Iterator[None]:
        """Write a job's reports into the turn; yields after each change."""
        waiting = ""
        for report in job.reports():
            if report is None:
                if job.started.is_set():
                    continue
                words = queued_message(job.before, self.engine.worker.seconds_before(job))
                if words != waiting:
                    waiting = words
                    live.log += state_line("queued", words, button="Waiting…")
                    yield
            elif isinstance(report, Tick):
                live.log += report.lines
                if report.started:
                    live.log += state_line("prefill")
                else:
                    live.replies = report.texts
                    running.wrote(sum(report.n_tokens))
                    live.log += state_line("running", rate=report.rate)
                    if report.left_out:
                        count = report.left_out
                        live.note = f"Done. The oldest {count} messages did not fit any more and were left out."
                yield
            else:
                what, done, total = report
                live.log += state_line("prefill", f"Finding the direction, only once. {what}: {done / total:.0%}")
                yield

    # ------------------------------------------------------------------ going back

    def undo(self, session: Session) -> str | None:
        """Take the last turn away; its question, or None."""
        turns = session.conversation(session.idea)
        if session.is_busy or not turns:
            return None
        question = turns.pop().question
        session.log = self.rest_log(session)
        return question

    def clear(self, session: Session) -> None:
        """Begin the idea's conversation anew."""
        session.stop()
        if session.live_idea == session.idea:
            session.live_idea = ""  # what is still being written belongs to no conversation any more
        session.turns[session.idea] = []
        session.tries = 0
        session.log = self.rest_log(session)

    # ------------------------------------------------------------------ choosing

    def choose(self, session: Session, idea: str) -> None:
        """Bring an idea's conversation into view; what runs for another is stopped and keeps what it wrote."""
        if idea not in [key for _, key in self.choices(session)]:
            return
        if idea != session.idea:
            session.stop()
        session.idea = idea
        session.log = self.rest_log(session)

    def question_for(self, session: Session, message: str) -> str:
        """What the box should hold after an idea was chosen: a question typed by hand stays."""
        suggested = {example_of(key) for _, key in self.choices(session)} | {""}
        if session.conversation(session.idea):
            return "" if message in suggested else message
        return (example_of(session.idea) or message) if message in suggested else message

    def questions(self, session: Session) -> list[str]:
        return questions_of(session.idea)

    def opposite(self, session: Session, third_answer: str) -> None:
        """Let the third answer have the direction added or subtracted."""
        session.sign = -1 if third_answer == "opposite" else 1
        session.log += self.names_line(session)

    def turn_dial(self, session: Session, strength: float | None) -> None:
        """Move the coefficient while replies are being written."""
        if session.dial is not None and strength is not None:
            session.dial.value = session.sign * checked_coefficient(strength)

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
