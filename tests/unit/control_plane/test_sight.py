"""Finding a watch that no longer tells what happens."""

from __future__ import annotations

from finetune_operator.sight import BLIND_SECONDS, Sight


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_quiet_cluster_is_not_blindness() -> None:
    clock = Clock()
    sight = Sight(clock)
    sight.told("pods", "a", "5")
    for _ in range(100):
        clock.now += 60
        sight.listed("pods", {"a": "5"})
    assert sight.blind_seconds() == {"pods": 0.0}
    assert sight.blind() is None


def test_an_event_may_come_after_the_list() -> None:
    clock = Clock()
    sight = Sight(clock)
    sight.listed("pods", {"a": "5"})
    clock.now += 30
    assert sight.blind_seconds() == {"pods": 30.0}
    sight.told("pods", "a", "6")
    assert sight.blind_seconds() == {"pods": 0.0}


def test_a_list_may_be_older_than_an_event() -> None:
    sight = Sight(Clock())
    sight.told("pods", "a", "10")
    sight.listed("pods", {"a": "9"})
    assert sight.blind_seconds() == {"pods": 0.0}


def test_a_watch_that_is_late_but_tells_is_not_blind() -> None:
    """An object that changes all the time: each list is ahead of the events, and each event clears what was."""
    clock = Clock()
    sight = Sight(clock)
    for version in range(10, 100, 10):
        sight.listed("jobs", {"a": str(version)})
        clock.now += 60
        sight.told("jobs", "a", str(version + 5))
    assert sight.blind_seconds() == {"jobs": 0.0}


def test_a_change_that_is_never_told_is() -> None:
    clock = Clock()
    sight = Sight(clock)
    sight.told("pods", "a", "5")
    sight.told("jobs", "b", "5")
    for version in ("6", "7", "8", "9"):
        sight.listed("pods", {"a": version})
        sight.listed("jobs", {"b": "5"})
        clock.now += 61
    assert sight.blind_seconds() == {"pods": 244.0, "jobs": 0.0}
    assert sight.blind() == "the watch of pods has not told of a change for 244 s"
    assert BLIND_SECONDS < 244


def test_what_is_deleted_is_forgotten() -> None:
    clock = Clock()
    sight = Sight(clock)
    sight.listed("pods", {"a": "5"})
    clock.now += 1000
    assert sight.blind()
    sight.listed("pods", {})
    assert sight.blind_seconds() == {"pods": 0.0}


def test_versions_that_are_no_numbers_are_compared_as_they_are() -> None:
    sight = Sight(Clock())
    sight.listed("pods", {"a": "x", "b": "y"})
    sight.told("pods", "a", "x")
    sight.told("pods", "b", "z")
    sight.listed("pods", {"a": "x"})
    assert sight.blind_seconds() == {"pods": 0.0}
