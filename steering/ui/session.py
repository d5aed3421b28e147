"""What the page remembers of one visitor: conversations, own directions, and the reply being written."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.ui.columns import SETS
from steering.ui.conversations import Conversation, Turn

if TYPE_CHECKING:
    from steering.contrast import ContrastSet
    from steering.directions import Candidates, Direction
    from steering.interventions import Dial
    from steering.separation import Separation
    from steering.ui.best_search import Search
    from steering.ui.blind_votes import Round
    from steering.ui.engine import Loading
    from steering.ui.evaluate_found import Evaluated
    from steering.ui.explain_found import Explained
    from steering.ui.worker import Reports

SESSIONS_KEPT = 200
OWN = "own:"  # the key of an own direction is this and its number


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
    job: Reports | None = None
    round: Round | None = None
    open: bool = False


@dataclass
class Errand:
    """Long work of a tab, one at a time.

    Attributes:
        job: what runs.
        busy: whether something does, or will at once.
    """

    job: Reports | None = None
    busy: bool = False

    def end(self) -> None:
        """End what runs."""
        if self.job is not None:
            self.job.stop()


@dataclass
class Explaining(Errand):
    """What stands on the “Explain” tab.

    Attributes:
        shown: what was found of the prompt, for looking at other heads of it.
        default_suffix: the suffix as it was suggested.
        shown_for: name and revision of the model that the tab was last shown for; None before that.
    """

    shown: Explained | None = None
    default_suffix: str = ""
    shown_for: tuple[str, str] | None = None


@dataclass
class Evaluating(Errand):
    """What stands on the “Evaluate” tab.

    Attributes:
        shown: the newest evaluation.
    """

    shown: Evaluated | None = None


@dataclass
class TakingHome(Errand):
    """What stands on the “Take it home” tab; its errand writes an edited model, or sends something to the hub.

    Attributes:
        written: the folders that this visitor had written, by their names.
        looked_at: what, the repository and whether it is public, of the files that were shown before they are sent.
        default_name: the folder's name as it was suggested.
        shown_for: name and revision of the model that the tab was last shown for; None before that.
    """

    written: dict[str, Path] = field(default_factory=dict)
    looked_at: tuple[str, str, bool] | None = None
    default_name: str = ""
    shown_for: tuple[str, str] | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """Where files to download are written; gone with the visitor."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="take-home-")
        return Path(self._folder.name)

    def end(self) -> None:
        """End what runs, and remove the files."""
        super().end()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


@dataclass
class Session:
    """One visitor. Each idea has a conversation of its own, so choosing another loses nothing.

    Attributes:
        idea: the idea in view.
        conversations: the finished turns of each idea, in branches.
        beside: which columns stand side by side, a key of `columns.SETS`.
        other: with two ideas at once, the one that is turned up, and how strongly.
        editing: the number of the turn whose question is in the box to be asked differently.
        log: what the scope shows.
        pending: a question that was accepted and is not being answered yet.
        unanswered: a question whose answer failed, to be given back to the box.
        live, live_idea: the turn being written, and whose conversation it belongs to.
        job, dial, other_dial: its work, and the coefficients that can be moved meanwhile.
        sign: −1 when the third answer shows the opposite.
        tries: how often a question was asked again; moves the seed.
        own: directions of the visitor's own, by key.
        notice: what to know before the first question, said while nothing was asked yet.
        model_seen: name and revision of the model the page was last told of.
        words: what the settings said about it then.
        refused: the load that failed last, as far as the page was told.
    """

    key: str
    idea: str
    conversations: dict[str, Conversation] = field(default_factory=dict)
    beside: str = "three"
    other: str = ""
    other_strength: float = 1.0
    editing: int | None = None
    log: str = ""
    pending: str = ""
    unanswered: str = ""
    live: Turn | None = None
    live_idea: str = ""
    job: Reports | None = None
    dial: Dial | None = None
    other_dial: Dial | None = None
    sign: int = 1
    tries: int = 0
    own: dict[str, Direction] = field(default_factory=dict)
    notice: str = ""
    model_seen: tuple[str, str] = ("", "")
    words: str = ""
    refused: Loading | None = None
    making: Making = field(default_factory=Making)
    blind: BlindTest = field(default_factory=BlindTest)
    explaining: Explaining = field(default_factory=Explaining)
    evaluating: Evaluating = field(default_factory=Evaluating)
    home: TakingHome = field(default_factory=TakingHome)

    @property
    def is_busy(self) -> bool:
        return self.live is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of the columns in view."""
        return SETS[self.beside]

    def conversation(self, idea: str) -> Conversation:
        return self.conversations.setdefault(idea, Conversation())

    def forget(self, idea: str) -> None:
        """Begin an idea's conversation anew."""
        self.conversations[idea] = Conversation(was_used=True)

    def add_own(self, direction: Direction) -> str:
        """Keep a direction of the visitor's own; the key it is chosen by."""
        key = f"{OWN}{len(self.own) + 1}"
        self.own[key] = direction
        return key

    def stop(self) -> None:
        """End the reply that is being written."""
        if self.job is not None:
            self.job.stop()

    def end(self) -> None:
        """The visitor has left: end whatever runs for them."""
        self.stop()
        self.explaining.end()
        self.evaluating.end()
        self.home.end()


class Sessions:
    """The sessions in use, the least recently used given up first."""

    def __init__(self, first_idea: str, kept: int = SESSIONS_KEPT) -> None:
        self._first_idea = first_idea
        self.kept = kept
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: object) -> bool:
        return key in self._sessions

    def of(self, request: Any) -> Session:
        """The session of a request of the page."""
        key = request.session_hash or ""
        with self._lock:
            session = self._sessions.pop(key, None) or Session(key, self._first_idea)
            self._sessions[key] = session
            while len(self._sessions) > self.kept:
                _, oldest = self._sessions.popitem(last=False)
                oldest.end()
            return session

    def end_all(self) -> None:
        """Everybody has left."""
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.end()

    def close(self, request: Any) -> None:
        """Forget a visitor who left, and end what runs for them."""
        with self._lock:
            session = self._sessions.pop(request.session_hash or "", None)
        if session is not None:
            session.end()
