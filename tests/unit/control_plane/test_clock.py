"""Time by the API server's answers, whatever becomes of the operator's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
from kubernetes.client import Configuration

from finetune_api import API_VERSION, PLURAL
from finetune_api.status import AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_operator.accounting import spent
from finetune_operator.attempts import next_start
from finetune_operator.clock import ClusterClock, read_date
from finetune_operator.kube import Kube
from finetune_operator.run_policy import deadline_left, training_seconds
from support.builders import NAME, NAMESPACE, NOW, at, job, stored
from support.fake_kube import FakeKube, put_job
from support.http_kube import HttpKube

HOURS = [timedelta(hours=5), -timedelta(hours=5)]


class Clocks:
    """An operator's clock that can be set, one that cannot, and the API server's."""

    def __init__(self) -> None:
        self.wall, self.elapsed, self.server = NOW, 100.0, NOW
        self.clock = ClusterClock(lambda: self.wall, lambda: self.elapsed)

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.server += timedelta(seconds=seconds)
        self.elapsed += seconds

    def answer(self) -> None:
        self.clock.hear(format_datetime(self.server.replace(microsecond=0), usegmt=True))

    def error(self) -> timedelta:
        """How far the clock is from the API server's."""
        return abs(self.clock.now() - self.server)


@pytest.mark.parametrize("step", HOURS)
def test_own_clock_may_be_set(step: timedelta) -> None:
    clocks = Clocks()
    clocks.answer()
    for _ in range(3):
        clocks.pass_time(10.3)
        clocks.wall += step
        assert clocks.error() == timedelta(0)
        clocks.answer()
        assert clocks.error() == timedelta(0)


@pytest.mark.parametrize("step", HOURS)
def test_own_clock_may_be_wrong_from_the_start(step: timedelta) -> None:
    clocks = Clocks()
    clocks.wall += step
    clocks.clock = ClusterClock(lambda: clocks.wall, lambda: clocks.elapsed)
    clocks.answer()
    assert clocks.error() <= timedelta(seconds=1)
    clocks.pass_time(0.9)
    clocks.answer()
    assert clocks.error() <= timedelta(seconds=1)


@pytest.mark.parametrize("step", HOURS)
def test_api_servers_clock_is_followed(step: timedelta) -> None:
    clocks = Clocks()
    clocks.answer()
    clocks.server += step
    clocks.answer()
    assert clocks.error() <= timedelta(seconds=1)


def test_answers_that_overtake_each_other_do_not_turn_time_back() -> None:
    clocks = Clocks()
    clocks.answer()
    clocks.pass_time(1.5)
    before = clocks.clock.now()
    clocks.clock.hear(format_datetime(NOW, usegmt=True))
    assert clocks.clock.now() == before


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sun, 99 Nov 2026 12:00:00 GMT"])
def test_what_is_no_date_changes_nothing(header: str | None) -> None:
    assert read_date(header) is None
    clocks = Clocks()
    clocks.clock.hear(header)
    assert clocks.error() == timedelta(0)


def test_a_date_without_a_zone_is_utc() -> None:
    assert read_date("Sun, 01 Mar 2026 12:00:00 -0000") == NOW


def test_every_answer_is_heard() -> None:
    kube = FakeKube()
    put_job(kube, stored())
    with HttpKube(kube) as server:
        told: list[str | None] = []
        client = Kube(Configuration(host=f"http://127.0.0.1:{server.port}"))
        client.clock.hear = told.append  # type: ignore[method-assign]
        asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
        server.refuse = lambda method, path: 403
        with pytest.raises(Exception, match="Injected"):
            asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
        client.close()
    assert [read_date(header) is not None for header in told] == [True, True]


def _running(since: datetime) -> FineTuneJobStatus:
    attempt = AttemptStatus(number=1, started=since, running=since)
    return FineTuneJobStatus(attempts=(attempt,), usage=UsageStatus(training_seconds=30, gpu_seconds=0))


def _ended(finished: datetime) -> FineTuneJobStatus:
    attempt = AttemptStatus(number=1, started=finished - timedelta(seconds=5), finished=finished, outcome="PodLost")
    return FineTuneJobStatus(attempts=(attempt,))


# What is left, or was used, when the API server's clock has been set back since a time was written.
_SET_BACK: dict[str, Callable[[datetime], object]] = {
    "no training is undone": lambda now: training_seconds(_running(NOW), now) == 30,
    "no deadline moves away": lambda now: (
        deadline_left(job(activeDeadlineSeconds=60).spec, _running(NOW), now) == timedelta(seconds=30)
    ),
    "no attempt waits": lambda now: next_start(_ended(NOW), now) is None,
    "no time was used": lambda now: spent(_running(NOW).attempts[0], "PodLost", NOW, now).total == 0,
}


@pytest.mark.parametrize("what", _SET_BACK)
def test_times_that_lie_ahead(what: str) -> None:
    assert _SET_BACK[what](NOW - timedelta(hours=5))


@pytest.mark.parametrize("step", HOURS)
@pytest.mark.parametrize("outcome", ["PodLost", "Succeeded"])
def test_what_nodes_with_other_clocks_say_stays_within_the_attempt(step: timedelta, outcome: str) -> None:
    """First step and checkpoint have the time of the pod's node."""
    attempt = AttemptStatus(number=1, started=NOW, running=NOW, first_step=at(10) + step)
    used = spent(attempt, outcome, at(50) + step, at(60))
    assert used.total == 60
    assert 0 <= used.startup <= used.total
    assert 0 <= used.lost <= used.total - used.startup
