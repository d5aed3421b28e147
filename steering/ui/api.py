"""The one public endpoint, for programs: the same turn as on the page, without a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from steering.contrast import preset_names
from steering.errors import SteeringError
from steering.ui.chat import UNFORESEEN, Chat, logger
from steering.ui.ideas import preset_strength
from steering.ui.limits import Limits
from steering.ui.turn import Tick, TurnRequest, checked_coefficient, turn_work


def steer_endpoint(chat: Chat) -> Callable[..., Iterator[dict[str, Any]]]:
    """The function behind ``/steer``, bound to a chat's engine."""

    # Gradio reads the annotations of this function for its own documentation, so they are not strings.
    def steer(
        message: str,
        idea: str = "poetic",
        coefficient: float | None = None,
        seed: int = 0,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        caller: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Ask the model once and get three replies: as it is, with the idea taken out, and with it turned up.

        Streams the replies so far; the last value is whole.

        Parameters:
            message: the question, at most 2,000 characters.
            idea: the name of a preset.
            coefficient: how strongly the idea is turned up; left out, the preset's own.
            seed: of the dice, at a temperature above 0.
            max_new_tokens: the longest reply, at most 512.
            temperature: 0 gives the same replies each time.

        Returns:
            texts: the replies by variant: baseline, ablated, added.
            tokens: the number of tokens of each reply.
            layer: the layer at which the direction is added.
        """
        try:
            if refusal := chat.operator.admit(caller):
                raise SteeringError(refusal)
            request = _request(chat.operator.limits, message, idea, coefficient, seed, max_new_tokens, temperature)
            job = chat.engine.worker.submit(lambda job: turn_work(chat.engine, request, job), short=True)
        except SteeringError as error:
            raise gr.Error(str(error), print_exception=False) from error
        session_key = (caller.session_hash or "") if caller else ""
        running = chat.operator.activity.turn_started(session_key, rows=3, kind="steer", stop=job.stop)
        layer: int | None = None
        failed = False
        try:
            for report in job.reports():
                if isinstance(report, Tick) and report.started:
                    layer = report.layer
                elif isinstance(report, Tick):
                    running.wrote(sum(report.n_tokens))
                    names = ("baseline", "ablated", "added")
                    yield {
                        "texts": dict(zip(names, report.texts, strict=True)),
                        "tokens": dict(zip(names, report.n_tokens, strict=True)),
                        "layer": layer,
                    }
        except SteeringError as error:
            failed = True
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            failed = True
            logger.exception("A call of /steer failed")
            raise gr.Error(UNFORESEEN, print_exception=False) from error
        finally:
            running.ended(stopped=job.stopped, failed=failed)
            job.stop()

    steer.__annotations__ = {
        "message": str,
        "idea": str,
        "coefficient": float | None,
        "seed": int,
        "max_new_tokens": int,
        "temperature": float,
        "caller": gr.Request,
        "return": Iterator[dict[str, Any]],
    }
    return steer


def _request(
    limits: Limits,
    message: str,
    idea: str,
    coefficient: float | None,
    seed: int,
    max_new_tokens: int,
    temperature: float,
) -> TurnRequest:
    from steering.interventions import Dial

    if not isinstance(message, str) or not message.strip():
        raise SteeringError("The message is empty. Write a question.")
    if len(message) > limits.characters:
        raise SteeringError(
            f"The message has {len(message)} characters; at most {limits.characters} are taken. Shorten it."
        )
    if idea not in preset_names():
        raise SteeringError(f"There is no idea “{idea}”. Choose one of {', '.join(preset_names())}.")
    if not 1 <= max_new_tokens <= limits.tokens:
        raise SteeringError(f"max_new_tokens must lie between 1 and {limits.tokens}, not at {max_new_tokens}.")
    strength = preset_strength(idea).start if coefficient is None else coefficient
    return TurnRequest(
        idea=idea,
        own=None,
        histories=[[], [], []],
        question=message.strip(),
        dial=Dial(checked_coefficient(strength)),
        max_new_tokens=int(max_new_tokens),
        temperature=float(temperature),
        seed=int(seed),
        seconds=limits.seconds,
    )
