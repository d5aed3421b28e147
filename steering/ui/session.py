"""What the page remembers of one visitor: conversations, own directions, and the reply being written."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Candidates, Direction
    from steering.interventions import Dial
    from steering.separation import Separation
    from steering.ui.best_search import Search
    from steering.ui.blind_votes import Round
    from steering.ui.engine import Loading
    from steering.ui.worker import Job

SESSIONS_KEPT = 200
OWN = "own:"  # the key of an own direction is this and its number


@dataclass
class Turn:
    """One question, the three replies to it, the log of how they were written, and what to say of it at the end."""

    question: str
    replies: list[str]
    log: str
    note: str = ""


@dataclass
class Making:
    """What stands on the “Make a direction” tab: made by computing (candidates, separation), or by a search."""

    data: ContrastSet | None = None
    candidates: Candidates | None = None
    separation: Separation | None = None
    search: Search | None = None
    direction: Direction | None = None

    def take_search(self, search: Search) -> None:
        """Take up a search; a new one takes the place of what was found before."""
        if search is not self.search:
            self.forget_found()
            self.search = search

    def forget_found(self) -> None:
        """Only the texts stay."""
        self.search = self.candidates = self.separation = self.direction = None


@dataclass
class BlindTest:
    """What stands on the “Blind test” tab: the idea, the work, the answers, and whether they wait for a vote."""

    idea: str = ""
    job: Job | None = None
    round: Round | None = None
    open: bool = False


@dataclass
class Session:
    """One visitor. Each idea has a conversation of its own, so choosing another loses nothing.

    Attributes:
        idea: the idea in view.
        turns: the finished turns of each idea.
        log: what the scope shows.
        pending: a question that was accepted and is not being answered yet.
        unanswered: a question whose answer failed, to be given back to the box.
        live, live_idea: the turn being written, and whose conversation it belongs to.
        job, dial: its work, and the coefficient that can be moved meanwhile.
        sign: −1 when the third answer shows the opposite.
        tries: how often a question was asked again; moves the seed.
        own: directions of the visitor's own, by key.
        model_seen: name and revision of the model the page was last told of.
        words: what the settings said about it then.
        refused: the load that failed last, as far as the page was told.
    """

    key: str
    idea: str
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    log: str = ""
    pending: str = ""
    unanswered: str = ""
    live: Turn | None = None
    live_idea: str = ""
    job: Job | None = None
    dial: Dial | None = None
    sign: int = 1
    tries: int = 0
    own: dict[str, Direction] = field(default_factory=dict)
    model_seen: tuple[str, str] = ("", "")
    words: str = ""
    refused: Loading | None = None
    making: Making = field(default_factory=Making)
    blind: BlindTest = field(default_factory=BlindTest)

    @property
    def is_busy(self) -> bool:
        return self.live is not None

    def conversation(self, idea: str) -> list[Turn]:
        return self.turns.setdefault(idea, [])

    def histories(self, idea: str) -> list[list[dict[str, str]]]:
        """The three conversations as messages, ready for another user's text."""
        return [
            [
                message
                for turn in self.conversation(idea)
                for message in (
                    {"role": "user", "content": turn.question},
                    {"role": "assistant", "content": turn.replies[variant]},
                )
            ]
            for variant in range(3)
        ]

    def add_own(self, direction: Direction) -> str:
        """Keep a direction of the visitor's own; the key it is chosen by."""
        key = f"{OWN}{len(self.own) + 1}"
        self.own[key] = direction
        return key

    def stop(self) -> None:
        if self.job is not None:
            self.job.stop()


class Sessions:
    """The sessions in use, the least recently used given up first."""

    def __init__(self, first_idea: str, kept: int = SESSIONS_KEPT) -> None:
        self._first_idea = first_idea
        self.kept = kept
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, request: Any) -> Session:
        """The session of a request of the page."""
        key = request.session_hash or ""
        with self._lock:
            session = self._sessions.pop(key, None) or Session(key, self._first_idea)
            self._sessions[key] = session
            while len(self._sessions) > self.kept:
                _, oldest = self._sessions.popitem(last=False)
                oldest.stop()
            return session

    def close(self, request: Any) -> None:
        """Forget a visitor who left, and end what runs for them."""
        with self._lock:
            session = self._sessions.pop(request.session_hash or "", None)
        if session is not None:
            session.stop()
