"""Deadlines count training only; children of finished jobs go when their time has come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api import progression
from finetune_api.status import FineTuneJobStatus
from finetune_operator.run_policy import children_left, deadline_left, training_seconds
from support.builders import NAME, at, batch_job, job, pod, published_outcome
from support.decisions import PREPARE_DONE, PREPARE_POD, TRAIN_JOB, look, started, told
from support.world import World

LIMIT = {"activeDeadlineSeconds": 60}
GPUS = {"resources": {"nodes": 2, "gpusPerNode": 4}, "hyperparameters": {"globalBatchSize": 8}}
RUNNING = (pod(), pod(index=1))


def running(since: float, **changes: object) -> FineTuneJobStatus:
    """Status of a job whose first attempt, created at 30 s, has had all its pods since some second."""
    return told(look(started(**changes), (batch_job(),), RUNNING, now=since, **changes))


def test_queueing_is_no_training() -> None:
    queued = told(look(started(**LIMIT, **GPUS), (batch_job(),), (pod(),), now=5_000, **LIMIT, **GPUS))
    assert training_seconds(queued, at(5_000)) == 0
    assert queued.state == "Starting"


def test_time_runs_from_the_moment_when_all_pods_run() -> None:
    status = running(100)
    assert progression.open_attempt(status).running == at(100)  # type: ignore[union-attr]
    assert training_seconds(status, at(130)) == 30
    assert deadline_left(job(**LIMIT).spec, status, at(130)) == timedelta(seconds=30)
    assert deadline_left(job().spec, status, at(130)) is None


def test_a_suspension_does_not_start_the_time_anew() -> None:
    status = running(100, **LIMIT, **GPUS)
    suspended = told(look(status, (batch_job(),), RUNNING, now=140, suspend=True, **LIMIT, **GPUS))
    assert suspended.usage
    assert (suspended.usage.training_seconds, suspended.usage.gpu_seconds) == (40, 320)
    assert training_seconds(suspended, at(9_000)) == 40
    assert deadline_left(job(**LIMIT).spec, suspended, at(9_000)) == timedelta(seconds=20)


@pytest.mark.parametrize(("now", "state", "again"), [(159, "Training", 1), (160, "Failed", 0)])
def test_the_job_fails_when_its_time_is_over(now: float, state: str, again: float) -> None:
    decision = look(running(100, **LIMIT, **GPUS), (batch_job(),), RUNNING, now=now, **LIMIT, **GPUS)
    status = told(decision)
    assert (status.state, decision.delete_jobs) == (state, ()), "the status says why before anything is deleted"
    assert decision.requeue_after == timedelta(seconds=again)
    if state == "Failed":
        assert status.failure
        following = look(status, (batch_job(),), RUNNING, now=now, **LIMIT, **GPUS)
        assert following.delete_jobs == (TRAIN_JOB,)
        assert status.failure.words == (
            "training took longer than the 60 s of spec.activeDeadlineSeconds. Create a FineTuneJob of another name "
            "with fewer steps or more time."
        )
        assert status.attempts[-1].outcome == "DeadlineExceeded"
        assert status.usage
        assert (status.usage.training_seconds, status.usage.gpu_seconds) == (60, 480)


def finished(**changes: object) -> FineTuneJobStatus:
    """Status of a job that was complete at 60 s."""
    ended = (pod(phase="Succeeded", exit_code=0, outcome=published_outcome()),)
    return told(look(started(**changes), (batch_job(ended="Complete"),), ended, now=60, **changes))


@pytest.mark.parametrize(
    ("ttl", "now", "children", "again"),
    [
        (None, 10_000, (), None),
        (100, 61, (), 99),
        (100, 160, (f"{NAME}-prepare-1", TRAIN_JOB), None),
        (0, 60, (f"{NAME}-prepare-1", TRAIN_JOB), None),
    ],
)
def test_children_of_a_finished_job(
    ttl: int | None, now: float, children: tuple[str, ...], again: float | None
) -> None:
    changes = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
    jobs = (PREPARE_DONE, batch_job(ended="Complete"))
    decision = look(finished(**changes), jobs, (PREPARE_POD,), now=now, **changes)
    assert decision.delete_children == children
    assert decision.requeue_after == (None if again is None else timedelta(seconds=again))
    assert told(decision).state == "Complete"


def test_a_job_whose_children_are_gone_is_left_alone() -> None:
    changes = {"ttlSecondsAfterFinished": 0}
    decision = look(finished(**changes), now=10_000, **changes)
    assert (decision.delete_children, decision.requeue_after) == ((), None)
    assert children_left(job(**changes).spec, FineTuneJobStatus(), at(0)) is None


def test_the_whole_life_leaves_the_job_alone_and_trains_once() -> None:
    world = World()
    world.change(ttlSecondsAfterFinished=5)
    world.run_to_the_end()
    assert not any(world.kube.of(kind) for kind in ("jobs", "pods", "configmaps", "services", "networkpolicies"))
    assert world.status.state == "Complete"
    assert sum(write.startswith("create Job") for write in world.kube.writes) == 2


@pytest.mark.parametrize("crash_at", range(9))
def test_a_crash_in_the_middle_of_the_cleaning_leaves_nothing(crash_at: int) -> None:
    world = World()
    world.run_to_the_end()
    world.change(ttlSecondsAfterFinished=0)
    world.reconcile(writes_before_the_crash=crash_at)
    world.run_to_the_end()
    assert [write for write in world.kube.writes if write.startswith("create Job")][2:] == []
    assert not any(world.kube.of(kind) for kind in ("jobs", "configmaps", "services", "networkpolicies"))
