"""How long prepare pods count as silent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_operator.hearing import Hearing, Silence
from support.builders import at

JOB, OTHER = ("team-a", "haiku"), ("team-a", "other")
BORN, LATER = at(0), at(60)


class _Bench:
    def __init__(self) -> None:
        self.time = 1000.0
        self.hearing = Hearing(lambda: self.time)
        assert self.hearing.silence(JOB, BORN) == Silence(timedelta(0), spoken=False)

    def silence(self) -> Silence | None:
        return self.hearing.silence(JOB, BORN)


@pytest.fixture
def bench() -> _Bench:
    return _Bench()


def test_silence_counts_from_when_the_pod_was_first_seen(bench: _Bench) -> None:
    bench.time += 90
    assert bench.silence() == Silence(timedelta(seconds=90), spoken=False)


def test_a_word_ends_the_silence(bench: _Bench) -> None:
    bench.time += 90
    bench.hearing.heard(JOB, BORN)
    bench.time += 5
    assert bench.silence() == Silence(timedelta(seconds=5), spoken=True)


def test_a_word_may_come_before_the_pod_is_seen(bench: _Bench) -> None:
    bench.hearing.heard(OTHER, BORN)
    bench.time += 5
    assert bench.hearing.silence(OTHER, BORN) == Silence(timedelta(seconds=5), spoken=True)


def test_what_could_not_be_checked_is_no_silence(bench: _Bench) -> None:
    """While the API server is away, no pod can be told from a stranger."""
    bench.time += 900
    bench.hearing.missed(JOB)
    bench.hearing.missed(OTHER)
    assert bench.silence() == Silence(timedelta(0), spoken=False)
    bench.time += 1
    assert bench.hearing.silence(OTHER, BORN) == Silence(timedelta(0), spoken=False), "a stranger makes no entry"


def test_another_pod_is_a_new_beginning(bench: _Bench) -> None:
    bench.time += 900
    assert bench.hearing.silence(JOB, LATER) == Silence(timedelta(0), spoken=False)
    bench.time += 900
    bench.hearing.heard(JOB, BORN)
    assert bench.hearing.silence(JOB, LATER) == Silence(timedelta(seconds=900), spoken=False), "an old pod said that"


@pytest.mark.parametrize("ending", ["no pod runs", "the job is gone"])
def test_nothing_is_remembered_of_what_is_over(bench: _Bench, ending: str) -> None:
    if ending == "no pod runs":
        assert bench.hearing.silence(JOB, None) is None
    else:
        bench.hearing.forget(JOB)
    bench.time += 900
    assert bench.silence() == Silence(timedelta(0), spoken=False)
