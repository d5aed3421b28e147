"""The report of a direction: one file that needs nothing else, whatever a stranger's card holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import oracle
import pytest

from steering.contrast import Example
from steering.errors import DirectionError, SteeringError
from steering.models import ChatModel
from steering.report import Report, make_report
from steering.report_page import page, write_report
from steering.report_pictures import Line, chart, head_map

Tiny = Callable[[str], ChatModel]
HOSTILE = '<script src="https://example.org/x.js">alert(1)</script> & “quotes” "'


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(content: str) -> Reader:
    reader = Reader()
    reader.feed(content)
    return reader


@pytest.fixture(scope="module")
def report(tiny: Tiny) -> Report:
    model = tiny("llama3")
    sides = [[Example(({"role": "user", "content": f"{text} {n}"},)) for n in range(3)] for text in ("Sea", "Tea")]
    direction = replace(
        oracle.make_direction(model, layer=2),
        card={"strength": {"coefficients": [0.5, 1, 2], "rises": [0.1, 0.4, 1.5], "start": 1.0, "end": 1.8}},
    )
    return make_report(
        model, direction, sides=(sides[0], sides[1]), questions=["Why?", "How?"], tokens=6, command="the command"
    )


def test_what_it_shows(report: Report, tmp_path: Path) -> None:
    content = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    found = read(content)
    headings = re.findall(r"<h2>(.*?)</h2>", content)
    assert headings == [
        "What it does",
        "How strongly",
        "Where it shows",
        "Which heads write it",
        "What it speaks for",
        "How this was made",
    ]
    for replies in report.replies.values():
        for text in replies:
            assert text.strip() in found.text
    assert report.coefficient == 1.0
    assert "Turned up (1)" in found.text
    pictures = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(pictures) == 3
    assert all(picture["role"] == "img" and len(picture["aria-label"] or "") > 40 for picture in pictures)
    files = {a["download"]: unquote(str(a["href"]).partition(",")[2]) for tag, a in found.tags if tag == "a"}
    assert set(files) == {"strength.csv", "profile.csv", "heads.csv", "tokens.csv"}
    rows = list(csv.reader(io.StringIO(files["heads.csv"])))
    assert (
        len(rows) == 1 + 1 + 2 * (4 + 1) + 1
    )  # the head, the embedding, two layers of four heads and an MLP, the total
    assert sum(float(row[2]) for row in rows[1:-1]) == pytest.approx(float(rows[-1][2]), abs=1e-4)
    assert "the command" in found.text


def test_nothing_is_asked_of_another_machine(report: Report) -> None:
    found = read(page(report))
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert str(value).startswith("data:text/csv")
    assert "@import" not in page(report)
    assert "url(" not in page(report)


@pytest.mark.parametrize(
    "card",
    [
        {"data": HOSTILE, "relaxed": HOSTILE, "revision": HOSTILE, "n_positive": HOSTILE, "auroc": HOSTILE},
        {"scores": HOSTILE, "limits": [1], "strength": "x", "trust": 3},
        {"scores": {"bypass": HOSTILE, "kl": None}, "limits": {"kl": HOSTILE}, "trust": {"sentences": [HOSTILE, 3]}},
        {"strength": {"coefficients": [1.0, float("nan")], "rises": [0.1, 0.2]}},
        {"strength": {"coefficients": [1.0, 2.0], "rises": [0.1]}},
        {"strength": {"coefficients": [1.0, 2.0], "rises": [0.1, 0.2], "start": HOSTILE, "end": []}},
    ],
)
def test_a_strangers_card(report: Report, card: dict[str, Any]) -> None:
    direction = replace(report.direction, name=HOSTILE, card=card)
    strange = replace(report, direction=direction, prompt=HOSTILE, command=HOSTILE, replies={HOSTILE: (HOSTILE,) * 3})
    found = read(page(strange))
    assert "script" not in [tag for tag, _ in found.tags]
    assert HOSTILE in found.text


def test_what_cannot_be_reported(tiny: Tiny) -> None:
    model = tiny("llama3")
    with pytest.raises(SteeringError, match="Give at least one question"):
        make_report(model, oracle.make_direction(model, layer=1), questions=[])
    with pytest.raises(DirectionError, match="was made for a model of width"):
        make_report(tiny("gemma2-narrow"), oracle.make_direction(model, layer=1))


def test_a_chart_of_one_value_and_labels_apart() -> None:
    lines = [Line("a", "0", [0, 1], [0.0, 0.0]), Line("b", "1", [0, 1], [0.0, 0.0])]
    content = chart(lines, "flat", "x", "y")
    heights = [float(y) for y in re.findall(r'class="name look\d" x="[\d.]+" y="([\d.]+)"', content)]
    assert abs(heights[0] - heights[1]) >= 15
    assert "nan" not in content
    assert "nan" not in head_map([[0.0, 0.0]], ["0", "MLP"], "nothing", set())
