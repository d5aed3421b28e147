"""One turn: what is asked of the engine, and the ticks the page receives while the replies are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from steering.errors import SteeringError
from steering.ui.columns import RANDOM, THREE, Asked, variant
from steering.ui.conversations import Likeliest, Message
from steering.ui.scope import coefficient_line, header, token_line

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.generation import Step
    from steering.interventions import Dial
    from steering.kept_rows import KeptRows
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.replies import Replies, ReplyRequest
    from steering.ui.worker import Job


class Models(Protocol):
    """What a turn needs of the model's owner, which is `engine.Engine`; all of it on the model's thread."""

    @property
    def kept_rows(self) -> KeptRows:
        """Keys and values of visitors' last turns."""

    def ready_model(self) -> ChatModel:
        """The model in use; raises SteeringError if there is none."""

    def preset_direction(self, name: str, progress: Progress) -> Direction:
        """A preset's direction for it, found first if it must be."""

    def random_twin(self, direction: Direction) -> Direction:
        """A random direction of equal length."""


TICKS_PER_SECOND = 12
LARGEST_COEFFICIENT = 100.0
EXCHANGED = "Another model came into use while you waited. Press again to ask it."
TOLD = (
    "system_prompt",
    "max_new_tokens",
    "temperature",
    "top_p",
    "repetition_penalty",
    "seed",
    "removal",
    "addition",
    "thinking",
    "thinking_acts",
)
LIKELIEST = 5  # next tokens that are remembered of each token of each column


@dataclass(frozen=True)
class OtherIdea:
    """With two ideas at once, the one that is turned up."""

    idea: str
    own: Direction | None
    dial: Dial


@dataclass(frozen=True)
class TurnRequest:
    """What is asked: one question for the conversations of all columns.

    Attributes:
        idea: a preset's name, used when ``own`` is None.
        histories: the conversations so far, one a column.
        dial: the coefficient, which the visitor may turn meanwhile; None is where the direction's own slider begins.
        columns: the columns' keys (`columns`).
        knobs: the strengths of the one knob.
        prompt: what the model is told when it is just asked for the idea.
        owner: whose keys and values may be kept for the next turn; "" keeps none.
        removal, addition: how the direction is taken out and turned up, as `methods` names the ways.
        thinking_acts: where the direction acts if the model thinks aloud: “both”, “thought” or “answer”.
        seconds: the longest the replies may take; a lost connection is not always noticed.
        expects: name and revision of the model that this is meant for, where it matters.
    """

    idea: str
    own: Direction | None
    histories: list[list[Message]]
    question: str
    dial: Dial | None
    columns: tuple[str, ...] = THREE
    other: OtherIdea | None = None
    knobs: tuple[float, ...] = ()
    prompt: str = ""
    owner: str = ""
    system_prompt: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.15
    seed: int = 0
    removal: str = "centred"
    addition: str = "added"
    thinking: bool = False
    thinking_acts: str = "both"
    expects: tuple[str, str] | None = None
    seconds: float = 180


@dataclass
class Tick:
    """News for the page: new lines for the log, the replies so far, and how fast they come.

    ``likeliest`` has what could have been said at each new token, by column and token number; ``notes`` is what went
    wrong with each answer.
    """

    lines: str
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)
    likeliest: dict[tuple[int, int], Likeliest] = field(default_factory=dict)
    rate: float | None = None
    left_out: int = 0
    started: bool = False
    layer: int | None = None
    notes: list[str] = field(default_factory=list)


class TurnWriter:
    """One turn on the model's side: what the engine is asked, and the ticks that are reported of its steps.

    Made on the model's thread, because a preset's direction may have to be found first.

    Args:
        report: takes each :class:`Tick`.
        progress: told while a direction is being found.

    Raises:
        SteeringError: if something asked is out of range or does not fit the model.
    """

    def __init__(
        self, engine: Models, request: TurnRequest, report: Callable[[Tick], None], progress: Progress
    ) -> None:
        from steering.interventions import Dial
        from steering.ui.strengths import strength_of

        self.request = request
        self.model = model = engine.ready_model()
        if request.expects not in (None, (model.name, model.revision)):
            raise SteeringError(EXCHANGED)
        self._report = report
        self.direction = direction = request.own or engine.preset_direction(request.idea, progress)
        direction.require_fit(model)
        random = engine.random_twin(direction) if RANDOM in request.columns else None
        other = None
        if request.other is not None:
            other = request.other.own or engine.preset_direction(request.other.idea, progress)
        self.dial = dial = request.dial or Dial(strength_of(direction).start)
        asked = Asked(
            direction,
            dial,
            request.removal,
            request.addition,
            random,
            other,
            request.other.dial if request.other else None,
            request.knobs,
            request.prompt,
            request.system_prompt,
        )
        self.variants = [_acting(variant(key, asked), request.thinking_acts) for key in request.columns]
        self.start = time.monotonic()
        self._coefficient = dial.value
        self._lines: list[str] = []
        self._likeliest: dict[tuple[int, int], Likeliest] = {}
        self._newest: Step | None = None
        self._first_token: float | None = None
        self._last_tick = 0.0
        self._steps = 0

    def asked(self, kept_rows: KeptRows | None = None) -> ReplyRequest:
        """What the engine is asked; ``model.thinking`` is set to what this turn wants.

        ``kept_rows`` has what was kept of the last turn, and is to have this one's (:meth:`keep`).
        """
        from steering.kept_rows import reading_condition
        from steering.replies import ReplyRequest
        from steering.sampling import SamplingSettings
        from steering.ui.methods import removed

        request = self.request
        self.model.thinking = request.thinking and self.model.can_think
        system = [{"role": "system", "content": request.system_prompt}] if request.system_prompt.strip() else []
        question = {"role": "user", "content": request.question}
        kept = None
        if kept_rows is not None and request.owner:
            kept = [
                kept_rows.take(request.owner, self._row_name(column), reading_condition(self.model, variant))
                for column, variant in zip(request.columns, self.variants, strict=True)
            ]
        return ReplyRequest(
            conversations=[[*system, *history, question] for history in request.histories],
            variants=self.variants,
            settings=SamplingSettings(request.temperature, request.top_p, request.repetition_penalty, request.seed),
            max_new_tokens=request.max_new_tokens,
            probe=removed(request.removal, self.direction),
            likeliest=LIKELIEST,
            kept=kept,
            keeps=kept is not None,
        )

    def keep(self, replies: Replies, kept_rows: KeptRows) -> None:
        """Keep the keys and values of a turn that has left its batch for the visitor's next one."""
        if not self.request.owner:
            return
        if not replies.request.keeps:
            return
        rows = zip(self.request.columns, replies.keep(), replies.conditions, strict=True)
        for column, row, condition in rows:
            if row is not None:
                kept_rows.put(self.request.owner, self._row_name(column), condition, row)

    def _row_name(self, column: str) -> str:
        return f"{self.request.idea} {column}"

    def begin(self) -> None:
        """Report that the question is being read."""
        request, layer = self.request, self.direction.layer
        started = header(
            time.time_ns(),
            self.model.n_layers,
            layer=layer,
            max_new_tokens=request.max_new_tokens,
            coefficient=self.dial.value,
        )
        self._report(Tick(started, started=True, layer=layer))

    def take(self, step: Step) -> None:
        """Take up one step of all columns; reports a tick about twelve times a second."""
        now = time.monotonic()
        self._steps += 1
        if self.dial.value != self._coefficient:
            self._coefficient = self.dial.value
            # The turn acted on the token that was just read, so what it changed first is the one written now.
            self._lines.append(coefficient_line(max(step.n_tokens), self._coefficient))
        for column, token in enumerate(step.tokens):
            if token is not None:
                number = step.n_tokens[column]
                self._lines.append(token_line(number, column, token, step.cosines[column].numpy()))
                if (likeliest := step.likeliest[column]) is not None:
                    self._likeliest[column, number] = self._words(*likeliest)
        self._newest = step
        if self._first_token is None:
            self._first_token = now
        if now - self._last_tick >= 1 / TICKS_PER_SECOND:
            self.flush()

    @property
    def is_overdue(self) -> bool:
        """Whether the replies have taken longer than they may."""
        return time.monotonic() - self.start > self.request.seconds

    def flush(self) -> None:
        """Report what has not been reported yet."""
        step = self._newest
        if step is None:
            return
        now = time.monotonic()
        passed = now - (self._first_token or now)
        self._report(
            Tick(
                "".join(self._lines),
                texts=_written(step),
                thoughts=step.thoughts,
                n_tokens=step.n_tokens,
                likeliest=self._likeliest,
                rate=(self._steps - 1) / passed if passed > 0.2 else None,
                left_out=max(step.left_out),
            )
        )
        self._lines, self._likeliest = [], {}
        self._last_tick = now

    def _words(self, ids: list[int], probabilities: list[float]) -> Likeliest:
        return [(_text_of(self.model.tokenizer, i), p) for i, p in zip(ids, probabilities, strict=True)]


def _written(step: Step) -> list[str]:
    """The answers, each with its tokens for the turns to come; behind a thought, which those do not read, without."""
    from steering.own_words import Written

    return [
        answer if n_thought else Written(answer, ids)
        for answer, ids, n_thought in zip(step.answers, step.token_ids, step.n_thought, strict=True)
    ]


@lru_cache(maxsize=4096)
def _text_of(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))


def _acting(variant: Any, where: str) -> Any:
    from dataclasses import replace

    return replace(variant, acts=where) if variant.interventions else variant


def turn_work(engine: Models, request: TurnRequest, job: Job) -> None:
    """Write the replies of one turn by themselves for a job; runs on the model's thread."""
    run_turn(engine, request, job.report, job.progress, lambda: job.stopped)


def run_turn(
    engine: Models,
    request: TurnRequest,
    report: Callable[[Tick], None],
    progress: Progress,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write the replies of one turn by themselves, until they end or ``stopped`` says so; on the calling thread.

    Raises:
        SteeringError: if something asked does not fit, or the model could not go on.
    """
    from steering.reply_batch import ReplyBatch

    writer = TurnWriter(engine, request, report, progress)
    writer.begin()
    batch = ReplyBatch(writer.model)
    replies = batch.join(writer.asked())
    try:
        writer.take(replies.newest)
        while not (replies.finished or stopped() or writer.is_overdue):
            batch.step()
            if replies.error is not None:
                raise replies.error
            writer.take(replies.newest)
    finally:
        writer.flush()  # what was written before something failed stays
        batch.leave(replies)


def told(request: TurnRequest) -> dict[str, Any]:
    """What a turn is written with, as anyone may read it."""
    return {"coefficient": request.dial.value if request.dial else None} | {
        name: getattr(request, name) for name in TOLD
    }


def checked_coefficient(value: float | None) -> float:
    """The slider's number, refused if it is none.

    Raises:
        SteeringError: if it is not a finite number in the usable range.
    """
    if value is None or not -LARGEST_COEFFICIENT <= float(value) <= LARGEST_COEFFICIENT:
        raise SteeringError(
            f"The strength must be a number up to {LARGEST_COEFFICIENT:g}. Move the slider and ask again."
        )
    return float(value)
