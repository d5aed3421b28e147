"""Markers of assistant prose: every listed word, what is counted, and what only looks like it."""

from __future__ import annotations

import time
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering import style_markers
from steering.contrast import ContrastSet
from steering.style_markers import GROUPS, MarkerCounts, count_markers

ASSISTANT = """Certainly! Keeping herbs alive is not just possible—it's rewarding. Here are some key strategies:

1. **Light:** Basil may need six hours a day.
2. **Water:** It's important to note that roots rot easily.

Ultimately, a vibrant windowsill is a testament to patience. I hope this helps! Let me know if you'd like more."""
PERSON = """Put the pot on the sill that gets the morning sun and stick a finger in the soil. Dry? Water it. Wet? Leave
it be, and don't fuss. Mine died twice in May before I gave up on the fancy fertiliser - 2-3 drops were 2-3 too many."""


def test_what_is_counted_in_a_text_of_either_kind() -> None:
    assert count_markers(ASSISTANT) == MarkerCounts(
        hedges=3,  # possible, may, important to note
        openers=1,
        negative_parallelisms=1,
        lists=4,  # two lines, two bold headers
        dashes=1,
        stock_words=3,  # ultimately, vibrant, testament
        closing_offers=2,
        words=54,
    )
    assert count_markers(ASSISTANT).total == 15
    assert count_markers(ASSISTANT).per_100_words == pytest.approx(100 * 15 / 54)
    person = count_markers(PERSON)
    assert (person.total, person.words) == (0, 47)


COUNTED = [
    ("hedges", "It might rain, or perhaps it generally won't, and that may be typical.", 5),
    ("hedges", "It is Important To\nRemember this; also worth noting: prices may vary.", 3),
    ("openers", "Great question! Herbs differ.", 1),
    ("openers", "That’s a really great question, and I like it.", 1),
    ("openers", "**Of course!** First this.\nCertainly: then that.", 2),
    ("openers", "You’re absolutely right. Here's a plan.", 1),
    ("openers", "Here is a draft of the letter:", 1),
    ("negative_parallelisms", "It is not only cheap\nbut also good.", 1),
    ("negative_parallelisms", "NOT ONLY cheap BUT good, and it isn’t just good, it’s great.", 2),
    ("negative_parallelisms", "It's not about speed. It's about care.", 1),
    ("negative_parallelisms", "A shed isn't merely a shed – it is a refuge.", 1),
    ("lists", "- one\n* two\n• three\n\t4) four\n12. five", 5),
    ("lists", "A **bold** word and __another__ one.", 2),
    ("dashes", "It rained—again—and then ― well -- it stopped--late.", 5),
    ("dashes", "So ——— that was it.", 1),
    ("stock_words", "We Delve into an INTRICATE tapestry in the\nheart of the realm.", 5),
    ("closing_offers", "I hope this helps. Let me know\nif you have questions. Is there anything else?", 3),
    ("closing_offers", "Would you like me to write a more detailed breakdown?", 2),
]


@pytest.mark.parametrize(("group", "text", "count"), COUNTED)
def test_counted(group: str, text: str, count: int) -> None:
    assert getattr(count_markers(text), group) == count


NEAR_MISSES = [
    ("hedges", "In May we met; May I sit? How mighty it was."),
    ("hedges", "The important thing to note down is the time."),
    ("openers", "Certainly not. She asks great questions, of course, and that was a great question to ask."),
    ("openers", "Where is a post office? There's one here and here is another."),
    ("negative_parallelisms", "I am not only a baker. But I bake."),
    ("negative_parallelisms", "Not just now.\n\nBut tomorrow I will."),
    ("negative_parallelisms", "I could not only see the butter on the table."),
    ("negative_parallelisms", "It was not about money. It was late, about nine."),
    ("lists", "2-3 eggs, -5 degrees, 3.5 litres\n-5 again\n2024. A good year.\n3.5 litres\n1.Without a space"),
    ("lists", "2 * 3 * 4 and 2**3 ** 2\n---\n*leaning*\nsnake__case__name"),
    ("dashes", "A well-known two-day trip, 2-3 hours, pages 4–7 – a long one ‑ on foot.\n---\nrun it with --verbose"),
    ("stock_words", "Her realmless testamentary boast, a vibrantly unaligned landscape and the heart of it."),
    ("closing_offers", "Let me know the time. I hope this works. Would you like some tea?"),
]


@pytest.mark.parametrize(("group", "text"), NEAR_MISSES)
def test_not_counted(group: str, text: str) -> None:
    assert getattr(count_markers(text), group) == 0


def listed() -> list[tuple[str, str]]:
    """Every word and phrase of the named lists, with its group."""
    lists: dict[str, list[tuple[str, ...]]] = {
        "hedges": [style_markers.HYLAND_HEDGES],
        "stock_words": [
            style_markers.EXCESS_STYLE_WORDS,
            style_markers.PEER_REVIEW_ADJECTIVES,
            style_markers.OVERREPRESENTED_WORDS,
            style_markers.WIKIPEDIA_WORDS,
        ],
    }
    return [(group, word) for group, parts in lists.items() for part in parts for word in part]


def test_every_listed_word_counts_once_wherever_it_stands_and_never_inside_another() -> None:
    assert len(listed()) > 150
    for group, word in listed():
        for text in (word, word.upper(), f"“{word.capitalize()},” she said.", word.replace(" ", "\u00a0\n")):
            assert getattr(count_markers(text), group) == 1, text
        if " " not in word:  # a phrase may have a listed word in it
            assert getattr(count_markers(f"x{word} {word}x"), group) == 0, word


def test_a_list_has_no_word_twice() -> None:
    for name in ("HYLAND_HEDGES", "EXCESS_STYLE_WORDS", "PEER_REVIEW_ADJECTIVES", "OVERREPRESENTED_WORDS"):
        words = getattr(style_markers, name)
        assert len(set(words)) == len(words), name


def test_groups_are_the_fields_and_name_their_sources() -> None:
    assert [group.name for group in GROUPS] + ["words"] == [field.name for field in fields(MarkerCounts)]
    for group in GROUPS:
        assert any(year in group.source for year in ("2005", "2024", "2025", "2026")) or "Wikipedia" in group.source


@pytest.mark.parametrize("text", ["", "  \n\n", "… !? 🌊", "\u200b"])
def test_a_text_without_words(text: str) -> None:
    counts = count_markers(text)
    assert counts.words == 0
    assert counts.per_100_words == 0


def test_words_are_counted_whole() -> None:
    assert count_markers("Don’t take the two-day trip, **please**: 3 cafés, 1 élève.").words == 10


PARAGRAPHS = [ASSISTANT, PERSON, "", *(text for _, text, _ in COUNTED), *(text for _, text in NEAR_MISSES)]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARAGRAPHS), max_size=5))
def test_paragraphs_add_up(paragraphs: list[str]) -> None:
    whole, parts = count_markers("\n\n".join(paragraphs)), [count_markers(one) for one in paragraphs]
    for field in fields(MarkerCounts):
        assert getattr(whole, field.name) == sum(getattr(part, field.name) for part in parts), field.name


@settings(deadline=None)
@given(st.text(alphabet="aA -—*_1.)(!,\n’'notjusbt", max_size=60))
def test_any_text_is_counted_the_same_every_time(text: str) -> None:
    counts = count_markers(text)
    assert counts == count_markers(text)
    assert counts.total == sum(getattr(counts, group.name) for group in GROUPS)
    assert min(getattr(counts, field.name) for field in fields(MarkerCounts)) >= 0


def test_the_preset_is_told_apart_by_them() -> None:
    data = ContrastSet.load("sounds-like-ai")
    positive, negative = ([count_markers(one.text) for one in side] for side in (data.positive, data.negative))
    assert sum(one.total > 0 for one in positive) / len(positive) > 0.8
    assert sum(one.total > 0 for one in negative) / len(negative) < 0.2
    for group in GROUPS:
        assert sum(getattr(one, group.name) for one in positive) > sum(getattr(one, group.name) for one in negative)


@pytest.mark.parametrize("part", ["not only ", "**a ", "!", "\n", "- ", "here ", "important to ", "a--"])
def test_a_search_through_a_long_strange_text_does_not_start_over_and_over(part: str) -> None:
    def seconds(length: int) -> float:
        text = part * (length // len(part))
        taken = []
        for _ in range(3):
            start = time.process_time()
            count_markers(text)
            taken.append(time.process_time() - start)
        return min(taken)

    # Eight times the text is eight times the work, or 64 times where the searches begin anew at every place. They are
    # done in C, so they cannot be counted: the two are held against each other, on one machine, one after the other.
    assert seconds(80_000) < 24 * seconds(10_000)
