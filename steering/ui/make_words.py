"""Words of the “Make a direction” tab: names, tokens, positions, times. Nothing here is escaped but by `escaped`."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

GONE = "Another model is in use now, and this direction was made for the one before. Find it again, or load its file."
RESPONSE = 0  # steering.activations.RESPONSE; importing that would load torch before the page is up
# AUROC from which the held-out texts count as told apart well, or partly.
SORTED_WELL, SORTED_PARTLY = 0.9, 0.7
LONGEST_QUOTED = 300  # characters of a text of a person that stands in a sentence
SEED = 0  # of the split into texts to learn from and texts to check with


def escaped(text: str) -> str:
    """A text from outside as it stands, never as markup."""
    return html.escape(text)


def shortened(text: str) -> str:
    """A text of a person's inside a sentence, on one line; not escaped."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_QUOTED else f"{line[: LONGEST_QUOTED - 1].rstrip()}…"


def default_name(stem: str) -> str:
    """A name for people from a file's name without its ending."""
    words = re.sub(r"[_\-.\s]+", " ", stem).strip()
    return (words[:1].upper() + words[1:])[:80] or "My idea"


def file_name(name: str, ending: str) -> str:
    """A name for a file from a direction's name: lower-case letters, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return f"{plain or 'direction'}{ending}"


def visible_token(token: str) -> str:
    """A token so that it can be seen: line breaks as ↵, spaces as ␣, marks of the template in ‹ ›."""
    mark = re.fullmatch(r"<\|?(.+?)\|?>", token.strip())
    if mark:
        return f"‹{mark[1]}›"
    return token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") or "∅"


def signed(position: int) -> str:
    """A position as it is written everywhere on the page: with a real minus sign."""
    return f"−{-position}" if position < 0 else str(position)


def position_words(position: int, tokens: Mapping[int, str]) -> str:
    """What a position is, for people; not escaped."""
    if position == RESPONSE:
        return "mean over the reply"
    seen = visible_token(tokens[position]) if position in tokens else ""
    if position == -1:
        return "position −1, the last token before the answer" + (f" ({seen})" if seen else "")
    return f"position {signed(position)}" + (f", the token {seen}" if seen else "")


def time_left(seconds: float) -> str:
    """About how long something still takes, in words that do not change too often."""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} seconds left"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'' if minutes == 1 else 's'} left"


def seconds(spent: float) -> str:
    """How long something has taken, as on a clock."""
    return f"{int(spent) // 60}:{int(spent) % 60:02d}"


def verdict(auroc: float) -> tuple[str, str]:
    """(class, words) for how well texts that it was not made from are told apart."""
    if auroc >= SORTED_WELL:
        return "good", "Tells them apart well"
    if auroc >= SORTED_PARTLY:
        return "partly", "Tells them apart partly"
    return "bad", "Hardly better than chance"
