"""Texts that nearly repeat an earlier one, found by the words they share."""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy

LEAST_OVERLAP = 0.8


def near_duplicates(texts: Sequence[str], least_overlap: float = LEAST_OVERLAP) -> list[tuple[int, int]]:
    """For each text that nearly repeats an earlier one, its place and that of the earlier text most like it.

    Likeness is the Jaccard index of the sets of words, without case and punctuation: the words two texts share, as a
    part of the words in either. Texts are not compared two by two: for each word there is a list of the texts with it,
    and counting through the lists of one text's words gives how many it shares with every earlier text at once.
    """
    words = [_words(text) for text in texts]
    sizes = numpy.array([len(of_text) for of_text in words])
    texts_with: dict[str, list[int]] = defaultdict(list)
    for place, of_text in enumerate(words):
        for word in of_text:
            texts_with[word].append(place)
    index = {word: numpy.array(places) for word, places in texts_with.items()}
    n_earlier_with = dict.fromkeys(index, 0)
    found = []
    for place, of_text in enumerate(words):
        shared = numpy.bincount(numpy.concatenate([index[word][: n_earlier_with[word]] for word in of_text]))
        overlap = shared / (sizes[: len(shared)] + sizes[place] - shared)
        if len(overlap) and overlap.max() >= least_overlap:
            found.append((place, int(overlap.argmax())))
        for word in of_text:
            n_earlier_with[word] += 1
    return found


def _words(text: str) -> set[str]:
    text = text.casefold()
    # A text without any letters or digits, such as one of emoji alone, is taken as one word.
    return set(re.findall(r"\w+", text)) or {text}
