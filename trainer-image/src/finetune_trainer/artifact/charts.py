"""Curves over one time axis as SVG, without a script. Pure; all text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from finetune_trainer.artifact.timeline import Timeline
from finetune_trainer.training.metrics import thinned

_WIDTH, _LEFT, _RIGHT = 960, 84, 16
_PANEL, _GAP, _LANE = 128, 44, 58
# More points than that are not told apart; more dots than that hide the line.
_MOST_POINTS, _MOST_DOTS = 1000, 150
_COLOURS = ("var(--first)", "var(--second)", "var(--third)")


@dataclass(frozen=True)
class Point:
    """A value at an instant (Unix seconds), and the text that is shown when it is pointed at."""

    instant: float
    value: float
    text: str


@dataclass(frozen=True)
class Curve:
    """Points in the order of time; ``marked`` ones are each worth a dot."""

    name: str
    points: Sequence[Point]
    marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves that share a vertical axis, and how its values are written."""

    title: str
    curves: Sequence[Curve]
    spell: Callable[[float], str]


@dataclass(frozen=True)
class Span:
    """Something that lasted, such as an attempt."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Mark:
    """Something that happened, such as a checkpoint."""

    name: str
    instant: float


def draw(title: str, timeline: Timeline, panels: Sequence[Panel], spans: Sequence[Span], marks: Sequence[Mark]) -> str:
    """All panels one below the other, below a lane of spans and marks, as one picture."""
    shown = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    height = _LANE + len(shown) * (_PANEL + _GAP) + 24
    across = _Across(timeline)
    parts = [*_pauses(across, height), *_lane(across, spans, marks)]
    for number, panel in enumerate(shown):
        parts += _panel(across, panel, _LANE + number * (_PANEL + _GAP) + 30)
    parts += _time_axis(across, height - 8)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="chart-title" font-size="12" '
        'fill="var(--faint)" font-family="system-ui,sans-serif">'
        f'<title id="chart-title">{escape(title)}</title>{"".join(parts)}</svg>'
    )


class _Across:
    """Horizontal places in the units of the picture."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def __call__(self, instant: float) -> float:
        return self.at(self.timeline.place(instant))

    def at(self, share: float) -> float:
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _pauses(across: _Across, height: int) -> Iterator[str]:
    for pause in across.timeline.pauses:
        begin, end = across(pause.begin), across(pause.end)
        yield (
            f'<rect x="{begin}" y="{_LANE}" width="{round(end - begin, 1)}" height="{height - _LANE - 24}" '
            f'fill="var(--shade)"><title>nothing was recorded for {pause.seconds:.0f} s</title></rect>'
        )


def _lane(across: _Across, spans: Sequence[Span], marks: Sequence[Mark]) -> Iterator[str]:
    for span in spans:
        begin, width = across(span.begin), max(2.0, across(span.end) - across(span.begin))
        label = escape(span.name)
        yield (
            f'<rect class="span" x="{begin}" y="8" width="{round(width, 1)}" height="20" rx="3" fill="var(--shade)" '
            f'stroke="var(--line)"><title>{label}</title></rect>'
        )
        # A label that does not fit is still told when the span is pointed at.
        if width > 7 * len(span.name):
            yield f'<text x="{begin + 6}" y="22">{label}</text>'
    for mark in marks:
        place = across(mark.instant)
        yield (
            f'<path class="mark" d="M{place} 34l5 6-5 6-5-6z" fill="var(--third)">'
            f"<title>{escape(mark.name)}</title></path>"
        )
    if marks:
        yield f'<text x="{_LEFT - 8}" y="44" text-anchor="end">checkpoints</text>'
    if spans:
        yield f'<text x="{_LEFT - 8}" y="22" text-anchor="end">attempts</text>'


def _panel(across: _Across, panel: Panel, top: int) -> Iterator[str]:
    values = [point.value for curve in panel.curves for point in curve.points if math.isfinite(point.value)]
    low, high, lines = _scale(values)

    def down(value: float) -> float:
        return round(top + (high - value) / (high - low) * _PANEL, 1)

    yield f'<text x="{_LEFT}" y="{top - 10}" fill="var(--ink)" font-weight="600">{escape(panel.title)}</text>'
    for line in lines:
        yield f'<path d="M{_LEFT} {down(line)}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>'
        yield f'<text x="{_LEFT - 8}" y="{down(line) + 4}" text-anchor="end">{escape(panel.spell(line))}</text>'
    for number, curve in enumerate(panel.curves):
        colour = _COLOURS[number % len(_COLOURS)]
        if len(panel.curves) > 1 and curve.points:
            place = _WIDTH - _RIGHT - 120 * (len(panel.curves) - number)
            yield f'<text x="{place}" y="{top - 10}" fill="{colour}">{escape(curve.name)}</text>'
        yield from _curve(across, down, curve, colour)


def _curve(across: _Across, down: Callable[[float], float], curve: Curve, colour: str) -> Iterator[str]:
    points = thinned([point for point in curve.points if math.isfinite(point.value)], _MOST_POINTS)
    for piece in _pieces(points, across.timeline):
        path = " ".join(f"{across(point.instant)},{down(point.value)}" for point in piece)
        yield f'<polyline class="curve" points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    if curve.marked or len(points) <= _MOST_DOTS:
        radius = 3.5 if curve.marked else 2
        for point in points:
            yield (
                f'<circle cx="{across(point.instant)}" cy="{down(point.value)}" r="{radius}" fill="{colour}">'
                f"<title>{escape(point.text)}</title></circle>"
            )


def _pieces(points: Sequence[Point], timeline: Timeline) -> Iterator[list[Point]]:
    """The points between pauses, so that no line crosses one."""
    bounds = [pause.begin for pause in timeline.pauses] + [timeline.end]
    begin = -math.inf
    for end in bounds:
        if piece := [point for point in points if begin < point.instant <= end]:
            yield piece
        begin = end


def _time_axis(across: _Across, y: int) -> Iterator[str]:
    for share, label in across.timeline.ticks():
        place = across.at(share)
        anchor = "end" if share > 0.97 else "middle"
        yield f'<path d="M{place} {_LANE + 30}V{y - 14}" stroke="var(--line)" stroke-dasharray="2 4"/>'
        yield f'<text x="{place}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'


def _scale(values: Iterable[float]) -> tuple[float, float, list[float]]:
    """The lowest and highest value of an axis, and those that have a line: round ones, all within."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-300):
        margin = abs(high) / 10 or 1.0
        low, high = low - margin, high + margin
    apart = _round_up((high - low) / 4)
    first, last = math.floor(low / apart), math.ceil(high / apart)
    lines = [number * apart for number in range(first, last + 1)]
    return lines[0], lines[-1], lines


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))
