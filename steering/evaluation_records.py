"""The lines of an evaluation: what was measured of each reply, kept as it comes, so that a run goes on after any end.

A file of JSON lines. The first says of which run it is, each other holds one job: a few prompts under every variant. A
line is written at once and to the disk; one that a kill left torn is cut off when the run goes on, and its job done
again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steering.errors import SteeringError

Record = dict[str, Any]
RECORDS = "records.jsonl"
PART = "/part/"  # a job of this name says what a part is made of; no model's label begins with a slash


class RecordFile:
    """The records of one run.

    Args:
        path: made with its folder if it is not there.
        run: what the run is made of; the records of another one are not gone on with.

    Raises:
        SteeringError: if the file is of another run, is none of ours, or cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self._done: dict[str, list[Record]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines, whole = _whole_lines(path) if path.exists() else ([], 0)
            if path.exists():
                os.truncate(path, whole)
            if not lines:
                self._append({"run": dict(run)})
        except OSError as error:
            raise SteeringError(
                f"Records cannot be kept in {path}: {error}. Choose another folder with --out."
            ) from error
        if lines:
            self._require_same(lines[0]["run"], run)
            self._done = {line["job"]: line["records"] for line in lines[1:]}

    def __contains__(self, job: str) -> bool:
        return job in self._done

    def add(self, job: str, records: list[Record]) -> None:
        """Keep a job's records, on the disk when this returns.

        Raises:
            SteeringError: if the disk does not take them.
        """
        try:
            self._append({"job": job, "records": records})
        except OSError as error:
            raise SteeringError(
                f"Records cannot be kept in {self.path}: {error}. Make room there and start again: what was measured "
                "before is kept."
            ) from error
        self._done[job] = records

    def claim(self, part: str, run: Mapping[str, Any]) -> None:
        """Say what a part of the run is made of, as one model of several; it is the same when the run goes on.

        Raises:
            SteeringError: if the records hold the part of another run.
        """
        name = f"{PART}{part}"
        if name in self._done:
            self._require_same(self._done[name][0], run)
        else:
            self.add(name, [dict(run)])

    def records(self) -> list[Record]:
        """All that were kept, in the order of their jobs' names, which does not depend on when they were done."""
        return _in_order(self._done)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _require_same(self, kept: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        differing = sorted(name for name in {*kept, *run} if kept.get(name) != run.get(name))
        if differing:
            name = differing[0]
            raise SteeringError(
                f"{self.path} holds another run: its {name} is {_shown(kept.get(name))}, now it is "
                f"{_shown(run.get(name))}. Choose another folder with --out, or begin anew with --fresh."
            )


def read_run(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """What a run was made of, and its records.

    Args:
        path: its folder, or the file of records in it.

    Raises:
        SteeringError: if there is none, it is damaged, or nothing was measured yet.
    """
    file = path / RECORDS if path.is_dir() else path
    if not file.is_file():
        raise SteeringError(
            f"There is no evaluation in {path}: {RECORDS} is not there. Name the folder it was written to."
        )
    try:
        lines, _ = _whole_lines(file)
    except OSError as error:
        raise SteeringError(f"{file} cannot be read: {error}.") from error
    records = _in_order({line["job"]: line["records"] for line in lines[1:]})
    if not records:
        raise SteeringError(f"Nothing was measured in {path} yet. Run the evaluation to its end first.")
    return lines[0]["run"], records


def _in_order(done: Mapping[str, list[Record]]) -> list[Record]:
    return [record for job in sorted(done) if not job.startswith(PART) for record in done[job]]


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that were written whole, and where the last of them ends, in bytes."""
    found: list[dict[str, Any]] = []
    end = 0
    for line in _ended_lines(path.read_bytes()):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not (_is_run(value) if not found else _is_job(value)):
            raise SteeringError(
                f"Line {len(found) + 1} of {path} is not of an evaluation. Choose another folder with --out, or begin "
                "anew with --fresh."
            )
        found.append(value)
        end += len(line)
    return found, end


def _is_run(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("run"), dict)


def _is_job(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("job"), str):
        return False
    records = value.get("records")
    return isinstance(records, list) and all(isinstance(record, dict) for record in records)


def _ended_lines(data: bytes) -> Iterator[bytes]:
    return (line for line in data.splitlines(keepends=True) if line.endswith(b"\n"))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
