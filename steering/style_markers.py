"""Markers of a chat assistant's prose, counted in a text: seven groups, each with the published list it is taken from.

A count says how often a text does what these lists name, and no more: people write all of it too, and a model that
drops every marker need not sound like a person. Counts are of English, do not depend on case but for “may”, and are
the same on every run.

Words come from the sources in small parts, each beside its source; ``tests/test_style_markers.py`` shows what is
counted and what is not. Known limits: words are counted in any sense (an “enduring” smell, a real tapestry); a marker
that is quoted counts; a line that begins with a hyphen and a space counts as a list, also in a dialogue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

__all__ = ["GROUPS", "MarkerCounts", "MarkerGroup", "count_markers"]


@dataclass(frozen=True)
class MarkerGroup:
    """Markers of one kind.

    Attributes:
        name: the field of :class:`MarkerCounts`.
        source: where the list is published.
        pattern: what is counted, in normalised text; matches never overlap.
    """

    name: str
    source: str
    pattern: re.Pattern[str]


# Between the words of a phrase, also the end of a line, but not of a paragraph; and where there may be none.
_GAP = r"(?:[^\S\n]+\n?[^\S\n]*|\n[^\S\n]*)"
_SPACE = rf"{_GAP}?"


def _words(*texts: str) -> str:
    """A pattern for any of ``texts`` as whole words; a space stands for a gap."""
    longest_first = sorted(set(texts), key=lambda text: (-len(text), text))
    any_of_them = "|".join(re.escape(text).replace(r"\ ", _GAP) for text in longest_first)
    return rf"(?<!\w)(?:{any_of_them})(?!\w)"


def _compiled(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


# Adverbs and phrases of Hyland's list. His verbs are left out, for they mean other things too ("claim", "appear",
# "feel"), and so are words of measure ("about", "around", "rather", "quite"). That assistants hedge more is disputed:
# Wikipedia's page has "perhaps" and "tends to" among the signs of human writing. Counts by group show it.
HYLAND_HEDGES = (
    *("apparently", "approximately", "broadly", "essentially", "frequently", "generally", "in general"),
    *("in most cases", "largely", "likely", "mainly", "maybe", "might", "mostly", "often", "on the whole", "perhaps"),
    *("plausible", "possible", "possibly", "presumably", "probable", "probably", "relatively", "roughly", "sometimes"),
    *("somewhat", "tend to", "tends to", "typical", "typically", "unlikely", "usually"),
)
# A month and a request are written "May"; the hedge hardly ever begins a sentence.
LOWER_CASE_MAY = r"(?<!\w)(?-i:may)(?!\w)"
DISCLAIMERS = rf"(?<!\w)(?:important|critical|crucial){_GAP}to{_GAP}(?:note|remember|consider)(?!\w)"
HEDGES = MarkerGroup(
    "hedges",
    "Hyland 2005, Metadiscourse (Continuum), the list of hedges, in part; “important to note” and its like: Wikipedia, "
    "“Signs of AI writing”, Didactic disclaimers",
    _compiled(_words(*HYLAND_HEDGES, "worth noting"), LOWER_CASE_MAY, DISCLAIMERS),
)

# At the beginning of a line, and set off: "Certainly!", not "Certainly not".
OPENERS = MarkerGroup(
    "openers",
    "Wikipedia, “Signs of AI writing”, Collaborative communication (of course, certainly, you're absolutely right, "
    "here is a); praise of the question: Wu et al. 2026, arXiv 2604.19139, sycophantic openers",
    _compiled(
        rf"^[^\w\n]*(?:of{_GAP}course|certainly|you're{_GAP}absolutely{_GAP}right"
        rf"|(?:(?:what|that's|this{_GAP}is){_GAP})?(?:a{_GAP})?(?:really{_GAP})?great{_GAP}question)"
        r"(?=[ \t]*(?:[!,.:—–-]|$))",
        rf"^[^\w\n]*here(?:{_GAP}is|'s){_GAP}an?(?!\w)",
    ),
)

# Within a sentence, or with a second sentence that says what it is instead; never over the end of a paragraph.
_INSIDE = r"(?:(?!\n\s*\n)[^.!?]){1,120}?"
_NOT = r"(?:(?<!\w)not|n't)"
_SETTING_OFF = rf"(?:[.,;:—–]|\s-){_SPACE}"
NEGATIVE_PARALLELISMS = MarkerGroup(
    "negative_parallelisms",
    "Wikipedia, “Signs of AI writing”, Negative parallelisms; Russell et al. 2025, arXiv 2501.15654, detection guide",
    _compiled(
        rf"{_NOT}{_GAP}(?:only|just|merely|simply)(?!\w){_INSIDE}"
        rf"(?:(?<!\w)but|{_SETTING_OFF}(?:it's|it{_GAP}is|they're|they{_GAP}are))(?!\w)",
        rf"{_NOT}{_GAP}about(?!\w){_INSIDE}{_SETTING_OFF}(?:it's|it{_GAP}is|but){_GAP}about(?!\w)",
    ),
)

# A line of a list is one, a bold span one more; so a point with a bold header counts as two.
LISTS = MarkerGroup(
    "lists",
    "Wikipedia, “Signs of AI writing”, Overuse of boldface and Inline-header vertical lists; Russell et al. 2025, "
    "arXiv 2501.15654 (bold header, colon, description)",
    _compiled(
        r"^[ \t]*(?:[-*+•‣◦]|\d{1,2}[.)])[ \t]+(?=\S)",
        r"\*\*(?=\S)[^*\n]+(?<=\S)\*\*",
        r"(?<!\w)__(?=\S)[^_\n]+(?<=\S)__(?!\w)",
    ),
)

# Em dashes, a run of them as one, and the two hyphens that stand for one on a typewriter. No hyphen and no en dash:
# spaced ones are what many people's typography has instead.
DASHES = MarkerGroup(
    "dashes",
    "Wikipedia, “Signs of AI writing”, Overuse of em dashes; Freeburg 2026, arXiv 2603.27006 (rates by model; "
    "those of Llama models are zero)",
    _compiled(r"[—―⸺⸻]+", r"(?<=\w)--(?=\w)|(?<=\w) -- (?=\w)"),
)

# Of the 407 style words that rose beyond their trend in biomedical abstracts, nearly all of them once there was ChatGPT
# (results/excess_words.csv of the paper's repository): those that an everyday text can do without.
EXCESS_STYLE_WORDS = (
    *("additionally", "adept", "align", "aligning", "aligns", "bolster", "bolstered", "bolstering", "capabilities"),
    *("commendable", "comprehensive", "crafted", "crafting", "crucial", "delve", "delved", "delves", "delving"),
    *("diverse", "elevate", "elevated", "elevates", "elevating", "embracing", "emphasize", "emphasizes"),
    *("emphasizing", "empowers", "encompass", "encompasses", "encompassing", "enduring", "enhance", "enhanced"),
    *("enhances", "enhancing", "ensuring", "exceptional", "fostering", "fosters", "foundational", "garnered"),
    *("groundbreaking", "harness", "harnesses", "harnessing", "highlighting", "highlights", "impactful"),
    *("innovative", "insights", "interplay", "intricacies", "intricate", "invaluable", "leverages", "leveraging"),
    *("meticulous", "meticulously", "multifaceted", "notable", "notably", "noteworthy", "nuanced", "nuances"),
    *("optimizing", "pivotal", "realm", "realms", "remarkable", "renowned", "seamless", "seamlessly", "showcased"),
    *("showcases", "showcasing", "streamline", "streamlined", "streamlines", "streamlining", "transformative"),
    *("ultimately", "underscore", "underscored", "underscores", "underscoring", "unlocking", "unparalleled"),
    *("utilized", "utilizes", "utilizing", "unveil", "unveiled", "unveiling", "unveils", "valuable"),
)
# Of the adjectives that peer reviews have most out of proportion once they are written with an AI (Table 2).
PEER_REVIEW_ADJECTIVES = (
    *("admirable", "commendable", "fascinating", "ingenious", "innovative", "intricate", "intriguing", "invaluable"),
    *("laudable", "meticulous", "notable", "noteworthy", "pivotal", "profound", "tangible", "versatile"),
)
# Words that GPT-4o and GPT-4o Mini write at 80 or more times people's rate (Table 1).
OVERREPRESENTED_WORDS = (
    *("amidst", "cacophony", "camaraderie", "fleeting", "ignite", "intricate", "palpable", "solace", "tapestry"),
    *("underscore", "unravel", "unspoken", "vibrant"),
)
WIKIPEDIA_WORDS = (
    *("boasts a", "diverse array", "enduring", "focal point", "fostering", "garner", "in the heart of"),
    *("key role", "key turning point", "natural beauty", "nestled", "resonate with", "resonates with", "robust"),
    *("showcase", "tapestry", "testament", "valuable insights", "vibrant", "vital role"),
)
STOCK_WORDS = MarkerGroup(
    "stock_words",
    "Kobak et al. 2025, Science Advances, arXiv 2406.07016 (excess style words); Liang et al. 2024, arXiv 2403.07183, "
    "Table 2; Reinhart et al. 2025, PNAS, arXiv 2410.16107, Table 1; Wikipedia, “Signs of AI writing”, words to watch",
    _compiled(
        _words(*EXCESS_STYLE_WORDS, *PEER_REVIEW_ADJECTIVES, *OVERREPRESENTED_WORDS, *WIKIPEDIA_WORDS),
    ),
)

# "Let me know" only before a condition: "let me know the time" is what a person asks.
CLOSING_OFFERS = MarkerGroup(
    "closing_offers",
    "Wikipedia, “Signs of AI writing”, Collaborative communication",
    _compiled(
        _words("hope this helps", "let me know if", "let me know whether", "would you like me to"),
        _words("is there anything else", "more detailed breakdown"),
    ),
)

GROUPS = (HEDGES, OPENERS, NEGATIVE_PARALLELISMS, LISTS, DASHES, STOCK_WORDS, CLOSING_OFFERS)

_ALIKE = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "‐": "-", "‑": "-", "\u200b": "", "\ufeff": ""})
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True)
class MarkerCounts:
    """How many markers of each group a text has, and how many words."""

    hedges: int
    openers: int
    negative_parallelisms: int
    lists: int
    dashes: int
    stock_words: int
    closing_offers: int
    words: int

    @property
    def total(self) -> int:
        """Markers of all groups."""
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "words")

    @property
    def per_100_words(self) -> float:
        """Markers of all groups in 100 words; 0 for a text without words."""
        return 100 * self.total / self.words if self.words else 0.0


def count_markers(text: str) -> MarkerCounts:
    """Count the markers of every group in ``text``, and its words (“don't” and “two-day” are one each)."""
    normal = text.translate(_ALIKE)
    found = {group.name: sum(1 for _ in group.pattern.finditer(normal)) for group in GROUPS}
    return MarkerCounts(**found, words=sum(1 for _ in _WORD.finditer(normal)))
