"""Scores on disk: nothing whole is lost, nothing half is read, nothing foreign gets in."""

from __future__ import annotations

from pathlib import Path

import pytest

from steering.score_store import ScoreStore

IDENTITY = {"model": "m" * 64, "data": "d" * 64, "seed": 0}
FIRST = ((-1, 3), "induce", {"induce": [0.25, -1.5]})
SECOND = ((-2, 4), "bypass", {"bypass": [1e-17, 3.0]})


def test_what_was_appended_is_read_back_exactly(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path, IDENTITY)
    assert store.read() == {}
    store.append([FIRST])
    store.append([SECOND])
    expected = {(place, step): values for place, step, values in (FIRST, SECOND)}
    assert ScoreStore(tmp_path, IDENTITY).read() == expected


@pytest.mark.parametrize("lost", range(1, 90, 7))
def test_a_line_cut_short_is_dropped_and_written_over(tmp_path: Path, lost: int) -> None:
    store = ScoreStore(tmp_path, IDENTITY)
    store.append([FIRST])
    whole = store.path.stat().st_size
    store.append([SECOND])
    content = store.path.read_bytes()
    store.path.write_bytes(content[: max(whole, len(content) - lost)])
    assert set(store.read()) == {(FIRST[0], FIRST[1])}
    store.append([SECOND])
    assert set(store.read()) == {(FIRST[0], FIRST[1]), (SECOND[0], SECOND[1])}
    assert store.path.read_bytes() == content


@pytest.mark.parametrize("other", [{"model": "x" * 64}, {"data": "x" * 64}, {"seed": 1}])
def test_another_run_has_another_file(tmp_path: Path, other: dict) -> None:
    ScoreStore(tmp_path, IDENTITY).append([FIRST])
    foreign = ScoreStore(tmp_path, IDENTITY | other)
    assert foreign.read() == {}
    assert foreign.path != ScoreStore(tmp_path, IDENTITY).path


def test_a_file_under_the_right_name_with_another_header_is_not_read(tmp_path: Path) -> None:
    other = ScoreStore(tmp_path, IDENTITY | {"seed": 1})
    other.append([SECOND])
    store = ScoreStore(tmp_path, IDENTITY)
    other.path.rename(store.path)
    assert store.read() == {}
    store.append([FIRST])
    assert set(store.read()) == {(FIRST[0], FIRST[1])}
