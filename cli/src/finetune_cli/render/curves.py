"""Curves in a terminal, drawn with Braille dots: two columns and four rows of dots a character. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rich.text import Text

# Bit of each dot of a Braille character, by column and row (Unicode chapter 21, "Braille").
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800
_ACROSS, _DOWN = 2, 4
_LABEL_WIDTH = 9

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points of one curve in the order of x, with its name and colour. ``marked`` draws the points apart."""

    name: str
    points: tuple[Point, ...]
    style: str
    marked: bool = False


@dataclass(frozen=True)
class Frame:
    """The part of the plane that is drawn, and how many dots it has."""

    left: float
    right: float
    bottom: float
    top: float
    across: int
    down: int

    def column(self, x: float) -> int:
        return round((x - self.left) / (self.right - self.left) * (self.across - 1))

    def row(self, y: float) -> int:
        """Rows count from the top."""
        return round((self.top - y) / (self.top - self.bottom) * (self.down - 1))


def frame_of(series: Sequence[Series], width: int, height: int) -> Frame:
    """The smallest frame that holds all curves as they are drawn; a flat one lies in its middle."""
    xs = [x for one in series for x, _ in one.points]
    left, right = min(xs), max(xs)
    wide = Frame(left, right if right > left else left + 1, 0, 1, width * _ACROSS, height * _DOWN)
    ys = [y for one in series for _, y in means(one, wide)]
    bottom, top = min(ys), max(ys)
    if bottom == top:
        margin = abs(top) * 0.1 or 1.0
        bottom, top = bottom - margin, top + margin
    return replace(wide, bottom=bottom, top=top)


def means(series: Series, frame: Frame) -> list[tuple[int, float]]:
    """The mean of the points of each column that has any, from left to right."""
    columns: dict[int, list[float]] = {}
    for x, y in series.points:
        columns.setdefault(frame.column(x), []).append(y)
    return [(column, sum(values) / len(values)) for column, values in sorted(columns.items())]


def dots(series: Series, frame: Frame) -> set[tuple[int, int]]:
    """Dots of one curve: the mean of each column, joined by straight lines."""
    ends = [(column, frame.row(mean)) for column, mean in means(series, frame)]
    found = set(ends)
    if series.marked:
        found.update(dot for column, row in ends for dot in _cross(column, row, frame))
    for start, end in pairwise(ends):
        found.update(_line(start, end))
    return found


def _cross(column: int, row: int, frame: Frame) -> list[tuple[int, int]]:
    around = ((column, row), (column - 1, row), (column + 1, row), (column, row - 1), (column, row + 1))
    return [(x, y) for x, y in around if 0 <= x < frame.across and 0 <= y < frame.down]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    (x0, y0), (x1, y1) = start, end
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * at / count), round(y0 + (y1 - y0) * at / count)) for at in range(count + 1)]


def finite(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that can be drawn."""
    return tuple((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))


def chart(series: Sequence[Series], width: int, height: int, x_label: str = "step") -> list[Text]:
    """Curves with their axes.

    Args:
        series: curves; those without a finite point are left out.
        width: characters of the whole, labels included.
        height: lines of the drawing; a legend above and the x axis below come on top of it.

    Returns:
        Lines of at most ``width`` characters; none when there is nothing to draw.
    """
    drawn = [Series(one.name, finite(one.points), one.style, one.marked) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return []
    inside = max(10, width - _LABEL_WIDTH - 2)
    frame = frame_of(drawn, inside, height)
    cells = _cells(drawn, frame)
    lines = [_legend(drawn)]
    for row in range(height):
        lines.append(Text.assemble((f"{_y_label(frame, row, height):>{_LABEL_WIDTH}} ", "dim"), ("┤", "dim")))
        for column in range(inside):
            character, style = cells.get((column, row), (" ", ""))
            lines[-1].append(character, style)
        lines[-1].rstrip()
    return [*lines, *_x_axis(frame, inside, x_label)]


def _cells(series: Sequence[Series], frame: Frame) -> dict[tuple[int, int], tuple[str, str]]:
    """Character and style of each cell that is not blank; where curves meet, the later one gives the colour."""
    bits: dict[tuple[int, int], int] = {}
    styles: dict[tuple[int, int], str] = {}
    for one in series:
        for x, y in dots(one, frame):
            cell = (x // _ACROSS, y // _DOWN)
            bits[cell] = bits.get(cell, 0) | _DOTS[x % _ACROSS][y % _DOWN]
            styles[cell] = one.style
    return {cell: (chr(_BLANK + value), styles[cell]) for cell, value in bits.items()}


def _legend(series: Sequence[Series]) -> Text:
    line = Text(" " * (_LABEL_WIDTH + 2))
    for one in series:
        line.append("━━ ", one.style)
        line.append(f"{one.name} {short(one.points[-1][1])}   ")
    line.rstrip()
    return line


def short(value: float) -> str:
    """A number of at most nine characters."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _y_label(frame: Frame, row: int, height: int) -> str:
    """The value at the middle of a line; every fourth line, the first and the last have one."""
    if row not in (0, height - 1) and (row % 4 or height - 1 - row < 3):
        return ""
    share = row / (height - 1) if height > 1 else 0.5
    return short(frame.top - share * (frame.top - frame.bottom))


def _x_axis(frame: Frame, inside: int, label: str) -> list[Text]:
    left, right = f"{frame.left:g}", f"{label} {frame.right:g}"
    gap = " " * max(1, inside - len(left) - len(right))
    indent = " " * (_LABEL_WIDTH + 1)
    return [Text(f"{indent}└{'─' * inside}", style="dim"), Text(f"{indent} {left}{gap}{right}", style="dim")]
