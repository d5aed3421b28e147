"""What the controls of “Blind test” do. They hold no torch: the answers are written on the model's thread (`turn`)."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from steering.errors import Cancelled, SteeringError
from steering.ui import blind_markup
from steering.ui.activity import RunningTurn
from steering.ui.blind_votes import LETTERS, Round, Votes, counts, shuffled, sound_votes, tally_of, with_vote
from steering.ui.blind_work import NO_IDEA, checked, is_there, request_of
from steering.ui.chat import UNFORESEEN, Chat
from steering.ui.ideas import example_of, is_own, questions_of, title_of
from steering.ui.scope import State, queued_message
from steering.ui.session import Session, Sessions
from steering.ui.settings import SETTINGS
from steering.ui.turn import Tick
from steering.ui.worker import Reports

logger = logging.getLogger(__name__)

FIRST_IDEA = "sounds-like-ai"
VOTE_WORDS = tuple(f"Most human: answer {letter}" for letter in LETTERS)
READY = "Ready. Ask a question, or pick one."
CANCELLED = "Cancelled. Your question is still there."
READING = "Reading your question…"
FINDING = "Finding the direction, only once."
UPDATE_EVERY = 0.25  # seconds

Updates = list[Any]
News = tuple[State, str, str]  # the state, its words, and what is spoken of it


class BlindHandlers:
    """What the tab's controls do; every function finds its visitor's session by the request.

    Most return the updates of status, ask, cancel, three answers, three vote buttons, result and forget, in this order.

    Args:
        dice: for the order of the answers; by default the operating system's, which nobody can foretell.
    """

    def __init__(self, chat: Chat, sessions: Sessions, dice: random.Random | None = None) -> None:
        self.chat = chat
        self.sessions = sessions
        self._dice = dice or random.SystemRandom()
        self._voting = threading.Lock()

    # ------------------------------------------------------------------ choosing an idea

    def enter(self, idea: str, message: str, votes: Any, request: gr.Request) -> Updates:
        """The tab comes into view: ideas and tally may have changed meanwhile. Returns the idea, then as `choose`."""
        session = self.sessions.of(request)
        choices = self.chat.choices(session)
        if not is_there(self.chat, session, idea):  # it was another model's
            begun = self._begin(session, FIRST_IDEA, message, sound_votes(votes))
            return [gr.update(choices=choices, value=FIRST_IDEA), *begun]
        session.blind.idea = idea
        in_use = session.blind.job is not None or session.blind.round is not None
        tally = _unchanged(2) if in_use else self._tally(session, idea, sound_votes(votes))
        return [gr.update(choices=choices), *_unchanged(14), *tally]

    def choose(self, idea: str, message: str, votes: Any, request: gr.Request) -> Updates:
        """Begin anew with another idea; a question typed by hand stays. Returns question and examples first."""
        session = self.sessions.of(request)
        if not is_there(self.chat, session, idea):
            return [*_unchanged(5), *self._complain(NO_IDEA)]
        if idea == session.blind.idea:  # Gradio tells of a choice also when the list is left without one
            return _unchanged(16)
        return self._begin(session, idea, message, sound_votes(votes))

    def _begin(self, session: Session, idea: str, message: str, votes: Votes) -> Updates:
        if session.blind.job is not None:
            session.blind.job.stop()
        session.blind.idea, session.blind.round = idea, None
        ideas = [key for _, key in self.chat.choices(session)]
        suggested = {question for key in ideas for question in (example_of(key), *questions_of(key))}
        question = (example_of(idea) or message) if message in suggested else message
        ready = blind_markup.status_html("idle", READY, "")
        return [question, *questions_of(idea), *self._at_rest(session, ready, votes)]

    # ------------------------------------------------------------------ asking

    def write(self, idea: str, message: str, votes: Any, request: gr.Request) -> Iterator[Updates]:
        """Write three answers and show them when all are complete; meanwhile only how far they are."""
        session = self.sessions.of(request)
        blind = session.blind
        if blind.job is not None:
            return
        try:
            if refusal := self.chat.operator.admit(request):
                raise SteeringError(refusal)
            asked = checked(self.chat, session, idea, message)
        except SteeringError as error:
            yield self._complain(str(error))  # answers that wait for a vote stay
            return
        blind.idea, blind.round, blind.open = idea, None, False
        kept = sound_votes(votes)
        running: RunningTurn | None = None
        failed = False
        try:
            blind.job = job = self.chat.engine.ask(request_of(asked, self.chat.operator.limits.seconds))
            running = self.chat.operator.activity.turn_started(session.key, rows=3, kind="blind", stop=job.stop)
            replies = yield from self._follow(job, running)
            if job.stopped:
                raise Cancelled
            blind.round = shuffled(
                replies, self._dice, tally=asked.tally, question=asked.text, title=asked.title, model=asked.model
            )
            blind.open = not blind.round.problem
            ended = self._answers(blind.round)
        except Cancelled:
            ended = self._at_rest(session, blind_markup.status_html("stopped", CANCELLED), kept)
        except SteeringError as error:
            failed = True
            ended = self._at_rest(session, blind_markup.status_html("error", str(error)), kept)
        except Exception:
            failed = True
            logger.exception("Three answers of the blind test could not be written")
            ended = self._at_rest(session, blind_markup.status_html("error", UNFORESEEN), kept)
        finally:
            if running is not None:
                running.ended(stopped=job.stopped, failed=failed)
            if blind.job is not None:
                blind.job.stop()  # also when the page was closed in the middle
            blind.job = None
        yield ended

    def cancel(self, request: gr.Request) -> None:
        job = self.sessions.of(request).blind.job
        if job is not None:
            job.stop()

    def _follow(self, job: Reports, running: RunningTurn) -> Generator[Updates, None, list[str]]:
        """What to show while the answers are written: at most the longest one's length, which says nothing of whose."""
        replies = ["", "", ""]
        news: News = ("prefill", READING, READING)
        start = time.monotonic()
        shown = start - UPDATE_EVERY
        for report in job.reports(UPDATE_EVERY):
            if job.stopped and not job.started.is_set():
                break  # nobody waits in line for an answer that is not wanted any more
            if isinstance(report, Tick) and not report.started:
                replies = report.texts
                running.wrote(sum(report.n_tokens))
            news = self._news(report, job) or news
            now = time.monotonic()
            if now - shown >= UPDATE_EVERY:
                shown = now
                state, words, spoken = news
                # The seconds move also when a slow model has no new token to count.
                line = blind_markup.status_html(state, f"{words} · {now - start:.0f} s", spoken)
                yield self._shown(line, running=True)
        return replies

    def _news(self, report: Any, job: Reports) -> News | None:
        """What a report of the work changes in the status line; None if nothing."""
        if isinstance(report, Tick):
            if report.started:
                return "prefill", READING, READING
            words = f"Writing… {max(report.n_tokens)} of at most {SETTINGS['max_new_tokens']} tokens"
            return "running", words, "Writing three answers…"
        if report is not None:
            what, done, total = report
            return "prefill", f"{FINDING} {what}: {done / total:.0%}", FINDING
        if job.before:
            words = queued_message(job.before, job.seconds_before)
            return "queued", words, words
        return None

    # ------------------------------------------------------------------ voting

    def vote(self, button: str, votes: Any, request: gr.Request) -> Updates:
        """Take the vote of the button with these words and show the labels. Returns the votes, then the rest.

        Without a round that waits for a vote nothing changes.
        """
        blind = self.sessions.of(request).blind
        with self._voting:
            round_ = blind.round if blind.open and button in VOTE_WORDS else None
            if round_ is not None:
                blind.open = False
        if round_ is None:
            return _unchanged(12)
        place = VOTE_WORDS.index(button)
        before = sound_votes(votes)
        after = with_vote(before, round_, place)
        head = blind_markup.revealed_words(round_, place, counted=after is not before)
        tally = blind_markup.tally_html(counts(after, round_.tally), round_.title, round_.model)
        answers = [blind_markup.revealed_html(round_, at, place) for at in range(3)]
        voted = blind_markup.status_html("idle", "Your vote is in. Ask another question, or pick one.", "")
        return [after, *self._shown(voted, answers=answers, result=head + tally, forget=True)]

    def forget(self) -> Updates:
        """No votes any more. Returns votes, result, forget."""
        return [{}, blind_markup.FORGOTTEN, gr.update(visible=False)]

    # ------------------------------------------------------------------ what is shown

    @staticmethod
    def _shown(
        status: str,
        *,
        running: bool = False,
        answers: list[str] | None = None,
        voting: bool = False,
        result: str = "",
        forget: bool = False,
    ) -> Updates:
        return [
            status,
            gr.update(visible=not running),
            gr.update(visible=running),
            *(answers or [blind_markup.answer_html(place) for place in range(3)]),
            *[gr.update(visible=voting)] * 3,
            result,
            gr.update(visible=forget),
        ]

    def _answers(self, round_: Round) -> Updates:
        """The answers without their labels, and without the tally, which might lead the vote."""
        problem = round_.problem
        words = problem or "Done. Which answer sounds most human to you?"
        answers = [blind_markup.answer_html(place, text) for place, text in enumerate(round_.replies)]
        return self._shown(blind_markup.status_html("idle", words), answers=answers, voting=not problem)

    def _at_rest(self, session: Session, status: str, votes: Votes) -> Updates:
        """No answers, and the tally of the idea in view."""
        return [*self._shown(status)[:-2], *self._tally(session, session.blind.idea, votes)]

    @staticmethod
    def _complain(sentence: str) -> Updates:
        """A sentence, and all the rest as it is."""
        return [blind_markup.status_html("error", sentence), *_unchanged(10)]

    def _tally(self, session: Session, idea: str, votes: Votes) -> Updates:
        """The result and whether there is something to forget."""
        model = self.chat.engine.model
        result = ""
        if model is not None and is_there(self.chat, session, idea):
            own = session.own[idea] if is_own(idea) else None
            counted = counts(votes, tally_of(idea, own, model))
            result = blind_markup.tally_html(counted, title_of(idea, session), model.label)
        return [result, gr.update(visible=bool(votes))]


def _unchanged(n: int) -> Updates:
    return [gr.skip() for _ in range(n)]


__all__ = ["FIRST_IDEA", "VOTE_WORDS", "BlindHandlers"]
