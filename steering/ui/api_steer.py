"""``/steer``, for programs: the same turn as on the page, without a conversation."""

# Gradio reads the annotations of an endpoint for its documentation, so they are not strings here.
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from steering.contrast import preset_names
from steering.errors import DirectionError, SteeringError
from steering.ui.activity import RunningTurn
from steering.ui.api_arguments import errors_as_sentences, number, shown, text, whole_number
from steering.ui.api_directions import KeptDirections
from steering.ui.engine import Engine
from steering.ui.ideas import fits_model, is_own
from steering.ui.operator import Operator
from steering.ui.turn import LARGEST_COEFFICIENT, Tick, TurnRequest
from steering.ui.worker import Reports

VARIANTS = ("baseline", "ablated", "added")
LARGEST_SEED = 2**32 - 1
# A call that was given up is noticed between two values; so there is one at least this often, in seconds.
SIGN_OF_LIFE = 0.5


def steer_endpoint(engine: Engine, kept: KeptDirections, operator: Operator) -> Callable[..., Iterator[dict[str, Any]]]:
    """The function behind ``/steer``, bound to an engine and to the directions that programs computed."""

    def steer(
        message: str,
        idea: str = "poetic",
        coefficient: float | None = None,
        seed: int = 0,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        system_prompt: str = "",
        repetition_penalty: float = 1.15,
        caller: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Ask the model once and get three replies: as it is, with an idea taken out of its residual stream
        (“ablated”), and with the idea turned up (“added”). Streams the replies so far; the last value is whole.

        Parameters:
            message: The question, at most 2,000 characters.
            idea: The name of a preset, such as poetic or pirate, or the id that compute_direction gave.
            coefficient: How strongly the idea is turned up, −100 to 100; null takes the idea's own useful strength.
            seed: Of the dice at a temperature above 0; the same seed gives the same replies.
            max_new_tokens: The longest reply in tokens, 1 to 512.
            temperature: 0 takes the likeliest words and gives the same replies each time; at most 5.
            system_prompt: What the model is told before the question, at most 2,000 characters; for all three replies.
            repetition_penalty: Above 1, words that were used already become less likely; 0.5 to 3.

        Returns:
            texts: the replies by variant (baseline, ablated, added)
            tokens: the number of tokens of each reply
            layer: the layer at which the direction is added
        """
        with errors_as_sentences("steer"):
            if refusal := operator.admit(caller):
                raise SteeringError(refusal)
            request = _request(
                message, idea, kept, max_new_tokens, temperature, seed, system_prompt, repetition_penalty, operator
            )
            if coefficient is not None:
                wanted = number("coefficient", coefficient, -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
                request = replace(request, dial=engine.worker.dial(wanted))
            _require_model(engine, request)
            job = engine.ask(request)
            session_key = (caller.session_hash or "") if caller else ""
            running = operator.activity.turn_started(session_key, rows=len(VARIANTS), kind="steer", stop=job.stop)
            failed = True
            try:
                yield from _replies(job, running)
                failed = False
            finally:
                stopped = job.stopped
                job.stop()  # also when the caller gave up in the middle
                running.ended(stopped=stopped, failed=failed)

    return steer


def _request(
    message: Any,
    idea: Any,
    kept: KeptDirections,
    max_new_tokens: Any,
    temperature: Any,
    seed: Any,
    system_prompt: Any,
    repetition_penalty: Any,
    operator: Operator,
) -> TurnRequest:
    """What is asked for, checked; without a dial, which means the idea's own strength."""
    question = text("message", message, operator.limits.characters)
    if not question:
        raise SteeringError("The message is empty. Write a question.")
    if not isinstance(idea, str) or not (is_own(idea) or idea in preset_names()):
        asked_for = shown(idea).strip('"')
        raise SteeringError(
            f"There is no idea “{asked_for}”. Choose one of {', '.join(preset_names())}, or the id that "
            "/compute_direction gave."
        )
    return TurnRequest(
        idea=idea,
        own=kept.get(idea) if is_own(idea) else None,
        histories=[[] for _ in VARIANTS],
        question=question,
        dial=None,
        seconds=operator.limits.seconds,
        system_prompt=text("system_prompt", system_prompt, operator.limits.characters),
        max_new_tokens=whole_number("max_new_tokens", max_new_tokens, 1, operator.limits.tokens),
        temperature=number("temperature", temperature, 0, 5),
        repetition_penalty=number("repetition_penalty", repetition_penalty, 0.5, 3),
        seed=whole_number("seed", seed, 0, LARGEST_SEED),
    )


def _require_model(engine: Engine, request: TurnRequest) -> None:
    """Raise SteeringError if no model is loaded, or another one than a computed direction was made for."""
    model = engine.ready_model()
    if request.own is not None and not fits_model(request.own, model.name, model.revision):
        raise DirectionError(
            f"This direction was made for another model than {model.label}, which is in use now. Compute it again."
        )


def _replies(job: Reports, running: RunningTurn) -> Iterator[dict[str, Any]]:
    """The replies as they grow; while nothing comes of them, the same again, as a sign of life."""
    layer: int | None = None
    newest = Tick("")
    last_sign = 0.0
    for report in job.reports():
        if isinstance(report, Tick) and report.started:
            layer = report.layer
            continue
        if isinstance(report, Tick):
            newest = report
            running.wrote(sum(report.n_tokens))
        elif time.monotonic() - last_sign < SIGN_OF_LIFE:
            continue
        yield {
            "texts": dict(zip(VARIANTS, newest.texts or [""] * len(VARIANTS), strict=True)),
            "tokens": dict(zip(VARIANTS, newest.n_tokens or [0] * len(VARIANTS), strict=True)),
            "layer": layer,
        }
        last_sign = time.monotonic()
