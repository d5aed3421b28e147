"""What is measured of this machine is remembered, unless it was measured beside other work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from steering import machine


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A measurement that gives another answer each time."""
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path)
    answers = iter("123456")
    return lambda: next(answers)


def start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured_beside_others", {})


def test_it_is_measured_once_on_a_quiet_machine(
    counted: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine._remembered("threads", counted, lambda: True) == "1"
    start_anew(monkeypatch)
    assert machine._remembered("threads", counted, lambda: True) == "1"
    assert list(json.loads((tmp_path / "machine.json").read_text()).values()) == ["1"]


@pytest.mark.parametrize("quiet", [[False, True], [True, False]], ids=["busy before", "busy after"])
def test_what_was_measured_beside_others_holds_for_this_process_only(
    counted: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: list[bool]
) -> None:
    moments = iter(quiet)
    assert machine._remembered("threads", counted, lambda: next(moments)) == "1"
    assert machine._remembered("threads", counted, lambda: True) == "1"
    assert not (tmp_path / "machine.json").exists()
    start_anew(monkeypatch)
    assert machine._remembered("threads", counted, lambda: True) == "2"
    assert (tmp_path / "machine.json").exists()


def test_a_file_cut_short_is_measured_again(counted: Callable[[], str], tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text('{"x')
    assert machine._remembered("threads", counted) == "1"
    assert json.loads((tmp_path / "machine.json").read_text())
