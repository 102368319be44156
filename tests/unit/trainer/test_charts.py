"""Curves as SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from finetune_trainer.artifact.charts import Curve, Mark, Panel, Point, Span, draw
from finetune_trainer.artifact.timeline import Pause, Timeline

TIMELINE = Timeline(0.0, 100.0)


def points(*values: float) -> list[Point]:
    """Values ten seconds apart, from ten seconds on."""
    return [Point(10.0 * number, value, f"value <{value}>") for number, value in enumerate(values, 1)]


def panel(*curves: Curve) -> Panel:
    return Panel("Loss & more", curves, "{:g}".format)


def polylines(picture: str) -> list[str]:
    return re.findall(r'points="([^"]*)"', picture)


def test_a_curve_goes_from_the_highest_to_the_lowest_line_of_its_axis() -> None:
    picture = draw("title", TIMELINE, [panel(Curve("training", points(4.0, 2.0, 0.0)))], [], [])
    # 860 units for 100 seconds from 84 on, 128 units for losses from 4 to 0 from 88 on.
    assert polylines(picture) == ["170.0,88.0 256.0,152.0 342.0,216.0"]
    assert re.findall(r'text-anchor="end">([\d.]+)</text>', picture)[:5] == ["0", "1", "2", "3", "4"]


def test_no_line_crosses_a_pause() -> None:
    timeline = Timeline(0.0, 40.0, (Pause(20.0, 30.0),))
    assert [
        line.count(",") for line in polylines(draw("t", timeline, [panel(Curve("c", points(1, 2, 3, 4)))], [], []))
    ] == [
        2,
        2,
    ]


@pytest.mark.parametrize(
    "values", [(1.0,), (2.0, 2.0), (0.0, 0.0), (-3.0, -3.0), (1e-300, 1e-300), (5.0, float("nan"))]
)
def test_flat_single_and_unmeasurable_values_are_drawn(values: tuple[float, ...]) -> None:
    picture = draw("t", TIMELINE, [panel(Curve("c", points(*values)))], [], [])
    assert "nan" not in "".join(polylines(picture))
    assert len(polylines(picture)) == 1


def test_spans_marks_and_texts_are_well_formed_xml() -> None:
    hostile = "</text><script>alert(1)</script>\"'&"
    picture = draw(
        hostile,
        Timeline(0.0, 400.0, (Pause(100.0, 300.0),)),
        [Panel(hostile, [Curve(hostile, points(1.0, 2.0), marked=True), Curve("b", points(2.0))], lambda _: hostile)],
        [Span(hostile, 0.0, 90.0), Span("short", 95.0, 96.0)],
        [Mark(hostile, 50.0)],
    )
    root = ElementTree.fromstring(picture)
    assert root.findall(".//script") == []
    assert root.findtext("title") == hostile
    assert [len(root.findall(f".//*[@class='{name}']")) for name in ("span", "mark", "curve")] == [2, 1, 2]
    # What is too narrow for its label tells it when it is pointed at.
    assert [title.text for title in root.iter("title")].count("short") == 1
    assert "short" not in [text.text for text in root.iter("text")]


def test_long_curves_are_thinned_and_empty_panels_left_out() -> None:
    long = [Point(number / 100, float(number), "") for number in range(10_000)]
    picture = draw("t", TIMELINE, [panel(Curve("c", long)), panel(Curve("empty", []))], [], [])
    (line,) = polylines(picture)
    assert line.count(",") == 1000
    assert picture.count("<circle") == 0
    assert picture.count("Loss &amp; more") == 1
