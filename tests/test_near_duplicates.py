"""Near-duplicates, compared with the slow way of looking at every pair, in what they find and in how work grows."""

import random
import re

import pytest
from counted import lines_run
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.near_duplicates import LEAST_OVERLAP, near_duplicates

UNHURRIED = settings(deadline=None)  # a busy machine is no failure

WORDS = [f"word{number}" for number in range(5_000)]
KINDS = ["many words", "few words", "one template"]


def every_pair(texts: list[str]) -> list[int]:
    """The texts that share enough words with an earlier one."""
    sets = [set(re.findall(r"\w+", text.casefold())) or {text.casefold()} for text in texts]
    return [
        place
        for place, words in enumerate(sets)
        if any(len(words & earlier) / len(words | earlier) >= LEAST_OVERLAP for earlier in sets[:place])
    ]


@UNHURRIED
@given(
    st.lists(st.lists(st.sampled_from(["A", "b", "c", "d", "e", "?!", "🌊"]), max_size=7).map(" ".join), max_size=12)
)
def test_equals_looking_at_every_pair(texts: list[str]) -> None:
    assert [later for later, _ in near_duplicates(texts)] == every_pair(texts)


def test_names_the_earlier_text_most_like_it() -> None:
    texts = [
        "Where is the nearest bakery?",
        "one two three four five six",
        "where is the NEAREST bakery",
        "something else",
    ]
    assert near_duplicates(texts) == [(2, 0)]
    assert near_duplicates(["a b c d e f g", "a b c d e f g h", "a, b, c, d, e, f, g, h!"]) == [(1, 0), (2, 1)]
    assert near_duplicates([]) == []


def many_texts(kind: str, count: int) -> list[str]:
    """Texts as long as the page allows for 2,000 in 1 MB: 500 characters, about 80 words, each."""
    generator = random.Random(0)
    if kind == "many words":
        weights = [1 / (rank + 1) for rank in range(len(WORDS))]  # as frequent as words in a language are
        return [" ".join(generator.choices(WORDS, weights, k=80)) for _ in range(count)]
    if kind == "few words":
        return [" ".join(generator.choices(WORDS[:150], k=80)) for _ in range(count)]
    return [" ".join([*WORDS[:60], *generator.sample(WORDS[60:], k=20)]) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_size_the_page_allows(kind: str) -> None:
    texts = many_texts(kind, 2_000)
    assert not near_duplicates(texts)
    assert near_duplicates([*texts, texts[700]]) == [(2_000, 700)]


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_texts_are_twice_the_work(kind: str) -> None:
    few, many = many_texts(kind, 150), many_texts(kind, 300)
    assert lines_run(lambda: near_duplicates(many)) < 2.2 * lines_run(lambda: near_duplicates(few))
    # The slow way, which this must tell apart.
    assert lines_run(lambda: every_pair(many)) > 3.5 * lines_run(lambda: every_pair(few))
