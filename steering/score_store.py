"""Scores on disk as they come, so that a run that was stopped or killed goes on where it was.

One file for each combination of model, data and settings; both hashes are in its name and in its first line. Each later
line is one finished step of one candidate. A line that was cut short is dropped, so that at most the batch in flight is
lost; lines of another run cannot get in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steering.whole_files import written_whole

FORMAT = "steering-scores"
Place = tuple[int, int]


class ScoreStore:
    """The scores of one (model, data, settings) on disk.

    Args:
        folder: where the files of all runs lie; made if it is not there.
        identity: all that the scores depend on: ``model`` and ``data`` are hashes, the rest is settings.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.header = {"format": FORMAT, "version": 1, **identity}
        settings = hashlib.sha256(_line(self.header).encode()).hexdigest()
        self.path = folder / f"{str(identity['model'])[:12]}-{str(identity['data'])[:12]}-{settings[:12]}.jsonl"

    def read(self) -> dict[tuple[Place, str], dict[str, list[float]]]:
        """What is known: by place and step, the numbers of each score. A file that is not ours counts as empty."""
        known: dict[tuple[Place, str], dict[str, list[float]]] = {}
        for content in self._whole_lines()[1:]:
            position, layer, step, values = content["position"], content["layer"], content["step"], content["values"]
            known[(position, layer), step] = values
        return known

    def append(self, results: Sequence[tuple[Place, str, Mapping[str, Sequence[float]]]]) -> None:
        """Add finished steps; they are on the disk when this returns."""
        lines = [
            {"position": position, "layer": layer, "step": step, "values": {k: list(v) for k, v in values.items()}}
            for (position, layer), step, values in results
        ]
        if not self._whole_lines(first_only=True):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path) as partial:
                partial.write_text(_line(self.header))
        with self.path.open("r+b") as file:
            file.seek(_end_of_last_line(file.read()))
            file.truncate()
            file.write("".join(map(_line, lines)).encode())
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self, first_only: bool = False) -> list[dict[str, Any]]:
        """The file's lines, the header first; none if there is no file or it is another run's."""
        try:
            with self.path.open("rb") as file:
                lines = [file.readline()] if first_only else file.read().splitlines(keepends=True)
        except OSError:
            return []
        contents = []
        for line in lines:
            try:
                contents.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                contents.pop()
        return contents if contents[:1] == [self.header] else []


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n"


def _end_of_last_line(content: bytes) -> int:
    return content.rfind(b"\n") + 1
