"""One turn: the work that writes three replies on the model's thread, and the ticks the page receives of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui.scope import coefficient_line, header, token_line

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.generation import Step
    from steering.interventions import Dial
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

TICKS_PER_SECOND = 12
LARGEST_COEFFICIENT = 100.0


@dataclass(frozen=True)
class TurnRequest:
    """What is asked: one question for three conversations.

    Attributes:
        idea: a preset's name, used when ``own`` is None.
        histories: the three conversations so far.
        dial: the coefficient, which the visitor may turn meanwhile.
        seconds: the longest the replies may take; a lost connection is not always noticed.
        removal, addition: how the direction is taken out and turned up, as `methods` names the ways.
    """

    idea: str
    own: Direction | None
    histories: list[list[dict[str, str]]]
    question: str
    dial: Dial
    system_prompt: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.15
    seed: int = 0
    removal: str = "centred"
    addition: str = "added"
    thinking: bool = False
    seconds: float = 180


@dataclass
class Tick:
    """News for the page: new lines for the log, the replies so far, and how fast they come."""

    lines: str
    texts: list[str] = field(default_factory=lambda: ["", "", ""])
    n_tokens: list[int] = field(default_factory=lambda: [0, 0, 0])
    rate: float | None = None
    left_out: int = 0
    started: bool = False
    layer: int | None = None


def turn_work(engine: Engine, request: TurnRequest, job: Job) -> None:
    """Write the replies, reporting a :class:`Tick` about twelve times a second; runs on the model's thread."""
    from steering.generation import stream_side_by_side
    from steering.interventions import Variant
    from steering.ui.methods import removed, taken_out, turned_up

    model = engine.ready_model()
    direction = request.own or engine.preset_direction(request.idea, job.progress)
    direction.require_fit(model)
    ablated = removed(request.removal, direction)
    model.thinking = request.thinking and model.can_think
    system = [{"role": "system", "content": request.system_prompt}] if request.system_prompt.strip() else []
    question = {"role": "user", "content": request.question}
    variants = [
        Variant.baseline(),
        taken_out(request.removal, direction),
        turned_up(request.addition, direction, request.dial),
    ]
    started = header(
        time.time_ns(),
        model.n_layers,
        layer=direction.layer,
        max_new_tokens=request.max_new_tokens,
        coefficient=request.dial.value,
    )
    job.report(Tick(started, started=True, layer=direction.layer))
    steps = stream_side_by_side(
        model,
        [[*system, *history, question] for history in request.histories],
        variants,
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        probe=ablated,
    )
    reporter = _Reporter(job, request.dial)
    for step in steps:
        reporter.take(step)
        if job.stopped or time.monotonic() - reporter.start > request.seconds:
            break
    reporter.flush()


class _Reporter:
    """Collects steps and reports them as ticks."""

    def __init__(self, job: Job, dial: Dial) -> None:
        self.start = time.monotonic()
        self._job = job
        self._dial = dial
        self._coefficient = dial.value
        self._lines: list[str] = []
        self._newest: Step | None = None
        self._first_token: float | None = None
        self._last_tick = 0.0
        self._steps = 0

    def take(self, step: Step) -> None:
        now = time.monotonic()
        self._steps += 1
        if self._dial.value != self._coefficient:
            self._coefficient = self._dial.value
            # The turn acted on the token that was just read, so what it changed first is the one written now.
            self._lines.append(coefficient_line(max(step.n_tokens), self._coefficient))
        for variant, token in enumerate(step.tokens):
            if token is not None:
                self._lines.append(token_line(step.n_tokens[variant], variant, token, step.cosines[variant].numpy()))
        self._newest = step
        if self._first_token is None:
            self._first_token = now
        if now - self._last_tick >= 1 / TICKS_PER_SECOND:
            self.flush()

    def flush(self) -> None:
        step = self._newest
        if step is None:
            return
        now = time.monotonic()
        passed = now - (self._first_token or now)
        self._job.report(
            Tick(
                "".join(self._lines),
                texts=step.texts,
                n_tokens=step.n_tokens,
                rate=(self._steps - 1) / passed if passed > 0.2 else None,
                left_out=max(step.left_out),
            )
        )
        self._lines = []
        self._last_tick = now


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
