"""Which report counts, and how reports become status writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.reports import ProgressReport
from finetune_api.results import Checkpoint
from finetune_operator import progress as module
from finetune_operator.errors import KubeError
from finetune_operator.progress import ProgressWriter, Reports
from support.builders import NAME, NAMESPACE, UID, progress, report, stored
from support.fake_kube import FakeKube, put_job

KEY = (NAMESPACE, NAME)
WRITE = f"status of {NAME} by finetune-operator-progress"


def _accepted(*reports: ProgressReport) -> tuple[Reports, list[Stage | None]]:
    known = Reports()
    return known, [known.accept(*KEY, item) for item in reports]


@pytest.mark.parametrize(
    ("first", "second", "newer"),
    [
        ((1, 0), (1, 1), True),
        ((1, 5), (1, 4), False),
        ((1, 5), (1, 5), False),
        ((1, 9), (2, 0), True),
        ((2, 0), (1, 9), False),
    ],
)
def test_attempt_and_then_sequence_decide(first: tuple[int, int], second: tuple[int, int], newer: bool) -> None:
    known, _ = _accepted(report(*first, step=1), report(*second, step=2))
    newest = known.newest(*KEY)
    assert newest
    assert (newest.attempt, newest.sequence) == (second if newer else first)


def test_a_newer_pod_of_the_attempt_counts_though_its_node_is_hours_behind() -> None:
    known = Reports()
    earlier, later = "2026-03-01T12:00:00Z", "2026-03-01T12:10:00Z"
    known.accept(*KEY, report(1, 1_000_000, step=5), earlier)
    known.accept(*KEY, report(1, 10, step=6), later)
    # What its predecessor still had to say comes too late.
    known.accept(*KEY, report(1, 1_000_001, step=7), earlier)
    newest = known.newest(*KEY)
    assert newest
    assert (newest.sequence, newest.progress and newest.progress.step) == (10, 6)
    known.forget(*KEY)
    known.accept(*KEY, report(1, 1, step=1), earlier)
    assert known.newest(*KEY)


def test_pods_that_a_queue_let_go_again_tell_from_where_they_went_on() -> None:
    again = (report(1, sequence).model_copy(update={"resumed_from_step": 3}) for sequence in (9, 10))
    _, stages = _accepted(report(1, 5), *again)
    assert stages == [Stage.TRAIN, Stage.TRAIN, None]


def test_new_stage_is_told_once() -> None:
    _, stages = _accepted(
        report(1, 0),
        report(1, 1),
        report(1, 3, Stage.EVALUATE),
        report(1, 2),
        report(1, 4, Stage.EVALUATE),
        report(2, 0),
    )
    assert stages == [Stage.TRAIN, None, Stage.EVALUATE, None, None, Stage.TRAIN]


def test_report_without_progress_keeps_what_was_known() -> None:
    known, _ = _accepted(report(1, 0, step=4), report(1, 1, Stage.PUBLISH, step=None))
    newest = known.newest(*KEY)
    assert newest
    assert newest.stage is Stage.PUBLISH
    assert newest.progress == progress(4)


def test_progress_of_another_attempt_is_not_kept() -> None:
    known, _ = _accepted(report(1, 0, step=4), report(2, 0, step=None))
    newest = known.newest(*KEY)
    assert newest
    assert newest.progress is None


def test_new_job_of_the_same_name_starts_anew() -> None:
    known, stages = _accepted(report(3, 9), report(1, 0, uid="another"))
    newest = known.newest(*KEY)
    assert newest
    assert newest.uid == "another"
    assert stages == [Stage.TRAIN, Stage.TRAIN]


def test_jobs_are_kept_apart_and_forgotten() -> None:
    known, _ = _accepted(report())
    assert known.newest("other", NAME) is None
    known.forget(*KEY)
    known.forget(*KEY)
    assert known.newest(*KEY) is None


class _Sleeps:
    """Stands in for asyncio.sleep: the writer waits until the test lets the interval pass."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._passed = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._passed.clear()
        await self._passed.wait()

    def let_go(self) -> None:
        self._passed.set()

    async def interval(self) -> None:
        self.let_go()
        await _idle()


_REAL_SLEEP = asyncio.sleep


async def _idle() -> None:
    for _ in range(20):
        await _REAL_SLEEP(0)


class _Bench:
    def __init__(self, sleeps: _Sleeps) -> None:
        self.kube = FakeKube()
        put_job(self.kube, stored())
        self.reports = Reports()
        self.writer = ProgressWriter(self.kube, self.reports)
        self.sleeps = sleeps

    def hear(self, sequence: int, **changes: Any) -> None:
        self.reports.accept(*KEY, report(1, sequence, step=sequence + 1, **changes))
        self.writer.notice(*KEY)

    @property
    def written_step(self) -> int:
        return int(self.kube.job()["status"]["progress"]["step"])


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Bench]:
    sleeps = _Sleeps()
    with monkeypatch.context() as patch:
        patch.setattr(module.asyncio, "sleep", sleeps)
        made = _Bench(sleeps)
        yield made
        await made.writer.close()


async def test_first_report_is_written_at_once(bench: _Bench) -> None:
    bench.hear(0)
    await _idle()
    assert bench.kube.writes == [WRITE]
    assert bench.kube.job()["status"] == {"progress": progress(1).to_wire()}


async def test_many_reports_are_one_write_per_interval(bench: _Bench) -> None:
    for sequence in range(50):
        bench.hear(sequence)
        await _idle()
    assert (bench.kube.writes, bench.written_step) == ([WRITE], 1)
    await bench.sleeps.interval()
    assert (bench.kube.writes, bench.written_step) == ([WRITE] * 2, 50)
    assert bench.sleeps.asked == [5.0, 5.0]


async def test_nothing_new_is_not_written(bench: _Bench) -> None:
    bench.hear(0)
    await _idle()
    await bench.sleeps.interval()
    await bench.sleeps.interval()
    assert bench.kube.writes == [WRITE]


async def test_report_after_a_pause_is_written_at_once(bench: _Bench) -> None:
    bench.hear(0)
    await _idle()
    await bench.sleeps.interval()
    bench.hear(1)
    await _idle()
    assert bench.written_step == 2


@pytest.mark.parametrize("steps", range(8))
async def test_report_that_comes_as_the_writer_ends_is_written(bench: _Bench, steps: int) -> None:
    """The last report of a job is the one that people look at: it must not fall between two tasks."""
    bench.hear(0)
    await _idle()
    bench.sleeps.let_go()
    for _ in range(steps):
        await _REAL_SLEEP(0)
    bench.hear(1)
    await _idle()
    await bench.sleeps.interval()
    assert bench.written_step == 2


async def test_report_without_progress_writes_nothing(bench: _Bench) -> None:
    bench.reports.accept(*KEY, report(step=None))
    bench.writer.notice(*KEY)
    await _idle()
    assert bench.kube.writes == []


async def test_failed_write_is_tried_again_after_the_interval(bench: _Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.kube.refuse = [KubeError(500, "InternalError", "etcd is away")]
    bench.hear(0)
    await _idle()
    assert bench.kube.writes == []
    assert "etcd is away" in caplog.text
    await bench.sleeps.interval()
    assert bench.written_step == 1


@pytest.mark.parametrize("uid", [None, "another"])
async def test_job_that_is_gone_or_another_is_not_written_again(bench: _Bench, uid: str | None) -> None:
    if uid is None:
        bench.kube.objects.clear()
    else:
        bench.kube.job()["metadata"]["uid"] = uid
    bench.hear(0)
    await _idle()
    assert bench.kube.writes == []
    assert bench.sleeps.asked == []


async def test_jobs_do_not_wait_for_each_other(bench: _Bench) -> None:
    other = stored()
    other["metadata"]["name"] = "other"
    put_job(bench.kube, other)
    bench.hear(0)
    bench.reports.accept(NAMESPACE, "other", report())
    bench.writer.notice(NAMESPACE, "other")
    await _idle()
    assert sorted(bench.kube.writes) == [WRITE, WRITE.replace(NAME, "other")]


async def test_nothing_is_kept_of_a_job_that_has_gone_quiet(bench: _Bench) -> None:
    bench.hear(0)
    await _idle()
    await bench.sleeps.interval()
    bench.reports.forget(*KEY)
    assert vars(bench.writer)["_tasks"] == {}
    assert vars(bench.writer)["_written"] == {}


async def test_checkpoint_stays_when_the_next_attempt_has_none_yet(bench: _Bench) -> None:
    saved = Checkpoint(step=40, time=datetime(2026, 1, 1, tzinfo=UTC), uri="s3://bucket/step-40", world_size=2)
    bench.reports.accept(*KEY, report(1, 0).model_copy(update={"checkpoint": saved}))
    bench.writer.notice(*KEY)
    await _idle()
    bench.reports.accept(*KEY, report(2, 0, step=2))
    await bench.sleeps.interval()
    status = bench.kube.job()["status"]
    assert status["checkpoint"] == {
        "step": 40,
        "time": "2026-01-01T00:00:00Z",
        "uri": "s3://bucket/step-40",
        "worldSize": 2,
    }
    assert bench.written_step == 2


async def test_progress_has_a_field_manager_of_its_own(bench: _Bench) -> None:
    await bench.kube.apply_status({**stored(), "status": {"state": "Training"}}, "finetunejobs", "finetune-operator")
    bench.hear(0)
    await _idle()
    assert set(bench.kube.job()["status"]) == {"state", "progress"}
    assert bench.kube.job()["metadata"]["uid"] == UID
