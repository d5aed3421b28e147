"""One file of a named data set: found in its folder or fetched at its pinned revision, checked, and read."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from steering.contrast_files import read_text
from steering.errors import Cancelled, SteeringError
from steering.progress import Progress
from steering.whole_files import written_whole

HUB, GITHUB = "https://huggingface.co", "https://raw.githubusercontent.com"
PATIENCE = 30.0  # seconds a host may stay silent


@dataclass(frozen=True)
class NamedFile:
    """A file in a set's repository.

    Attributes:
        path: in the repository; CSV with a header, a JSON list of objects, or Parquet.
        column: the one that holds the texts.
        sha256: of the whole file at the pinned revision.
        only: a column, and what a row that is read has in it.
    """

    path: str
    column: str
    sha256: str
    only: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        name: ``owner/name``.
        on_hub: whether it is a data set of the hub; else it is one of GitHub's.
        endpoint: of the host, where it is not the usual one.
    """

    name: str
    revision: str
    on_hub: bool = False
    endpoint: str | None = None

    @property
    def page(self) -> str:
        """The address at which a person sees it as it is read."""
        where = f"{HUB}/datasets" if self.on_hub else "https://github.com"
        return f"{where}/{self.name}/tree/{self.revision}"

    def address(self, path: str) -> str:
        """Of a file in it."""
        if self.on_hub:
            mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")  # the hub's own client goes there too
            return f"{self.endpoint or mirror or HUB}/datasets/{self.name}/resolve/{self.revision}/{path}"
        return f"{self.endpoint or GITHUB}/{self.name}/{self.revision}/{path}"


def fetched(title: str, repository: Repository, file: NamedFile, folder: Path, progress: Progress) -> tuple[Path, bool]:
    """Where the file lies in ``folder``, fetched if it did not, and whether it is the pinned one to the byte.

    Another one may have been put there by hand and is taken as it is; what is fetched must be the pinned one.

    Args:
        title: of the set, for messages.

    Raises:
        SteeringError: if it is not there and cannot be fetched whole: it says what to put where.
        Cancelled: if ``progress`` raises it; nothing half-done is kept.
    """
    path = folder / file.name
    if path.is_file():
        return path, _sha256(path) == file.sha256
    what = f"Fetching {title}"
    progress(what, 0, 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            arrived = _from_web(repository.address(file.path), Path(scratch) / file.name, what, progress)
            if _sha256(arrived) != file.sha256:
                raise ValueError("what arrived is not the pinned file")
            with written_whole(path) as partial:
                arrived.replace(partial)
    except Cancelled:
        raise
    except Exception as error:  # of the connection or of the disk
        raise SteeringError(
            f"{title} cannot be fetched from {repository.address(file.path)}: {_reason(error)}. To go on without a "
            f"connection, put that file at {path}."
        ) from error
    progress(what, 1, 1)
    return path, True


def _from_web(address: str, target: Path, what: str, progress: Progress) -> Path:
    """Fetch a public file; the hub's own client would try for half a minute where there is no connection."""
    import httpx

    with httpx.stream("GET", address, follow_redirects=True, timeout=PATIENCE) as answer:
        answer.raise_for_status()
        # What is counted is what is sent, which is less than the file where it is sent compressed.
        size = int(answer.headers.get("Content-Length") or 0)
        with target.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
                progress(what, min(answer.num_bytes_downloaded, size), max(size, 1))
    return target


def _reason(error: Exception) -> str:
    """Why a file did not come, in words; the clients' own messages go over many lines and name other remedies."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"access is refused there (status {status})"
    if status == 404:
        return "it is not there (status 404)"
    if status is not None:
        return f"the host answers with status {status}"
    if isinstance(error, ValueError | OSError) and str(error) and not _is_of_client(error):
        return str(error).splitlines()[0].rstrip(".")
    return "the host cannot be reached"


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in ("httpx", "httpcore")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_of(path: Path, file: NamedFile) -> list[str]:
    """The texts in the file's column, without space around them; those that are empty are left out.

    Raises:
        SteeringError: if the file is torn, lacks a column, or holds no texts.
    """
    read = {".csv": _csv_rows, ".json": _json_rows, ".parquet": _parquet_rows}[PurePosixPath(file.path).suffix]
    wanted = [file.column, *([file.only[0]] if file.only else [])]
    texts = []
    for number, row in read(path, wanted):
        for column in wanted:
            if not isinstance(row.get(column), str):
                raise SteeringError(
                    f"Row {number} of {path} has no text in the column “{column}”: fetch or copy the file again."
                )
        if file.only is None or row[file.only[0]].strip() == file.only[1]:
            texts.append(row[file.column].strip())
    if not any(texts):
        only = f" with “{file.only[1]}” in “{file.only[0]}”" if file.only else ""
        raise SteeringError(f"{path} holds no texts in the column “{file.column}”{only}: copy the file again.")
    return [text for text in texts if text]


def _csv_rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.DictReader(StringIO(read_text(path), newline=""), strict=True)
    number = 1
    try:
        _require_columns(path, list(table.fieldnames or []), wanted)
        for number, row in enumerate(table, start=2):  # as a spreadsheet counts, the header being row 1
            yield number, row
    except csv.Error as error:
        raise SteeringError(f"{path} is torn after row {number} ({error}): fetch or copy it again.") from error


def _json_rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise SteeringError(f"{path} is torn or no JSON ({error}): fetch or copy it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SteeringError(f"{path} is no list of objects: fetch or copy it again.")
    if rows:
        _require_columns(path, list(rows[0]), wanted)
    yield from enumerate(rows, start=1)


def _parquet_rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SteeringError(f"{path.name} is a Parquet table: pip install pyarrow to read it.") from error
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _require_columns(path, table.schema_arrow.names, wanted)
        rows = table.read(columns=wanted).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SteeringError(f"{path} is torn or no Parquet table: fetch or copy it again.") from error
    yield from enumerate(rows, start=1)


def _require_columns(path: Path, there: list[str], wanted: list[str]) -> None:
    for column in wanted:
        if column not in there:
            raise SteeringError(
                f"{path} has no column “{column}”, but {', '.join(map(str, there)) or 'none'}: fetch or copy it again."
            )
