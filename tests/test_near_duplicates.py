"""Near-duplicates, compared with the slow way of looking at every pair, and timed at the size the page allows."""

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.near_duplicates import LEAST_OVERLAP, near_duplicates

UNHURRIED = settings(deadline=None)  # a busy machine is no failure

WORDS = [f"word{number}" for number in range(5_000)]


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


@pytest.mark.parametrize("kind", ["many words", "few words", "one template"])
def test_is_quick_at_the_largest_size_the_page_allows(kind: str) -> None:
    generator = random.Random(0)
    # 2,000 texts in 1 MB are 500 characters, about 80 words, each.
    if kind == "many words":
        weights = [1 / (rank + 1) for rank in range(len(WORDS))]  # as frequent as words in a language are
        texts = [" ".join(generator.choices(WORDS, weights, k=80)) for _ in range(2_000)]
    elif kind == "few words":
        texts = [" ".join(generator.choices(WORDS[:150], k=80)) for _ in range(2_000)]
    else:
        texts = [" ".join([*WORDS[:60], *generator.sample(WORDS[60:], k=20)]) for _ in range(2_000)]
    start = time.process_time()
    found = near_duplicates(texts)
    assert time.process_time() - start < 1  # a side; a check looks at two and may take 2 s
    assert not found
    assert near_duplicates([*texts, texts[700]]) == [(2_000, 700)]
