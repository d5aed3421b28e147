"""What files may look like, and the sentence for each that cannot be used."""

import csv
import json
import os
import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.contrast_files import read_rows, read_sides
from steering.contrast_rows import Limits, Row
from steering.errors import ContrastSetError

UNHURRIED = settings(deadline=None)  # a busy machine is no failure

# What a reader keeps as it is: text in UTF-8 without NUL, byte order marks, and the line ends and space it evens out.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0\r\ufeff")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=60).map(str.strip).filter(bool)
LINES = TEXTS.filter(lambda text: "\n" not in text and not re.fullmatch(r"\s*[-–—]{3,}\s*", text))
SIDES = st.sampled_from(["positive", "negative"])


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sentence(path: Path, negative_path: Path | None = None, limits: Limits | None = None) -> str:
    """The error's sentence; every one ends like one, names the file, and not its folder."""
    with pytest.raises(ContrastSetError) as caught:
        read_sides(path, negative_path, limits)
    words = str(caught.value)
    assert words.endswith(".")
    assert words[0].isupper() or words.startswith(path.name)
    assert path.name in words or (negative_path is not None and negative_path.name in words)
    assert str(path.parent) not in words
    return words


def texts(path: Path, negative_path: Path | None = None) -> tuple[list[str], list[str]]:
    positive, negative = read_sides(path, negative_path)
    return [row.messages[-1]["content"] for row in positive], [row.messages[-1]["content"] for row in negative]


def rows_or_sentence(path: Path) -> list[Row] | str:
    try:
        return read_rows(path)
    except ContrastSetError as error:
        return str(error)


# Round trips.


@UNHURRIED
@given(
    st.lists(st.tuples(TEXTS, SIDES, st.none() | TEXTS, st.none() | TEXTS, st.none() | LINES), min_size=1, max_size=8)
)
def test_json_and_jsonl_come_back_as_written(rows: list[tuple[str, str, str | None, str | None, str | None]]) -> None:
    keys = ("instruction", "label", "response", "system", "pair")
    records = [{key: value for key, value in zip(keys, row, strict=True) if value is not None} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        as_lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        as_list = json.dumps(records, indent=2)
        for path in (write(Path(folder), "a.jsonl", as_lines), write(Path(folder), "b.json", as_list)):
            read = read_rows(path)
            assert [row.number for row in read] == list(range(1, len(rows) + 1))
            for row, (instruction, label, response, system, pair) in zip(read, rows, strict=True):
                assert row.messages[-1] == {"role": "user", "content": instruction}
                assert row.messages[:-1] == (({"role": "system", "content": system},) if system else ())
                assert (row.side, row.response, row.pair) == (label, response, pair)


@UNHURRIED
@given(
    st.lists(st.tuples(TEXTS, SIDES, TEXTS), min_size=1, max_size=8),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_csv_comes_back_as_written(
    rows: list[tuple[str, str, str]], delimiter: str, line_end: str, with_mark: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8-sig" if with_mark else "utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
            writer.writerows([("text", "label", "response"), *rows])
        read = read_rows(path)
    assert [(row.messages[-1]["content"], row.side, row.response) for row in read] == rows
    assert [row.number for row in read] == list(range(2, len(rows) + 2))


@UNHURRIED
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_paired_csv_comes_back_as_written(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("positive", "negative"), *pairs])
        positive, negative = read_sides(path)
    assert [
        (a.messages[0]["content"], b.messages[0]["content"]) for a, b in zip(positive, negative, strict=True)
    ] == pairs
    assert [row.pair for row in positive] == [row.pair for row in negative]
    assert len({row.pair for row in positive}) == len(pairs)


@UNHURRIED
@given(
    st.lists(LINES, min_size=1, max_size=8),
    st.lists(LINES, min_size=1, max_size=8),
    st.sampled_from(["---", "  -----  ", "———"]),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_txt_comes_back_as_written(
    positive: list[str], negative: list[str], dashes: str, line_end: str, mark: bytes
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = write(folder, "both.txt", mark + line_end.join([*positive, dashes, *negative, ""]).encode())
        first = write(folder, "first.txt", mark + line_end.join(positive).encode())
        second = write(folder, "second.txt", mark + line_end.join(negative).encode())
        assert texts(one) == (positive, negative)
        assert texts(first, second) == (positive, negative)


@UNHURRIED
@given(st.binary(max_size=400), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"]))
def test_any_bytes_are_read_or_refused_with_a_sentence(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, data)
        read = rows_or_sentence(path)
    assert read
    assert not isinstance(read, str) or name in read


@UNHURRIED
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["positive", "user", "hello"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "instruction", "label", "response", "role", "content", "positive", "pair"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused_with_a_sentence(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.json", json.dumps([value]))
        read = rows_or_sentence(path)
    assert read
    assert not isinstance(read, str) or read.startswith("Row 1 of a.json ")


# What each format allows.


@pytest.mark.parametrize(
    ("label", "side"),
    [
        *[(label, "positive") for label in (1, 1.0, True, "1", "Positive ", "TRUE", "harmful", "pos", "+", "yes")],
        *[(label, "negative") for label in (0, -1, 0.0, False, "0", "NEGATIVE", "false", "harmless", "neg", "-", "no")],
    ],
)
def test_labels_in_every_sensible_spelling(tmp_path: Path, label: object, side: str) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps({"instruction": "Hello", "label": label}))
    assert [row.side for row in read_rows(path)] == [side]


def test_messages_with_and_without_a_reply(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    reply = {"role": "assistant", "content": "Goodbye."}
    path = write(
        tmp_path,
        "a.json",
        json.dumps(
            [
                {"messages": messages, "label": "positive"},
                {"messages": [*messages, reply], "label": "negative"},
                {"messages": messages[1:], "response": "So long.", "system": "Sing.", "label": 1, "pair": 7},
            ]
        ),
    )
    first, second, third = read_rows(path)
    assert (list(first.messages), first.response) == (messages, None)
    assert (list(second.messages), second.response) == (messages, "Goodbye.")
    assert third.messages[0] == {"role": "system", "content": "Sing."}
    assert (third.response, third.pair) == ("So long.", "7")


def test_an_instruction_with_a_pair_of_replies(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'instruction,positive,negative\nWho are you?,"Arr, a pirate",A clerk\n')
    positive, negative = read_sides(path)
    assert positive[0].messages == negative[0].messages == ({"role": "user", "content": "Who are you?"},)
    assert (positive[0].response, negative[0].response) == ("Arr, a pirate", "A clerk")
    assert positive[0].pair == negative[0].pair


def test_a_space_after_the_separator_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'Label, Text\n1, "red, green"\n0, say "blue"\n')
    assert texts(path) == (["red, green"], ['say "blue"'])


def test_rows_count_as_a_person_counts_them(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", 'text,label\n"two\nlines",1\n\n,\nlast,0\n')
    assert [row.number for row in read_rows(table)] == [2, 5]
    lines = write(tmp_path, "a.jsonl", '\n{"text": "x", "label": 1}\n\n{"text": "y", "label": 0}\n')
    assert [row.number for row in read_rows(lines)] == [2, 4]
    plain = write(tmp_path, "a.txt", "x\n\n---\n\ny\n")
    assert [row.number for row in read_rows(plain)] == [1, 5]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("jsonl", '{"instruction": "a"}\n{"instruction": "b"}', '{"instruction": "c"}'),
        ("json", '["a", "b"]', '[{"instruction": "c"}]'),
        ("csv", "text\na\nb", "Text\nc"),
        ("tsv", "text\tnote\na\t1\nb\t2", "text\nc"),
        ("txt", "a\nb", "c"),
        ("jsonl", '{"instruction": "a", "label": 1}\n{"instruction": "b"}', '{"instruction": "c", "label": 0}'),
    ],
)
def test_two_files_one_a_side(tmp_path: Path, name: str, first: str, second: str) -> None:
    paths = write(tmp_path, f"shows.{name}", first), write(tmp_path, f"not.{name}", second)
    assert texts(*paths) == (["a", "b"], ["c"])


def test_a_jsonl_file_under_the_name_json_and_the_reverse(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path, "a.json", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}'))) == 2
    assert len(read_rows(write(tmp_path, "a.jsonl", '[{"text": "a", "label": 1},\n{"text": "b", "label": 0}]'))) == 2


# Files that are no such files.


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "0 bytes"),
        ("a.txt", b"\xef\xbb\xbf", "holds no texts"),
        ("a.jsonl", b"\n \n", "holds no texts"),
        ("a.csv", b"text,label\n", "holds no texts"),
        ("a.json", b"[]", "holds no texts"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0", "PNG image"),
        ("a.txt", b"%PDF-1.7\n", "PDF document"),
        ("a.csv", b"PK\x03\x04\x14\0", "ZIP archive"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1", "old Excel"),
        ("a.xlsx", b"PK\x03\x04\x14\0", "ZIP archive"),
        ("a.docx", b"plain words", "TXT, CSV, JSON or JSONL"),
        ("noending", b"plain words", "TXT, CSV, JSON or JSONL"),
        ("a.txt", "one\ntwo".encode("utf-16"), "UTF-16"),
        ("a.txt", "one\ntwo".encode("utf-16-le"), "NUL byte in line 1"),
        ("a.txt", b"one\ntwo\0\n", "NUL byte in line 2"),
        ("a.csv", b"text,label\nna\xefve,1\n", "0xef in line 2"),
        ("a.txt", b"one\ntwo", "line of dashes"),
        ("a.txt", b"one\n---\ntwo\n----\nthree", "Rows 2 and 4"),
    ],
)
def test_files_of_the_wrong_kind(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    assert words in sentence(write(tmp_path, name, content))


def test_places_without_a_file(tmp_path: Path) -> None:
    assert "no file gone.csv" in sentence(tmp_path / "gone.csv")
    assert "no file inner.csv" in sentence(write(tmp_path, "a.csv", "x") / "inner.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in sentence(tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "a device or a pipe" in sentence(tmp_path / "pipe.csv")
    assert "cannot be read" in sentence(tmp_path / "a\0b.csv")
    assert "cannot be read" in sentence(tmp_path / ("a" * 300 + ".csv"))


# Rows that are no such rows.


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"label": 1}, "has no text"),
        ({"instruction": " \n", "label": 1}, "has no text"),
        ({"instruction": "a"}, "has no label"),
        ({"instruction": "a", "label": ""}, "has no label"),
        ({"instruction": "a", "label": "perhaps"}, "label 'perhaps'"),
        ({"instruction": "a", "label": 2}, "label '2'"),
        ({"instruction": 5, "label": 1}, "not a text"),
        ({"instruction": "a", "response": ["b"], "label": 1}, "response that is not a text"),
        ({"instruction": "a\0", "label": 1}, "NUL"),
        ({"instruction": "\ud800", "label": 1}, "half of a pair"),
        ({"positive": "a"}, "no negative text"),
        ({"positive": "a", "negative": " "}, "no negative text"),
        (5, "neither an object nor a text"),
        ({"messages": [], "label": 1}, "has no messages"),
        ({"messages": "Hi", "label": 1}, "has no messages"),
        ({"messages": [{"role": "bot", "content": "Hi"}], "label": 1}, "no role in message 1"),
        ({"messages": [{"role": "user", "content": " "}], "label": 1}, "no text in message 1"),
        ({"messages": [{"role": "user"}], "label": 1}, "no text in message 1"),
        ({"messages": [{"role": "assistant", "content": "Hi"}], "label": 1}, "out of order"),
        ({"messages": [{"role": "user", "content": "Hi"}] * 2, "label": 1}, "out of order"),
        ({"messages": [{"role": "user", "content": "Hi"}], "instruction": "Hi", "label": 1}, "an instruction too"),
        (
            {
                "messages": [{"role": role, "content": "Hi"} for role in ("user", "assistant")],
                "response": "x",
                "label": 1,
            },
            "a last message by the assistant too",
        ),
        ({"messages": [{"role": role, "content": "Hi"} for role in ("system", "user")], "system": "x"}, "out of order"),
    ],
)
def test_records_that_cannot_be_used_name_their_row(tmp_path: Path, record: object, words: str) -> None:
    good = {"instruction": "fine", "label": "negative"}
    for name, content in (
        ("a.jsonl", f"{json.dumps(good)}\n{json.dumps(record)}"),
        ("a.json", json.dumps([good, record])),
    ):
        said = sentence(write(tmp_path, name, content))
        assert words in said
        assert f"Row 2 of {name} " in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": 0',
            "Row 2 of a.jsonl is no valid JSON (column 25",
        ),
        ("a.json", '[{"text": "a",\n "label": }]', "a.json is no valid JSON (line 2, column 11"),
        ("a.json", "[" * 100_000, "too deeply nested"),
        ("a.jsonl", "[" * 100_000, "too deeply nested"),
        ("a.jsonl", '{"label": ' + "1" * 5_000 + "}", "too many digits"),
        ("a.csv", "hello,1\nbye,0\n", "Row 1 of a.csv does not name the columns"),
        ("a.csv", "positive,label\nhello,1\n", "does not name the columns"),
        ("a.csv", "text,label,text\na,1,b\n", "two columns named text"),
        ("a.csv", "text,label\nred, green,1\n", "Row 2 of a.csv has 3 cells under 2 columns"),
        ("a.csv", 'text,label\na,1\n"open,0\nb,1\n', "Row 3 of a.csv is no valid CSV"),
        ("a.csv", "text,label\n,1\n", "Row 2 of a.csv has no text"),
        ("a.csv", "text,label\na\n", "Row 2 of a.csv has no label"),
        ("a.csv", "positive,negative\na,b\nc,\n", "Row 3 of a.csv has no negative text"),
        ("a.csv", "x" * 200_000, "is no valid CSV"),
    ],
)
def test_malformed_tables_and_objects(tmp_path: Path, name: str, content: str, words: str) -> None:
    assert words in sentence(write(tmp_path, name, content))


def test_a_row_of_the_other_side_in_a_file_of_one_side(tmp_path: Path) -> None:
    negative = write(tmp_path, "not.csv", "text,label\nc,0\nd,1\n")
    positive = write(tmp_path, "shows.txt", "a\nb\n---\nc\n")
    assert "Row 4 of shows.txt is negative" in sentence(positive, negative)
    positive = write(tmp_path, "shows.txt", "a\nb\n")
    assert "Row 3 of not.csv is positive" in sentence(positive, negative)


# Limits.


def test_limits_allow_what_they_say_and_no_more(tmp_path: Path) -> None:
    limits = Limits(rows=3, characters=5, bytes=60)
    read_sides(write(tmp_path, "a.txt", "12345\nb\n---\nc\n"), None, limits)
    assert "more than the 3 rows" in sentence(write(tmp_path, "a.txt", "a\nb\n---\nc\nd\n"), None, limits)
    assert "Row 1 of a.txt has a text of 6 characters" in sentence(
        write(tmp_path, "a.txt", "123456\n---\nc\n"), None, limits
    )
    assert "more than the 3 rows" in sentence(write(tmp_path, "a.json", '["a","b","c","d"]'), None, limits)
    assert "more than the 3 rows" in sentence(write(tmp_path, "a.csv", "text\na\nb\nc\nd"), None, limits)
    assert "61 bytes, more than the 60" in sentence(write(tmp_path, "a.txt", "a\n" * 30 + "a"), None, limits)
    reply = json.dumps({"text": "a", "label": 1, "response": "123456"})
    assert "a response of 6 characters" in sentence(write(tmp_path, "a.jsonl", reply), None, limits)


def test_the_library_has_no_limits_by_default(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "a" * 5_000 + "\n---\n" + "".join(f"{number}\n" for number in range(50_000)))
    assert len(read_rows(path)) == 50_001


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(1_000_000_000)  # sparse: takes no room on the disk
    assert "1,000,000,000 bytes" in sentence(path, None, Limits())


def test_a_file_that_grows_while_it_is_read_is_not_taken_in_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "a.txt", "a\n" * 100)
    small = write(tmp_path, "small.txt", "a\n").stat()
    monkeypatch.setattr(Path, "stat", lambda self: small)
    assert "allowed" in sentence(path, None, Limits(bytes=50))


def test_a_file_as_full_as_allowed_is_read_whole(tmp_path: Path) -> None:
    generator = random.Random(0)
    rows = [{"text": "".join(generator.choices('abcdefgh ,"\n', k=400)), "label": place % 2} for place in range(2_000)]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(read_rows(path, Limits())) == 2_000
