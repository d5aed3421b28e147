"""Words of the “Explain” tab. Nothing here is escaped: that is done where they become markup."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import category

from steering.contrast import preset_card
from steering.ui.errands import Sayings
from steering.ui.ideas import is_own
from steering.ui.make_words import shortened, visible_token

if TYPE_CHECKING:
    from steering.ui.explain_found import Head, Of

FIRST_PROMPT = "Why is the sky blue?"
OWN_SUFFIX = "Talk like a pirate of the old days."  # where no preset says what calls for an idea
TEMPLATE = "template"  # steering.head_attention.TEMPLATE; importing that would load torch before the page is up

# Groups of prompts, as their lines are called.
WITH_IDEA, WITHOUT_IDEA, YOUR_PROMPT = "with the idea", "without it", "your prompt"
AS_IT_IS, TAKEN_OUT = "as it is", "taken out"
WITH_IT, WITH_RANDOM = "with the suffix", "random ones"
CHAT_MODEL, BASE_MODEL = "chat model", "base model"
# Their colours and dashes (`report_pictures`): blue and orange lie on both sides of what is as it is.
LOOKS = {
    WITH_IDEA: "2",
    WITHOUT_IDEA: "1",
    YOUR_PROMPT: "0",
    AS_IT_IS: "0",
    TAKEN_OUT: "1",
    WITH_IT: "2",
    WITH_RANDOM: "1",
    CHAT_MODEL: "2",
    BASE_MODEL: "0",
}

READING_WITH = "Reading texts with the idea"
READING_WITHOUT = "Reading texts without it"
READING_PROMPT = "Reading your prompt"
STEPS, ENDS = (READING_WITH, READING_WITHOUT, READING_PROMPT), (0.45, 0.9, 1.0)
READING_SUFFIXES = "Reading the prompt with each suffix"
READING_BOTH = "Reading the texts in both models"

SAYINGS = Sayings(
    tab="Explain",
    bar="Explaining",
    busy="Something of yours is still being read. Wait for it, or cancel it.",
    unforeseen="Something went wrong inside the program; its log says what. What was found before stays: try again.",
    cancelled=("Cancelled.", "What was found before stays."),
)
NO_PROMPT = "There is no prompt to look at. Type one first."
NO_SUFFIX = "There is no suffix to look at. Type one first."
TOO_MANY = "{what} has {n:,} characters; at most {most:,} are read here. Shorten it."
TOO_LONG = "{what} has {n:,} tokens; at most {most:,} are looked at here. Shorten it."
THE_PROMPT, THE_SUFFIX, WITH_SUFFIX = "The prompt", "The suffix", "With the suffix the prompt"
OTHER_MODEL = "Another model came into use meanwhile. Press again to look into that one."
NO_TEXTS = (
    "The texts that this direction was made from are not known here, so there is nothing to tell apart. Choose one of "
    "the ideas that come with the playground, or make the direction anew."
)

SIDES, WAYS = "Texts with the idea, without it, and yours", "Your prompt, three ways"
INTRO = (
    "A direction is one arrow among all the numbers that run through a model. Here you see where it shows, which parts "
    "write it, where those look, and what a few words more change. The prompt is only read: nothing is answered."
)
WHERE, HEADS, SUFFIX, SPEAKS, BASE = (
    "Where it shows",
    "Which heads write it",
    "What a suffix changes",
    "What it speaks for",
    "In the base model",
)
WHERE_FIRST = (
    "How much of the idea is inside, layer by layer: in texts that show it, in texts that do not, and in yours."
)
MAP_NAME = "What each head and MLP wrote along the direction"
HEADS_FIRST = "A map of all heads, the small parts that carry things from word to word, and where each of them looks."
SUFFIX_WORDS = (
    "A few words behind the prompt, looked at beside 20 random ones of the same length: any text changes something. "
    "The tab looks at suffixes; it does not search for them."
)
SPEAKS_FIRST = "The tokens that the direction makes likelier by itself, and the other ideas it is like."
BASE_WORDS = (
    "The model before it was taught to chat, read with the same texts: does the direction tell them apart there "
    "already? It is loaded beside the one in use, so there must be room for both."
)
WHERE_FIELD = (
    "Cosine of the residual stream with the direction at the last token, layer by layer, before each block (over an "
    "answer: the mean); the band is one standard deviation."
)
HEADS_FIELD = (
    "Direct feature attribution: what each head and MLP before the direction’s layer added to the residual stream at "
    "the prompt’s last token, projected on the direction. With the embedding and the biases it sums to the whole."
)
LOOKS_FIELD = (
    "Attention weights from the last token of the prompt, of the model as it is. What the chat template adds counts as "
    "template; the first token often takes what a head has no other use for."
)
SPEAKS_FIELD = (
    "Logit lens: the unit vector through the final norm’s factors and the output matrix, how much it moves each "
    "token’s logit. Ideas: cosine of the vectors that are added, on this model."
)
BASE_LABEL = "The base model: a repository on the hub, or a folder"
BASE_OFF = (
    "A second model is loaded only where the playground runs on your own machine. The command line does the same: "
)
BASE_COMMAND = "python -m steering explain --model MODEL --direction FILE --data poetic --base BASE"


def heading(title: str, model: str) -> str:
    return f"“{title}” inside {model}" if model else f"“{title}” inside the model"


def suffix_for(idea: str) -> str:
    """A suffix that calls for an idea, so that there is something to see."""
    return OWN_SUFFIX if is_own(idea) else str(preset_card(idea)["prompt"])


def shown_token(text: str) -> str:
    """A token in a sentence; one that cannot be seen by its numbers."""
    if text.strip() and not any(category(letter)[0] in "LNPS" for letter in text):
        return " ".join(f"U+{ord(letter):04X}" for letter in text.strip())
    return visible_token(text.strip() or text)


def turned_up(coefficient: float) -> str:
    """What the prompt is called with the direction added."""
    if coefficient < 0:
        return f"its opposite ({-coefficient:.3g})"
    return f"turned up ({coefficient:.3g})"


def of_words(of: Of) -> str:
    """What something was found of, so that it can be told from what is chosen now."""
    return f"“{of.title}” in {of.model}, the prompt “{shortened(of.prompt)}”"


def beside_words(of: Of, base: str) -> str:
    """What a base model was held beside."""
    return f"“{of.title}” in {of.model} and in {base}, the texts that the direction was made from"


def number(value: float, digits: int = 2) -> str:
    """A number with its sign, a real minus."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def wrote(value: float) -> str:
    """How much something wrote along the direction."""
    return f"{value:+.3g}".replace("-", "−")


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def look(name: str) -> str:
    """The colour and dashes of a line; the direction added has a number in its name."""
    return LOOKS.get(name, "2")


def looks_title(head: Head) -> str:
    return f"Where {head_name(head)} looks"


def head_name(head: Head) -> str:
    return f"layer {head[0]}, head {head[1]}"
