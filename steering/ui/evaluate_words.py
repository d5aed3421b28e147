"""Words of the “Evaluate” tab. Nothing here is escaped: that is done where they become markup."""

from __future__ import annotations

from steering.ui.errands import Sayings

COUNTS = (4, 8, 16, 32)
ENOUGH = 16  # questions; of fewer it is said that they are few
FEW = "So few questions tell little: look how long the lines are, and ask more of them before you believe a difference."
LENGTHS = (32, 64, 128)
FOR_STRANGERS = 2  # so many of either are offered where others reach the page: an evaluation keeps the model busy
HARMLESS_ONLY, BOTH = "everyday ones", "harmful ones too"

SAYINGS = Sayings(
    tab="Evaluate",
    bar="Evaluating",
    busy="An evaluation of yours is still running. Wait for it, or cancel it.",
    unforeseen="Something went wrong inside the program; its log says what. What was measured before stays: try again.",
    cancelled=("Cancelled.", "What was measured before stays."),
)
OTHER_MODEL = "Another model came into use meanwhile. Press again to evaluate that one."
NOT_OURS = "This is not what the page sends. Load the page again, and try once more."
READY = "Getting the direction ready"

INTRO = (
    "A few answers can mislead. Here many questions, none of which any idea was learned from, are answered in seven "
    "ways and every answer is read: does it refuse, answer, miss the question or fall apart? Lines around the dots are "
    "95 % intervals: where two of them lie far apart, the difference is no luck."
)
KEPT = (
    "Answers are read and thrown away at once: what is shown and what you can download are figures alone. To harmful "
    "requests, too, nothing is shown or kept."
)
TABLE, PLOTS, BEFORE = "All figures", "The figures", "Beside the one before"
FIRST = "Figures with intervals appear here: how often each way of answering refuses, and what it costs."
COMMAND = (
    "The command line does more: sets that the field uses, a judge of safety, edited checkpoints, several models, "
    "tasks of lm-eval, and runs that survive a kill. "
)
FIELD = (
    "Refusal score: share of replies with one of the twelve phrases of Arditi et al. 2024 anywhere in them. Off topic: "
    "the unsteered model finds the reply hardly likelier behind its own prompt than behind others. Broken: empty, "
    "looping, or at least 2 nats a token less likely than the unsteered model’s own reply.",
    "CE: cross-entropy, nats a token. KL: from the baseline. The random directions are as long as the direction, "
    "another one for each question. Subtracted: the direction added with −1, the paper’s other way to end refusal. "
    "Prompted: the model just asked for the idea.",
    "Shares have Wilson’s interval, means a bootstrap over questions; * is p < 0.05 against the baseline on the same "
    "questions (McNemar, exact; for means a permutation of signs), for each figure by itself.",
)


def heading(title: str, model: str) -> str:
    """What is evaluated."""
    return f"How much “{title}” changes {model or 'the model'}"
