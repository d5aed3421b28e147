"""Contrast sets: labelled examples that show an idea or do not, from a preset or from files, checked and split."""

import hashlib
import json
import math
import os
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steering.contrast_examples import (
    Example,
    first_few,
    require_all_or_no_responses,
    require_both_sides,
    require_one_a_pair,
    without_repeats,
)
from steering.contrast_files import read_sides
from steering.contrast_rows import Limits, Row
from steering.errors import ContrastSetError
from steering.near_duplicates import near_duplicates

__all__ = ["ContrastSet", "Example", "Limits", "preset_card", "preset_names"]

PRESETS = Path(__file__).resolve().parent.parent / "presets"
LARGEST_DIFFERENCE_IN_LENGTH = 0.15  # of the shorter side's mean tokens; beyond it a direction partly means "long"
FEWEST_EXAMPLES_A_SIDE = 16


@dataclass(frozen=True)
class ContrastSet:
    """Examples that show an idea (``positive``) and examples that do not (``negative``).

    ``notes`` says in sentences what was left out; ``card`` is the preset's description, empty for other sets.
    Make one with ``load`` or ``from_examples``, which check it.
    """

    name: str
    positive: list[Example]
    negative: list[Example]
    notes: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls, name_or_path: str | Path, negative_path: str | Path | None = None, *, limits: Limits | None = None
    ) -> "ContrastSet":
        """A preset by its name, a file with both sides, or two files: the positive side's and the negative side's.

        ``limits`` bounds each file (None: no bounds). Raises ContrastSetError, naming file and row.
        """
        path = Path(name_or_path)
        if negative_path is None and isinstance(name_or_path, str) and not _looks_like_a_path(name_or_path):
            card = preset_card(name_or_path)
            path = PRESETS / f"{name_or_path}.jsonl"
        else:
            card = {}
        positive, negative = read_sides(path, None if negative_path is None else Path(negative_path), limits)
        return cls.from_examples(
            path.stem, [_example(row) for row in positive], [_example(row) for row in negative], card
        )

    @classmethod
    def from_examples(
        cls, name: str, positive: Sequence[Example], negative: Sequence[Example], card: dict[str, Any] | None = None
    ) -> "ContrastSet":
        """A checked set; repeats within a side are left out and counted in ``notes``.

        Raises ContrastSetError for a side without examples, a text on both sides, a pair with two examples on one
        side, and when only some examples have a response.
        """
        require_both_sides(name, positive, negative)
        require_all_or_no_responses([*positive, *negative])
        notes: list[str] = []
        positive = without_repeats(positive, "positive", notes)
        negative = without_repeats(negative, "negative", notes)
        first_place = {example: example for example in positive}
        for example in negative:
            if example in first_place:
                raise ContrastSetError(
                    f"The same text is on both sides, positive in {first_place[example].full_place} and negative in "
                    f"{example.full_place}: keep it on one side."
                )
        require_one_a_pair("positive", positive)
        require_one_a_pair("negative", negative)
        return cls(name, positive, negative, notes, card or {})

    @property
    def has_responses(self) -> bool:
        """Whether the examples carry the assistant's reply; then directions are made at RESPONSE."""
        return all(example.response is not None for example in [*self.positive, *self.negative])

    @property
    def sha256(self) -> str:
        """Hash of the texts and their sides: the same for every file format, order of keys and order of rows."""
        sides = [sorted(example.canonical for example in side) for side in (self.positive, self.negative)]
        return hashlib.sha256(json.dumps(sides, ensure_ascii=False).encode()).hexdigest()

    def split(self, n_train: int = 128, n_validation: int = 32, seed: int = 0) -> tuple["ContrastSet", "ContrastSet"]:
        """Disjoint sets to learn from and to check with: ``n_train`` and ``n_validation`` examples of each side.

        A side with fewer gives all it has in the same ratio, at least one to either set, and both sets' ``notes`` say
        how many. Pairs stay together and go first. An example's place follows from its text and the seed alone, so
        the order of rows in the file does not matter. Raises ContrastSetError when a side has too few to split.
        """
        if n_train < 1 or n_validation < 0:
            raise ContrastSetError(f"A split needs at least 1 + 0 examples a side, not {n_train} + {n_validation}.")
        for side, examples in (("positive", self.positive), ("negative", self.negative)):
            if len(examples) < (fewest := 2 if n_validation else 1):
                raise ContrastSetError(
                    f"{self.name} has too few {side} examples to split, {len(examples)} of {fewest}: add some."
                )
        rooms = [_shares(len(examples), n_train, n_validation) for examples in (self.positive, self.negative)]
        train: tuple[list[Example], list[Example]] = ([], [])
        validation: tuple[list[Example], list[Example]] = ([], [])
        for unit in self._units(seed):
            for part, share in ((validation, 1), (train, 0)):
                if all(len(part[place]) < rooms[place][share] for place, _ in unit):
                    for place, example in unit:
                        part[place].append(example)
                    break
        notes = list(self.notes)
        counts = [(len(train[place]), len(validation[place])) for place in (0, 1)]
        if counts != [(n_train, n_validation)] * 2:
            notes.append(
                f"The set is small: it gave {counts[0][0]} + {counts[0][1]} positive and {counts[1][0]} + "
                f"{counts[1][1]} negative examples (to learn + to check) instead of {n_train} + {n_validation} a side."
            )
        return (
            ContrastSet(self.name, *train, notes, self.card),
            ContrastSet(self.name, *validation, list(notes), self.card),
        )

    def check(self, count_tokens: Callable[[str], int]) -> list[str]:
        """Warnings, in sentences, of what would spoil a direction; ``count_tokens`` gives a text's number of tokens.

        They concern what carries the idea (responses, else instructions): mean tokens of the sides that are more than
        15 % apart, fewer than 16 examples a side, and texts of one side that nearly repeat another.
        """
        warnings = []
        fewest = min(len(self.positive), len(self.negative))
        if fewest < FEWEST_EXAMPLES_A_SIDE:
            warnings.append(
                f"There are {len(self.positive)} positive and {len(self.negative)} negative examples: a direction from "
                f"fewer than {FEWEST_EXAMPLES_A_SIDE} a side is mostly chance, so add more if you can."
            )
        positive, negative = (
            sum(count_tokens(example.text) for example in side) / len(side) for side in (self.positive, self.negative)
        )
        longer, shorter = max(positive, negative), min(positive, negative)
        if longer - shorter > LARGEST_DIFFERENCE_IN_LENGTH * shorter:
            more = f"{longer / shorter - 1:.0%}" if shorter else "without bound"
            warnings.append(
                f"The sides differ in length: the positive texts have {positive:.1f} tokens on average, the negative "
                f"ones {negative:.1f} ({more} apart), so the direction will partly mean “long”."
            )
        for side, examples in (("positive", self.positive), ("negative", self.negative)):
            if pairs := near_duplicates([example.text for example in examples]):
                rows = [f"{examples[later].place} (like {examples[earlier].place})" for later, earlier in pairs]
                warnings.append(
                    f"{len(rows)} of the {side} texts nearly repeat{'s' if len(rows) == 1 else ''} another one, which "
                    f"makes the check on held-out examples look better than it is: {first_few(rows)}."
                )
        return warnings

    def _units(self, seed: int) -> list[list[tuple[int, Example]]]:
        """What a split must keep together: pairs, then single examples, each in a seeded order.

        An example comes with its side, 0 for positive and 1 for negative.
        """
        by_pair: dict[object, list[tuple[int, Example]]] = defaultdict(list)
        for side, examples in enumerate((self.positive, self.negative)):
            for place, example in enumerate(examples):
                by_pair[(side, place) if example.pair is None else example.pair].append((side, example))

        def order(unit: list[tuple[int, Example]]) -> tuple[int, str]:
            content = json.dumps([seed, [[side, example.canonical] for side, example in unit]], ensure_ascii=False)
            return -len(unit), hashlib.sha256(content.encode()).hexdigest()

        return sorted(by_pair.values(), key=order)


def preset_names() -> list[str]:
    """The names of the presets there are, by their cards' ``order``, then by name."""
    names = [card.stem for card in PRESETS.glob("*.toml") if card.with_suffix(".jsonl").exists()]
    return sorted(names, key=lambda name: (_card(name).get("order", math.inf), name))


def preset_card(name: str) -> dict[str, Any]:
    """A preset's card, without its rows; raises ContrastSetError, with the names there are, for a wrong name."""
    names = preset_names()
    if name not in names:
        raise ContrastSetError(
            f"There is no preset {name!r}: choose one of {', '.join(names) or 'none (none is here)'}."
        )
    return _card(name)


def _card(name: str) -> dict[str, Any]:
    path = PRESETS / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContrastSetError(f"The card {path.name} is no valid TOML ({error}): correct it.") from error


def _looks_like_a_path(name: str) -> bool:
    return name not in preset_names() and (bool(Path(name).suffix) or len(Path(name).parts) > 1 or os.path.exists(name))


def _example(row: Row) -> Example:
    return Example(row.messages, row.response, row.number, row.pair, row.file)


def _shares(n_examples: int, n_train: int, n_validation: int) -> tuple[int, int]:
    """How many of a side's examples to learn from and to check with: as asked, or all in the ratio asked for."""
    if n_examples >= n_train + n_validation:
        return n_train, n_validation
    if n_validation == 0:
        return n_examples, 0
    for_validation = round(n_examples * n_validation / (n_train + n_validation))
    for_validation = min(max(for_validation, 1), n_examples - 1)
    return n_examples - for_validation, for_validation
