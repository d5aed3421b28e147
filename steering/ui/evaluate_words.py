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
    "The command line does more: files of your own, several models and system prompts in one table, a judge’s own "
    "rubric, tasks of lm-eval, and runs that survive a kill. "
)
EXAMPLE = "python -m steering evaluate --direction poetic --harmful requests.txt --system --tasks coherence"

# What only the person at the machine may ask for: other questions, and models beside the one in use.
COME_ALONG = "Those that come along"
MORE = "Other questions, a judge, edited weights"
FROM = {"harmful": "Harmful questions from", "harmless": "Everyday questions from", "text": "Plain text from"}
FETCHED = "Sets that the field uses. One is fetched when it is first asked for."
JUDGE = "A judge of safety: a model’s repository on the hub, or its folder"
JUDGE_HELP = "A guard model, or any chat model. It reads the answers to harmful questions; without one, nobody does."
JUDGE_EXAMPLE = "Nobody"
EDITED = "Edited weights answer too"
EDITED_HELP = "The idea taken out of the weights themselves. They are written for this and thrown away."
NOTHING_TO_JUDGE = (
    "A judge reads answers to harmful questions, and none are asked. Ask them too (Which questions), or leave the "
    "judge out."
)
AT_HOME = (
    "Other questions, a judge and edited weights are there where the playground runs on your own machine, and on the "
    "command line: python -m steering evaluate."
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
