"""The time axis of a report."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune_trainer.artifact.timeline import Pause, Timeline, timeline_of

STEADY = [float(second) for second in range(0, 101, 10)]


@pytest.mark.parametrize(
    ("instants", "pauses"),
    [
        pytest.param(STEADY, (), id="steady"),
        pytest.param([0.0, 30.0, 60.0], (), id="slow-but-short"),
        pytest.param([*STEADY, 1000.0, 1010.0], (Pause(100.0, 1000.0),), id="one-pause"),
        pytest.param([1010.0, *STEADY, 1000.0], (Pause(100.0, 1000.0),), id="in-any-order"),
        pytest.param(
            [*STEADY, 1000.0, 1010.0, 90_000.0, 90_010.0],
            (Pause(100.0, 1000.0), Pause(1010.0, 90_000.0)),
            id="a-day-hides-no-quarter-of-an-hour",
        ),
        pytest.param([0.0, *(3600.0 + 100 * number for number in range(300))], (), id="a-tenth-of-it-is-no-pause"),
    ],
)
def test_pauses_are_gaps_that_would_fill_the_page(instants: list[float], pauses: tuple[Pause, ...]) -> None:
    timeline = timeline_of(instants)
    assert timeline is not None
    assert timeline.pauses == pauses


def test_no_instant_has_no_axis_and_one_a_place() -> None:
    assert timeline_of([]) is None
    only = timeline_of([5.0])
    assert only is not None
    assert only.place(5.0) == 0.0
    assert only.ticks() == [(0.0, "0s")]


def test_places_follow_the_clock_without_pauses() -> None:
    timeline = Timeline(100.0, 300.0)
    assert [timeline.place(instant) for instant in (100.0, 150.0, 300.0)] == [0.0, 0.25, 1.0]


def test_a_pause_takes_little_of_the_page() -> None:
    timeline = Timeline(0.0, 1200.0, (Pause(100.0, 1100.0),))
    before, after = timeline.place(100.0), timeline.place(1100.0)
    # 200 s and a pause drawn as 8 of them.
    assert (before, after) == (pytest.approx(100 / 208), pytest.approx(108 / 208))
    assert timeline.place(600.0) == pytest.approx(104 / 208)
    assert timeline.place(1200.0) == 1.0


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.4, ["0s", "0.1s", "0.2s", "0.3s", "0.4s"]),
        (35.0, ["0s", "5s", "10s", "15s", "20s", "25s", "30s", "35s"]),
        (240.0, ["0s", "30s", "1m00s", "1m30s", "2m00s", "2m30s", "3m00s", "3m30s", "4m00s"]),
        (4 * 3600.0, ["0s", "30m00s", "1h00m", "1h30m", "2h00m", "2h30m", "3h00m", "3h30m", "4h00m"]),
    ],
)
def test_ticks_are_round_times(seconds: float, labels: list[str]) -> None:
    assert [label for _, label in Timeline(7.0, 7.0 + seconds).ticks()] == labels


def test_no_tick_is_in_a_pause_nor_upon_another() -> None:
    timeline = Timeline(0.0, 7400.0, (Pause(100.0, 7300.0),))
    places = [place for place, _ in timeline.ticks()]
    assert not [place for place in places if timeline.place(101.0) < place < timeline.place(7299.0)]
    assert all(later - earlier > 0.05 for earlier, later in pairwise(places))
