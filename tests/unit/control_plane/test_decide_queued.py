"""Decisions about a job whose pods a queue holds back, takes away, and lets go again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.status import Condition, ConditionType, FineTuneJobStatus, Reason
from finetune_operator.decide import Decision
from finetune_operator.workloads import Workload
from support.builders import Object, at, batch_job, pod
from support.decisions import PREPARE_DONE, PREPARE_POD, TRAIN_JOB, Case, check, look, started, told

QUEUE: dict[str, Any] = {"queueName": "team", "resources": {"nodes": 2}}
WAITS = batch_job(queue="team", suspended=True)
SHORT_OF_QUOTA = Workload("job-haiku", waits_for="insufficient unused quota for nvidia.com/gpu, 2 more needed")


def admitted(at_second: float = 40) -> Object:
    return batch_job(queue="team", admitted=at_second)


def gang(created: float, **more: Any) -> tuple[Object, ...]:
    return tuple(pod(index=index, created=created, **more) for index in range(2))


def trained(until: float) -> FineTuneJobStatus:
    """Status of a job that was admitted at 40 s, ran from 50 s on, and was taken away at some second."""
    running = told(look(started(**QUEUE), (admitted(),), gang(41), now=50, **QUEUE))
    return told(look(running, (WAITS,), gang(41, deleted=until), now=until, **QUEUE))


def running_of(status: FineTuneJobStatus) -> Condition:
    return next(item for item in status.conditions if item.type is ConditionType.RUNNING)


CASES: dict[str, Case] = {
    "its Job has just been made": Case(
        "Queued",
        "waits in queue team: Kueue has not taken it up yet",
        started(**QUEUE),
        (WAITS,),
        changes=QUEUE,
        again=15,
        outcomes=(None,),
    ),
    "there is no quota left": Case(
        "Queued",
        "waits in queue team: insufficient unused quota for nvidia.com/gpu, 2 more needed",
        started(**QUEUE),
        (WAITS,),
        workload=SHORT_OF_QUOTA,
        changes=QUEUE,
        again=15,
        outcomes=(None,),
    ),
    "an administrator has stopped it": Case(
        "Queued",
        "Workload job-haiku is not active",
        started(**QUEUE),
        (WAITS,),
        workload=Workload("job-haiku", active=False),
        changes=QUEUE,
        again=15,
        outcomes=(None,),
    ),
    "Kueue takes every Job and there is no queue": Case(
        "Queued",
        "is suspended and in no queue: set spec.queueName",
        started(),
        (batch_job(suspended=True),),
        again=15,
        outcomes=(None,),
    ),
    "the queue of the namespace took it": Case(
        "Queued",
        "waits in queue default",
        started(),
        (batch_job(queue="default", suspended=True),),
        again=15,
        outcomes=(None,),
    ),
    "prepare is held back too": Case(
        "Preparing",
        "the prepare Job waits in queue default: no quota",
        None,
        (batch_job(Stage.PREPARE, queue="default", suspended=True),),
        workload=Workload("w", waits_for="no quota."),
        again=15,
    ),
    "admitted": Case(
        "Starting",
        "0 of 2 pods are running",
        started(**QUEUE),
        (admitted(),),
        changes=QUEUE,
        outcomes=(None,),
    ),
    "its pods run": Case("Training", "", started(**QUEUE), (admitted(),), gang(41), changes=QUEUE, outcomes=(None,)),
    "taken away": Case(
        "Queued",
        "waits in queue team: 2 pods save a checkpoint and end: Preempted to accommodate a workload",
        trained(70),
        (WAITS,),
        gang(41, deleted=70),
        workload=Workload("w", evicted="Preempted to accommodate a workload"),
        changes=QUEUE,
        again=15,
        outcomes=(None,),
    ),
    "admitted again while its old pods end": Case(
        "Starting",
        "0 of 2 pods are running",
        trained(70),
        (admitted(90),),
        gang(41, deleted=70, phase="Failed", exit_code=17),
        changes=QUEUE,
        outcomes=(None,),
    ),
    "it runs again": Case("Training", "", trained(70), (admitted(90),), gang(91), changes=QUEUE, outcomes=(None,)),
    "taken away when half of it was done": Case(
        "Starting",
        "some had done their work already",
        trained(70),
        (WAITS,),
        (pod(phase="Succeeded", exit_code=0), pod(index=1, deleted=70)),
        changes=QUEUE,
        again=0,
        outcomes=("Preempted",),
    ),
    "it moves to another queue": Case(
        "Queued",
        "moving from queue team to other",
        started(**QUEUE),
        (WAITS,),
        changes=QUEUE | {"queueName": "other"},
        again=0,
        outcomes=("Suspended",),
    ),
    "suspended by its owner while it waits": Case(
        "Suspended",
        "",
        started(**QUEUE),
        (WAITS,),
        changes=QUEUE | {"suspend": True},
        deletes=(TRAIN_JOB,),
        outcomes=("Suspended",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    check(CASES[name])


def test_time_in_the_queue_is_no_training_time() -> None:
    status = trained(70)
    assert status.usage
    assert status.usage.training_seconds == 20, "from 50 s to 70 s"
    later = told(look(status, (WAITS,), now=5000, activeDeadlineSeconds=60, **QUEUE))
    assert later.usage == status.usage
    again = told(look(later, (admitted(6000),), gang(6001), now=6010, activeDeadlineSeconds=60, **QUEUE))
    assert running_of(again).reason is Reason.TRAINING
    assert look(again, (admitted(6000),), gang(6001), now=6020, activeDeadlineSeconds=60, **QUEUE).requeue_after == (
        timedelta(seconds=30)
    ), "60 s less the 20 s of the first time and the 10 s of the second"


def test_being_taken_away_is_counted_once_and_costs_no_retry() -> None:
    status = trained(70)
    for now in (71, 72):
        status = told(look(status, (WAITS,), gang(41, deleted=70, phase="Failed", exit_code=15), now=now, **QUEUE))
    (attempt,) = status.attempts
    assert (attempt.evictions, attempt.outcome, attempt.running, status.losses) == (1, None, None, None)
    assert [stage.name for stage in status.stages] == [Stage.PREPARE]
    assert running_of(status).reason is Reason.REQUEUED


def test_what_the_first_pods_said_while_they_ended_does_not_count_against_the_next_ones() -> None:
    running = told(look(started(**QUEUE), (admitted(),), gang(41), now=50, **QUEUE))
    killed = gang(41, phase="Failed", exit_code=137, deleted=69)
    (known,) = told(look(running, (admitted(),), killed, now=69, **QUEUE)).attempts
    assert known.outcome == "PodLost"
    status = told(look(running, (WAITS,), killed, now=70, **QUEUE))
    (again,) = told(look(status, (admitted(90),), (*killed, *gang(91)), now=95, **QUEUE)).attempts
    assert (again.outcome, again.message, again.running) == (None, None, at(95))


def test_the_job_of_a_queue_is_created_suspended() -> None:
    *_, made = look(None, (PREPARE_DONE,), (PREPARE_POD,), now=30, **QUEUE).create
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert made["spec"]["suspend"] is True


@pytest.mark.parametrize(("manager", "ours"), [(None, True), ("finetune.dev/operator", True), ("example.com/x", False)])
def test_a_job_of_another_controller_is_left_alone(manager: str | None, ours: bool) -> None:
    decision = look(managedBy=manager) if manager else look()
    assert (decision.status is not None) is ours
    assert bool(decision.create) is ours


def test_a_finished_job_of_another_controller_keeps_its_children() -> None:
    done = batch_job(ended="Complete")
    assert look(started(), (done,), managedBy="example.com/x") == Decision(status=None)
