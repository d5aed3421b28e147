"""Pictures of explanations, as SVG that needs nothing else: lines over layers or strengths, and a map of heads.

Colours are variables of the page that a picture stands on, so that it follows its light and dark; :data:`STYLE` is the
rest of its looks.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 40
LETTER = 7  # px of a letter of a name, about
LOOKS = {"0": "2 4", "1": "7 4", "2": ""}  # dashes by colour, so that nobody needs to see colours
LABEL_HEIGHT = 15
STYLE = """
.picture { display: block; max-width: 100%; height: auto }
.picture text { font-size: 12px; fill: var(--ink3) }
.picture text.strong { fill: var(--ink); stroke: var(--surf); stroke-width: 4px; paint-order: stroke }
 .picture line { stroke: var(--line) }
.picture line.zero { stroke: var(--ink3) } .picture line.mark { stroke: var(--ink); stroke-dasharray: 2 3 }
.picture polyline { fill: none; stroke-width: 2.2 } .picture polyline.look0 { stroke: var(--v0) }
.picture polyline.look1 { stroke: var(--v1) } .picture polyline.look2 { stroke: var(--v2) }
.picture text.look0 { fill: var(--v0) } .picture text.look1 { fill: var(--v1) } .picture text.look2 { fill: var(--v2) }
.picture .band { opacity: .14 } .picture .band.look0 { fill: var(--v0) }
.picture .band.look1 { fill: var(--v1) } .picture .band.look2 { fill: var(--v2) }
.picture rect.up { fill: var(--v2) } .picture rect.down { fill: var(--v1) }
.picture rect.framed { stroke: var(--ink); stroke-width: 1.5 }
.picture line.interval { stroke-width: 2 } .picture :is(line, circle).look0 { stroke: var(--v0); fill: var(--v0) }
.picture :is(line, circle).look1 { stroke: var(--v1); fill: var(--v1) }
.picture :is(line, circle).look2 { stroke: var(--v2); fill: var(--v2) }
.picture circle.hollow { fill: var(--surf) !important; stroke-width: 2 }
"""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: stands at its right end.
        look: "0", "1" or "2", the page's three looks.
        spread: how far the band around it reaches; empty for none.
    """

    name: str
    look: str
    xs: Sequence[float]
    ys: Sequence[float]
    spread: Sequence[float] = ()


def chart(
    lines: Sequence[Line],
    said: str,
    across: str,
    up: str,
    mark: tuple[float, str] | None = None,
    *,
    width: int = WIDTH,
    named: bool = True,
) -> str:
    """Lines over a common axis.

    Args:
        said: what the picture shows, for those who do not see it.
        across, up: what the axes are.
        mark: a place on the axis across, and its words.
        width: px; a picture for a phone is narrower, so that its words need not shrink.
        named: whether the lines' names stand at their ends; else whoever shows the picture names them.
    """
    right = RIGHT + (8 + LETTER * max(len(one.name) for one in lines) if named else 0)
    finite = [y + sign * d for one in lines for y, d in _with_spread(one) for sign in (-1, 1) if math.isfinite(y)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    low, high = (low, high) if high > low else (low - 1, high + 1)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = min(one.xs[0] for one in lines), max(one.xs[-1] for one in lines)

    def x(value: float) -> float:
        return LEFT + (width - LEFT - right) * (value - first) / ((last - first) or 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = []
    for tick in ticks:
        strong = ' class="zero"' if tick == 0 else ""
        parts.append(f'<line{strong} x1="{LEFT}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for place in _places(first, last):
        parts.append(f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{place:g}</text>')
    middle = (LEFT + width - right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(across)}</text>')
    parts.append(f'<text x="{LEFT}" y="{LABEL_HEIGHT - 4}" text-anchor="end">{html.escape(up)}</text>')
    if mark is not None:
        at = x(mark[0])
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for one in lines:
        if any(one.spread):
            points = list(zip(one.xs, one.ys, one.spread, strict=True))
            edge = [(x(a), y(b + d)) for a, b, d in points] + [(x(a), y(b - d)) for a, b, d in reversed(points)]
            shape = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
            parts.append(f'<polygon class="band look{one.look}" points="{shape}"/>')
    for one in lines:
        shape = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.xs, one.ys, strict=True) if math.isfinite(b))
        dashes = f' stroke-dasharray="{LOOKS[one.look]}"' if LOOKS[one.look] else ""
        parts.append(f'<polyline class="look{one.look}"{dashes} points="{shape}"/>')
    if mark is not None:  # over the lines
        at = x(mark[0])
        off, anchor = (-5, "end") if at > (width - right) * 0.8 else (5, "start")
        words = f'<text class="strong" x="{at + off:.1f}" y="{HEIGHT - BOTTOM - 7}" text-anchor="{anchor}">'
        parts.append(f"{words}{html.escape(mark[1])}</text>")
    ends = _apart([y(one.ys[-1]) for one in lines]) if named else []
    for one, at in zip(lines if named else [], ends, strict=True):
        name = html.escape(one.name)
        parts.append(f'<text class="name look{one.look}" x="{width - right + 8}" y="{at + 4:.1f}">{name}</text>')
    return _picture(width, HEIGHT, said, parts)


def _with_spread(line: Line) -> list[tuple[float, float]]:
    return list(zip(line.ys, line.spread or [0.0] * len(line.ys), strict=True))


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers, zero among them."""
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


def _places(first: float, last: float) -> list[float]:
    """Where the axis across has numbers: its ends, and round ones that do not stand in their way."""
    inner = [tick for tick in _ticks(first, last) if last - first > 0]
    room = (last - first) / 12
    return [first, *[tick for tick in inner if tick - first > room and last - tick > room], last]


def _apart(places: Sequence[float]) -> list[float]:
    """Heights for labels that would lie on each other, moved apart, in the given order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + LABEL_HEIGHT)
    return moved


CELL, ROW = 26, 15


def head_map(rows: Sequence[Sequence[float]], columns: Sequence[str], said: str, mark: set[tuple[int, int]]) -> str:
    """One square a layer and part, blue where it wrote against the direction, orange where along it.

    Args:
        rows: what each part wrote, one row a layer, the first layer first; it is drawn at the bottom.
        columns: the parts' names.
        mark: (layer, column) of the squares that have a frame.
    """
    most = max((abs(x) for row in rows for x in row), default=0.0) or 1.0
    n = len(rows)
    width, height = LEFT + CELL * len(columns) + 8, TOP + ROW * n + 34
    parts = []
    for layer, row in enumerate(rows):
        top = TOP + ROW * (n - 1 - layer)
        if layer % 5 == 0 or (layer == n - 1 and layer % 5 > 1):
            parts.append(f'<text x="{LEFT - 8}" y="{top + 11}" text-anchor="end">{layer}</text>')
        for column, value in enumerate(row):
            look = "up" if value > 0 else "down"
            frame = " framed" if (layer, column) in mark else ""
            title = f"layer {layer}, {columns[column]}: {value:+.3g}"
            parts.append(
                f'<rect class="{look}{frame}" x="{LEFT + CELL * column}" y="{top}" width="{CELL - 2}" '
                f'height="{ROW - 2}" fill-opacity="{abs(value) / most:.3f}"><title>{html.escape(title)}</title></rect>'
            )
    for column, name in enumerate(columns):
        at = LEFT + CELL * column + CELL / 2 - 1
        parts.append(f'<text x="{at}" y="{TOP + ROW * n + 14}" text-anchor="middle">{html.escape(name)}</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 4}">head</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 4}" text-anchor="end">layer</text>')
    return _picture(width, height, said, parts)


DOT_WIDTH, DOT_ROW, DOT_LABELS, DOT_VALUES = 330, 20, 112, 46


@dataclass(frozen=True)
class Dot:
    """One row of :func:`dots`.

    Attributes:
        look: "0", "1" or "2", the page's three looks.
        low, high: the ends of its interval.
        said: the value in words, at its right.
        is_hollow: for what others are held against.
    """

    name: str
    look: str
    value: float
    low: float
    high: float
    said: str
    is_hollow: bool = False


def dots(rows: Sequence[Dot], said: str, ends: tuple[float, float], ends_said: tuple[str, str]) -> str:
    """A dot and its interval a row, over a common axis that goes from one of ``ends`` to the other."""
    low, high = ends
    right = DOT_WIDTH - DOT_VALUES

    def x(value: float) -> float:
        return DOT_LABELS + (right - DOT_LABELS) * (value - low) / ((high - low) or 1)

    height = DOT_ROW * len(rows) + 22
    parts = [f'<line x1="{DOT_LABELS}" x2="{right}" y1="{height - 19}" y2="{height - 19}"/>']
    for place, row in enumerate(rows):
        y = DOT_ROW * place + DOT_ROW / 2
        label = html.escape(row.name if len(row.name) <= 17 else f"{row.name[:16]}…")
        parts.append(f'<text x="{DOT_LABELS - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        across = f'x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="interval look{row.look}" {across}/>')
        hollow = " hollow" if row.is_hollow else ""
        parts.append(f'<circle class="look{row.look}{hollow}" cx="{x(row.value):.1f}" cy="{y:.1f}" r="4"/>')
        value = html.escape(row.said)
        parts.append(f'<text class="strong" x="{DOT_WIDTH}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    for end, words, anchor in ((low, ends_said[0], "start"), (high, ends_said[1], "end")):
        parts.append(f'<text x="{x(end):.1f}" y="{height - 4}" text-anchor="{anchor}">{html.escape(words)}</text>')
    return _picture(DOT_WIDTH, height, said, parts)


def _picture(width: int, height: int, said: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{html.escape(said)}">{"".join(parts)}</svg>'
    )
