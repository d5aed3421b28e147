"""Reading the files people bring (JSONL, JSON, CSV, TXT) into rows; each mistake is a sentence with file and row."""

import csv
import json
import re
import stat
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from steering.contrast_rows import COLUMNS, Limits, RecordReader, Row, Side
from steering.errors import ContrastSetError

FORMATS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "txt"}
FORMATS_IN_WORDS = "TXT, CSV, JSON or JSONL"
DASHES = re.compile(r"\s*[-–—]{3,}\s*")
FIRST_BYTES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive (as Excel and Word files are)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"{\\rtf": "a rich text document",
    b"\x1f\x8b": "a GZIP archive",
    b"PAR1": "a Parquet table",
    b"GGUF": "a GGUF model",
    b"\xff\xfe": "in the encoding UTF-16",
    b"\xfe\xff": "in the encoding UTF-16",
}


def read_sides(
    path: Path, negative_path: Path | None = None, limits: Limits | None = None
) -> tuple[list[Row], list[Row]]:
    """The rows of the positive and the negative side: of one file with labels, or of two files, one a side.

    Raises ContrastSetError for a file that cannot be read, is beyond ``limits`` (None: no limits), or whose rows are
    not on the side they should be.
    """
    if negative_path is not None:
        return _of_one_side(read_rows(path, limits), "positive"), _of_one_side(
            read_rows(negative_path, limits), "negative"
        )
    sides: dict[Side, list[Row]] = {"positive": [], "negative": []}
    for row in read_rows(path, limits):
        if row.side is None and FORMATS[path.suffix.lower()] == "txt":
            raise ContrastSetError(
                f"{row.file} has one side only: put a line of dashes (---) between the texts that show the idea and "
                f"the others, or give each side in a file of its own."
            )
        if row.side is None:
            raise ContrastSetError(
                f"Row {row.number} of {row.file} has no label: write positive or negative, or give each side in a file "
                f"of its own."
            )
        sides[row.side].append(row)
    return sides["positive"], sides["negative"]


def _of_one_side(rows: list[Row], side: Side) -> list[Row]:
    for row in rows:
        if row.side not in (None, side):
            raise ContrastSetError(
                f"Row {row.number} of {row.file} is {row.side}, but the file was given as the {side} side: give one "
                f"file with both sides, or two with one side each."
            )
    return rows


def read_rows(path: Path, limits: Limits | None = None) -> list[Row]:
    """The rows of one file, in the file's order; blank lines are left out but counted in the rows' numbers.

    Raises ContrastSetError for a file that cannot be read, or is beyond ``limits`` (None: no limits).
    """
    text = read_text(path, limits)
    if FORMATS[path.suffix.lower()] == "txt":
        rows = _rows_of_lines(text, path.name, limits)
    else:
        records = _json_records if FORMATS[path.suffix.lower()] == "json" else _csv_records
        rows = []
        for count, (number, record) in enumerate(records(text, path.name), start=1):
            _check_count(count, path.name, limits)
            rows += RecordReader(path.name, number, record, limits).rows()
    if not rows:
        raise ContrastSetError(f"{path.name} holds no texts: write at least one a line or row.")
    return rows


def read_text(path: Path, limits: Limits | None = None) -> str:
    """The file's text, with line ends as ``\\n`` and no byte order mark; its size is looked at before it is opened."""
    name = path.name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ContrastSetError(f"{name} is a folder: choose a {FORMATS_IN_WORDS} file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise ContrastSetError(f"{name} is a device or a pipe: save its texts in a file first.")
        if status.st_size == 0:
            raise ContrastSetError(f"{name} is empty (0 bytes): save it again with its texts, or choose another file.")
        _check_size(status.st_size, name, limits)
        with path.open("rb") as file:
            _check_kind(file.read(8), path)
            file.seek(0)
            # One byte more than allowed, in case the file has grown since its size was looked at.
            data = file.read() if limits is None else file.read(limits.bytes + 1)
        _check_size(len(data), name, limits)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ContrastSetError(f"There is no file {name} in that place: check the name and the folder.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ContrastSetError(f"{name} cannot be read ({reason}): choose another file.") from error
    return _decode(data, name)


def _check_size(size: int, name: str, limits: Limits | None) -> None:
    if limits is not None and size > limits.bytes:
        raise ContrastSetError(
            f"{name} has {size:,} bytes, more than the {limits.bytes:,} allowed: leave out some rows."
        )


def _check_kind(first_bytes: bytes, path: Path) -> None:
    for beginning, kind in FIRST_BYTES.items():
        if first_bytes.startswith(beginning):
            raise ContrastSetError(f"{path.name} is {kind}: save its texts as UTF-8 in a {FORMATS_IN_WORDS} file.")
    if path.suffix.lower() not in FORMATS:
        raise ContrastSetError(
            f"The name {path.name} does not end like one of a {FORMATS_IN_WORDS} file: choose such a file."
        )


def _decode(data: bytes, name: str) -> str:
    if (place := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise ContrastSetError(f"{name} is no plain text (a NUL byte in line {line}): save it again as UTF-8 text.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise ContrastSetError(
            f"{name} is not in the encoding UTF-8 (byte {byte:#04x} in line {line}): save it again as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_count(count: int, name: str, limits: Limits | None) -> None:
    if limits is not None and count > limits.rows:
        raise ContrastSetError(f"{name} has more than the {limits.rows:,} rows allowed: leave out some of them.")


def _rows_of_lines(text: str, name: str, limits: Limits | None) -> list[Row]:
    """One text a line; a line of dashes ends the positive side and begins the negative one."""
    lines = text.split("\n")
    dashes = [number for number, line in enumerate(lines, start=1) if DASHES.fullmatch(line)]
    if len(dashes) > 1:
        raise ContrastSetError(
            f"Rows {dashes[0]} and {dashes[1]} of {name} are both lines of dashes: keep the one between the two sides."
        )
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and number not in dashes:
            side: Side | None = None
            if dashes:
                side = "positive" if number < dashes[0] else "negative"
            _check_count(len(rows) + 1, name, limits)
            rows += RecordReader(name, number, {"text": line, "label": side}, limits).rows()
    return rows


def _json_records(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Of a JSON list its items, else of each line its value: the content decides, whatever the name's ending."""
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except (ValueError, RecursionError) as error:
            place = f"line {error.lineno}, " if isinstance(error, json.JSONDecodeError) else ""
            raise ContrastSetError(f"{name} is no valid JSON ({place}{_reason(error)}): correct it there.") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ContrastSetError(
                    f"Row {number} of {name} is no valid JSON ({_reason(error)}): "
                    f"write one object in braces a line, or one list of them in square brackets."
                ) from error


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"column {error.colno}, {error.msg[0].lower()}{error.msg[1:]}"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number with too many digits"


def _csv_records(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    header: list[str] | None = None
    number = 0
    try:
        table = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True, strict=True)
        for number, cells in enumerate(table, start=1):
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                if not set(header) & {"text", "instruction"} and not {"positive", "negative"} <= set(header):
                    raise ContrastSetError(
                        f"Row {number} of {name} does not name the columns: begin the file with text,label "
                        f"or positive,negative (or text alone, for one side a file)."
                    )
                if twice := [column for column in _known_columns(header) if header.count(column) > 1]:
                    raise ContrastSetError(f"{name} has two columns named {twice[0]}: rename one of them.")
                continue
            if any(cell.strip() for cell in cells[len(header) :]):
                raise ContrastSetError(
                    f"Row {number} of {name} has {len(cells)} cells under {len(header)} columns: "
                    f"put double quotes around a text that holds the separator."
                )
            yield number, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise ContrastSetError(
            f"Row {number + 1} of {name} is no valid CSV ({error}): check its double quotes."
        ) from error


def _delimiter(text: str) -> str:
    """The mark between the header's cells: the header is ours, so it tells better than a guess from the texts would."""
    header = text.lstrip("\n").partition("\n")[0]
    return max(",;\t", key=lambda mark: len(_known_columns(next(csv.reader([header], delimiter=mark), []))))


def _known_columns(header: list[str]) -> list[str]:
    return [column for cell in header if (column := cell.strip().lower()) in COLUMNS]
