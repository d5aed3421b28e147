"""Contrast sets: what is dropped, refused and warned of, how they split, their hash, and the presets."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from counted import lines_run
from hypothesis import given, settings
from hypothesis import strategies as st

import steering.contrast
from steering.contrast import ContrastSet, Example, Limits, preset_card, preset_names
from steering.errors import ContrastSetError

UNHURRIED = settings(deadline=None)  # a busy machine is no failure


def example(text: str, response: str | None = None, pair: str | None = None, row: int | None = None) -> Example:
    return Example(({"role": "user", "content": text},), response, row, pair)


def examples(prefix: str, count: int, paired: int = 0) -> list[Example]:
    """``count`` examples, of which the first ``paired`` are in pairs p0, p1, …"""
    return [example(f"{prefix} {place}", pair=f"p{place}" if place < paired else None) for place in range(count)]


def a_set(positive: int, negative: int, paired: int = 0) -> ContrastSet:
    return ContrastSet.from_examples("texts", examples("yes", positive, paired), examples("no", negative, paired))


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def count_words(text: str) -> int:
    return len(text.split())


# Loading.


def test_a_set_from_a_file(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "tides.jsonl",
        [
            {
                "instruction": "Describe a room.",
                "label": "positive",
                "response": "Waves.",
                "pair": "a",
                "system": "Hi.",
            },
            {"instruction": "Describe a room.", "label": "negative", "response": "A table.", "pair": "a"},
        ],
    )
    tides = ContrastSet.load(str(path))
    assert (tides.name, tides.has_responses, tides.notes, tides.card) == ("tides", True, [], {})
    (positive,), (negative,) = tides.positive, tides.negative
    assert positive.messages[0] == {"role": "system", "content": "Hi."}
    assert (positive.instruction, positive.response, positive.row, positive.pair) == (
        "Describe a room.",
        "Waves.",
        1,
        "a",
    )
    assert (negative.instruction, negative.response, negative.row, negative.pair) == (
        "Describe a room.",
        "A table.",
        2,
        "a",
    )


def test_a_set_from_two_files(tmp_path: Path) -> None:
    shows, others = tmp_path / "shows.txt", tmp_path / "others.txt"
    shows.write_text("a\nb\na\n", encoding="utf-8")
    others.write_text("c\n", encoding="utf-8")
    texts = ContrastSet.load(shows, others)
    assert [one.instruction for one in texts.positive] == ["a", "b"]
    assert [one.instruction for one in texts.negative] == ["c"]
    assert not texts.has_responses
    assert texts.notes == ["1 positive example was left out for repeating another: row 3 (same as row 1)."]


def test_limits_are_for_those_who_ask(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n" * 2_001 + "---\nb\n", encoding="utf-8")
    assert len(ContrastSet.load(path).positive) == 1
    with pytest.raises(ContrastSetError, match=r"more than the 2,000 rows"):
        ContrastSet.load(path, limits=Limits())


def test_repeats_are_dropped_counted_and_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": "same", "label": 1},
        {"instruction": "other", "label": 0},
        *[{"instruction": " same\r\n", "label": 1}] * 12,
        {"instruction": "other", "label": 0},
        {"instruction": "other", "system": "Be kind.", "label": 0},
    ]
    texts = ContrastSet.load(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (len(texts.positive), len(texts.negative)) == (1, 2)
    first, second = texts.notes
    assert first.startswith("12 positive examples were left out for repeating another: row 3 (same as row 1), row 4")
    assert first.endswith("row 12 (same as row 1) and 2 more.")
    assert second == "1 negative example was left out for repeating another: row 15 (same as row 2)."


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [("a", 1, None), ("b", 0, None), ("a", 0, None)],
            "positive in row 1 of a.jsonl and negative in row 3 of a.jsonl",
        ),
        ([("a", 1, "x"), ("a", 0, "x")], "positive in row 1 of a.jsonl and negative in row 2 of a.jsonl"),
        ([("a", 1, "x"), ("b", 0, None), ("c", 1, None)], "no response in row 2 of a.jsonl (the first of 2"),
        ([("a", 1, None), ("b", 0, "x")], "no response in row 1 of a.jsonl (the first of 1"),
        ([("a", 0, "x"), ("b", 0, ""), ("c", 1, "x"), ("d", 1, None)], "no response in row 2 of a.jsonl"),
        ([("a", 1, None), ("b", 1, None)], "a.jsonl has no negative examples"),
        ([("a", 0, None)], "a.jsonl has no positive examples"),
    ],
)
def test_what_makes_no_contrast(tmp_path: Path, rows: list[tuple[str, int, str | None]], words: str) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"instruction": text, "label": label, "response": response} for text, label, response in rows],
    )
    with pytest.raises(ContrastSetError) as caught:
        ContrastSet.load(path)
    assert words in str(caught.value)


def test_a_text_on_both_sides_in_two_files_names_both(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("c\n\nb\n", encoding="utf-8")
    with pytest.raises(ContrastSetError, match=r"positive in row 2 of one\.txt and negative in row 3 of two\.txt"):
        ContrastSet.load(tmp_path / "one.txt", tmp_path / "two.txt")


def test_the_same_conversation_with_other_replies_is_a_contrast() -> None:
    texts = ContrastSet.from_examples("a", [example("a", "Arr."), example("a", "Ahoy.")], [example("a", "Hello.")])
    assert (len(texts.positive), len(texts.negative), texts.notes) == (2, 1, [])


def test_a_pair_has_one_example_a_side(tmp_path: Path) -> None:
    rows = [{"instruction": text, "label": label, "pair": 1} for text, label in (("a", 1), ("b", 0), ("c", 1))]
    with pytest.raises(ContrastSetError, match=r"pair '1' has two positive examples, row 1 of a\.jsonl and row 3 of"):
        ContrastSet.load(write_jsonl(tmp_path / "a.jsonl", rows))


def test_a_set_made_in_python_is_checked_too() -> None:
    with pytest.raises(ContrastSetError, match=r"mine has no negative examples"):
        ContrastSet.from_examples("mine", [example("a")], [])
    with pytest.raises(ContrastSetError, match=r"positive in “a” and negative in “a”"):
        ContrastSet.from_examples("mine", [example("a")], [example("a")])


# The hash.


@UNHURRIED
@given(
    st.lists(st.tuples(st.text("ab \n\"',;é", min_size=1).filter(str.strip), st.booleans()), min_size=1),
    st.randoms(use_true_random=False),
)
def test_the_hash_is_the_same_for_every_format_and_order(
    tmp_path_factory: pytest.TempPathFactory, labelled: list[tuple[str, bool]], shuffler: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    sides = {text.strip(): label for text, label in labelled} | {"yes": True, "no": False}
    rows = list(sides.items())
    write_jsonl(folder / "a.jsonl", [{"instruction": text, "label": label} for text, label in rows])
    shuffler.shuffle(rows)
    in_list = [
        {"label": str(label), "messages": [{"content": text, "role": "user"}], "response": None} for text, label in rows
    ]
    (folder / "b.json").write_text(json.dumps(in_list), encoding="utf-8")
    with (folder / "c.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("label", "text"), *[(int(label), text) for text, label in rows]])
    assert len({ContrastSet.load(folder / name).sha256 for name in ("a.jsonl", "b.json", "c.csv")}) == 1


def test_the_hash_tells_sets_apart() -> None:
    a, b = example("a"), example("b")
    different = [
        ([a], [b]),
        ([b], [a]),
        ([a, example("c")], [b]),
        ([example("a", "x")], [example("b", "x")]),
        ([example("a", "x")], [example("b", "y")]),
        ([Example(({"role": "system", "content": "s"}, *a.messages))], [b]),
    ]
    assert len({ContrastSet("name", *sides).sha256 for sides in different}) == len(different)
    assert ContrastSet("other name", [a], [b], ["note"]).sha256 == ContrastSet("name", [a], [b]).sha256


# Splitting.


def test_a_large_set_gives_what_is_asked() -> None:
    texts = a_set(200, 170)
    train, validation = texts.split(128, 32, seed=3)
    assert [len(side) for part in (train, validation) for side in (part.positive, part.negative)] == [128, 128, 32, 32]
    assert train.notes == validation.notes == texts.notes == []
    assert train.split(100, 28)[0].name == "texts"


def test_a_small_set_gives_all_it_has_in_the_same_ratio_and_says_so() -> None:
    texts = a_set(50, 200)
    train, validation = texts.split()
    assert [len(side) for part in (train, validation) for side in (part.positive, part.negative)] == [40, 128, 10, 32]
    said = "it gave 40 + 10 positive and 128 + 32 negative examples (to learn + to check) instead of 128 + 32 a side."
    assert train.notes == validation.notes == [f"The set is small: {said}"]
    assert texts.notes == []


def test_two_a_side_is_the_smallest_that_splits() -> None:
    for paired in (0, 1, 2):
        train, validation = a_set(2, 2, paired).split()
        assert [len(side) for part in (train, validation) for side in (part.positive, part.negative)] == [1, 1, 1, 1]
    with pytest.raises(ContrastSetError, match=r"texts has too few negative examples to split, 1 of 2"):
        a_set(5, 1).split()
    train, validation = a_set(5, 1).split(128, 0)
    assert (len(train.positive), len(train.negative), validation.positive) == (5, 1, [])
    for n_train, n_validation in ((0, 5), (5, -1)):
        with pytest.raises(ContrastSetError, match=r"at least 1 \+ 0"):
            a_set(5, 5).split(n_train, n_validation)


@UNHURRIED
@given(st.data())
def test_every_split_is_disjoint_keeps_pairs_and_has_both_sides(data: st.DataObject) -> None:
    positive, negative = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    paired = data.draw(st.integers(0, min(positive, negative)))
    n_train, n_validation = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    texts = a_set(positive, negative, paired)
    train, validation = texts.split(n_train, n_validation, data.draw(st.integers(0, 5)))
    for whole, learn, check in (
        (texts.positive, train.positive, validation.positive),
        (texts.negative, train.negative, validation.negative),
    ):
        assert 1 <= len(learn) <= n_train
        assert 1 <= len(check) <= n_validation
        assert len({*learn, *check}) == len(learn) + len(check)
        assert {*learn, *check} <= set(whole)
    pairs_of = [
        {one.pair for one in side if one.pair}
        for side in (train.positive, train.negative, validation.positive, validation.negative)
    ]
    assert pairs_of[0] == pairs_of[1]
    assert pairs_of[2] == pairs_of[3]
    given_all = len(train.positive) == len(train.negative) == n_train
    given_all = given_all and len(validation.positive) == len(validation.negative) == n_validation
    assert len(train.notes) == (0 if given_all else 1)
    if paired == 0:
        assert len(train.positive) + len(validation.positive) == min(positive, n_train + n_validation)


def test_a_split_follows_from_texts_and_seed_alone() -> None:
    positive, negative = examples("yes", 30, paired=20), examples("no", 30, paired=20)
    first = ContrastSet("a", positive, negative).split(10, 5, seed=1)
    again = ContrastSet("b", positive[::-1], negative[7:] + negative[:7]).split(10, 5, seed=1)
    assert [(part.positive, part.negative) for part in first] == [(part.positive, part.negative) for part in again]
    other = ContrastSet("a", positive, negative).split(10, 5, seed=2)
    assert {*other[0].positive} != {*first[0].positive}


def test_a_split_hardly_depends_on_the_place_in_the_file() -> None:
    train, _ = a_set(1_000, 1_000).split(500, 100)
    places = [int(one.instruction.split()[1]) for one in train.positive]
    assert (
        450 < sum(places) / len(places) < 550
    )  # a fair draw lies within 499.5 ± 37 in 99.9 % of seeds; this seed is fixed


def test_pairs_of_a_split_stand_side_by_side() -> None:
    train, validation = a_set(20, 20, paired=20).split(10, 5)
    for part in (train, validation):
        assert [one.pair for one in part.positive] == [one.pair for one in part.negative]


# Warnings.


def test_a_good_set_has_no_warnings() -> None:
    assert a_set(16, 16).check(count_words) == []


def test_sides_of_different_length_are_warned_of_with_both_numbers() -> None:
    def warnings(words: int) -> list[str]:
        positive = [example("Say", f"{place} " + "word " * (words - 1)) for place in range(20)]
        negative = [example("Say", f"{place} " + "term " * 99) for place in range(20)]
        return [said for said in ContrastSet("a", positive, negative).check(count_words) if "length" in said]

    assert warnings(115) == warnings(87) == []
    assert warnings(116) == [
        "The sides differ in length: the positive texts have 116.0 tokens on average, the negative ones 100.0 "
        "(16% apart), so the direction will partly mean “long”."
    ]
    assert "86.0 tokens" in warnings(86)[0]
    assert "0.0" in a_set(20, 20).check(lambda text: text.startswith("no"))[0]


def test_too_few_examples_are_warned_of() -> None:
    (said,) = a_set(15, 40).check(count_words)
    assert said.startswith("There are 15 positive and 40 negative examples")


def test_near_duplicates_are_warned_of_with_their_rows() -> None:
    positive = [example(f"What is number {place}?", row=place + 1) for place in range(20)]
    positive += [example("what is number 3", row=21), example("Say something new.", row=22)]
    (said,) = ContrastSet("a", positive, examples("no", 20)).check(lambda text: 5)
    assert said.startswith("1 of the positive texts nearly repeats another one")
    assert said.endswith(": row 21 (like row 4).")


def test_twice_the_examples_are_twice_the_work_of_a_check() -> None:
    generator = random.Random(0)
    words = [f"word{number}" for number in range(3_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]  # as frequent as words in a language are

    def lines_of_a_check(count: int) -> int:
        sides = [[example(" ".join(generator.choices(words, weights, k=80))) for _ in range(count)] for _ in range(2)]
        data, warnings = ContrastSet("a", *sides), []
        lines = lines_run(lambda: warnings.extend(data.check(count_words)))
        assert not warnings
        return lines

    assert lines_of_a_check(300) < 2.2 * lines_of_a_check(150)


# Presets.


@pytest.fixture
def preset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(steering.contrast, "PRESETS", tmp_path)
    for name, order in (("sea", "order = 2"), ("pirate", "order = 1"), ("child", ""), ("airy", "")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"instruction": text, "label": text == "a"} for text in "ab"])
        (tmp_path / f"{name}.toml").write_text(f'title = "The {name}"\n{order}\n', encoding="utf-8")
    (tmp_path / "models.toml").write_text("[[model]]\n", encoding="utf-8")
    write_jsonl(tmp_path / "cardless.jsonl", [{"instruction": "a", "label": 1}])
    return tmp_path


def test_presets_are_listed_in_their_order(preset_folder: Path) -> None:
    assert preset_names() == ["pirate", "sea", "airy", "child"]
    assert preset_card("sea") == {"title": "The sea", "order": 2}


def test_a_preset_is_loaded_by_its_name(
    preset_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sea = ContrastSet.load("sea")
    assert (sea.name, sea.card["title"], sea.positive[0].instruction) == ("sea", "The sea", "a")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "sea").mkdir()
    monkeypatch.chdir(elsewhere)
    assert ContrastSet.load("sea").name == "sea"


@pytest.mark.parametrize("name", ["ocean", "", "cardless", "models"])
def test_a_wrong_name_lists_the_names_there_are(preset_folder: Path, name: str) -> None:
    with pytest.raises(ContrastSetError, match=f"no preset '{name}': choose one of pirate, sea, airy, child"):
        ContrastSet.load(name)


@pytest.mark.parametrize("name", ["gone.csv", "folder/gone", "../sea"])
def test_what_looks_like_a_path_is_one(preset_folder: Path, name: str) -> None:
    with pytest.raises(ContrastSetError, match=rf"no file {Path(name).name} in that place"):
        ContrastSet.load(name)


def test_a_broken_card_is_named(preset_folder: Path) -> None:
    (preset_folder / "sea.toml").write_text("title = \n", encoding="utf-8")
    with pytest.raises(ContrastSetError, match=r"card sea\.toml is no valid TOML"):
        ContrastSet.load("sea")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    preset = ContrastSet.load(name)
    assert preset.notes == []
    assert len(preset.positive) == len(preset.negative) >= 24
    pairs = [{one.pair for one in side if one.pair} for side in (preset.positive, preset.negative)]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) in (0, len(preset.positive))
    assert preset.card["licence"] == "Apache-2.0"
    assert all(preset.card[key] for key in ("title", "what", "how_made", "example"))
    calls_for, does_not = preset.card["calls_for"], preset.card["does_not"]
    assert len(set(calls_for)) >= 3
    assert len(set(does_not)) >= 3
    trained_on = {one.instruction for one in (*preset.positive, *preset.negative)}
    assert not trained_on & {*calls_for, *does_not}
    train, validation = preset.split()
    assert not {*train.positive} & {*validation.positive}


def test_the_presets_have_different_data() -> None:
    hashes = {name: ContrastSet.load(name).sha256 for name in preset_names()}
    assert all(hashes[a] != hashes[b] for a, b in product(hashes, hashes) if a != b)


def test_contrast_sets_need_neither_gradio_nor_transformers() -> None:
    code = "import sys, steering.contrast; print({'gradio', 'transformers', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
