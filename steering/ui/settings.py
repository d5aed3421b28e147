"""The settings drawer: what it holds, and what each setting begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from steering.ui import markup
from steering.ui.limits import Limits
from steering.ui.methods import ADDITION_HELP, ADDITIONS, REMOVAL_HELP, REMOVALS
from steering.ui.pieces import fixed

ACTS = (  # where a direction acts in a model that thinks first
    ("In the thought and the answer", "both"),
    ("In the thought only", "thought"),
    ("In the answer only", "answer"),
)
SETTINGS: dict[str, Any] = {
    "system_prompt": "",
    "max_new_tokens": 120,
    "temperature": 0.0,
    "top_p": 1.0,
    "repetition_penalty": 1.15,
    "seed": 0,
    "third_answer": "added",
    "removal": "centred",
    "addition": "added",
    "thinking": False,
    "thinking_acts": "both",
    "scroll_together": False,
}


def settings_drawer(
    models: Sequence[tuple[str, str]], left_out: Sequence[tuple[str, str]], model: str, limits: Limits
) -> tuple[gr.Dropdown, gr.Textbox, dict[str, gr.components.Component], gr.Button]:
    """The drawer: the model, what is known of it, the settings that `SETTINGS` names in its order, and their reset."""
    start = SETTINGS
    with gr.Column(elem_id="settings", min_width=0):
        fixed(markup.SETTINGS_HEAD, "settings-head")
        model_choice = gr.Dropdown(
            list(models), value=model, label="Model", elem_id="model", interactive=True, filterable=False
        )
        model_status = gr.Textbox(
            "",
            label="About this model",
            show_label=False,
            lines=1,
            max_lines=5,
            interactive=False,
            elem_id="model-status",
        )
        if left_out:
            fixed(markup.models_left_out(left_out), "models-left-out")
        settings: dict[str, gr.components.Component] = {
            "system_prompt": gr.Textbox(
                start["system_prompt"],
                label="System prompt",
                placeholder="The model's own",
                lines=2,
                max_lines=6,
                max_length=limits.characters,
                elem_id="system-prompt",
                interactive=True,
            ),
            "max_new_tokens": _number_slider(
                "Longest answer, in tokens", 20, limits.tokens, start["max_new_tokens"], 1
            ),
            "temperature": _number_slider(
                "Temperature", 0, 1.5, start["temperature"], 0.05, "0 gives the same answer each time"
            ),
            "top_p": _number_slider("Top-p", 0.05, 1, start["top_p"], 0.05, "Counts when the temperature is above 0"),
            "repetition_penalty": _number_slider(
                "Repetition penalty", 1, 1.5, start["repetition_penalty"], 0.05, "1 is none; small models loop without"
            ),
            "seed": gr.Number(
                start["seed"], label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed", interactive=True
            ),
            "third_answer": gr.Radio(
                [("Turned up", "added"), ("Its opposite", "opposite")],
                value=start["third_answer"],
                label="Third answer",
                elem_id="third-answer",
                elem_classes="pills",
                interactive=True,
            ),
            "removal": gr.Radio(
                [(words, name) for name, words in REMOVALS.items()],
                value=start["removal"],
                label="How it is taken out",
                info=REMOVAL_HELP,
                elem_id="removal",
                elem_classes="pills",
                interactive=True,
            ),
            "addition": gr.Radio(
                [(words, name) for name, words in ADDITIONS.items()],
                value=start["addition"],
                label="How it is turned up",
                info=ADDITION_HELP,
                elem_id="addition",
                elem_classes="pills",
                interactive=True,
            ),
            "thinking": gr.Checkbox(
                start["thinking"],
                label="Let the model think first",
                elem_id="thinking",
                interactive=True,
                visible=False,
            ),
            "thinking_acts": gr.Radio(
                list(ACTS),
                value=start["thinking_acts"],
                label="Where the idea acts",
                elem_id="thinking-acts",
                elem_classes="pills",
                interactive=True,
                visible=False,
            ),
            "scroll_together": gr.Checkbox(
                start["scroll_together"],
                label="Scroll the answers together",
                elem_id="scroll-together",
                interactive=True,
            ),
        }
        reset = gr.Button("Reset settings", size="sm", elem_id="reset-settings")
    return model_choice, model_status, settings, reset


def _number_slider(
    label: str, minimum: float, maximum: float, value: float, step: float, info: str | None = None
) -> gr.Slider:
    return gr.Slider(
        minimum,
        maximum,
        value=value,
        step=step,
        label=label,
        info=info,
        buttons=[],
        elem_classes="number",
        interactive=True,
    )
