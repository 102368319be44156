"""Every branch of the decision about one job."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.conditions import is_true
from finetune_api.outcomes import FailureClass, Stage
from finetune_api.reports import ProgressReport
from finetune_api.status import ConditionType, FineTuneJobStatus
from finetune_operator.decide import Decision, decide
from finetune_operator.observation import observe
from support.builders import (
    NAME,
    POLICY,
    RUN_ID,
    Object,
    artifact,
    at,
    batch_job,
    disrupted,
    failed,
    pod,
    prepare_outcome,
    published_outcome,
    report,
    stored,
    unschedulable,
)

PREPARE_JOB, TRAIN_JOB = f"{NAME}-prepare-1", f"{NAME}-train-1"
PREPARE_DONE = batch_job(Stage.PREPARE, ended="Complete", finished=20)
PREPARE_POD = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome())


def look(
    status: FineTuneJobStatus | None = None,
    jobs: tuple[Object, ...] = (),
    pods: tuple[Object, ...] = (),
    *,
    now: float = 100,
    heard: ProgressReport | None = None,
    generation: int = 1,
    **changes: Any,
) -> Decision:
    """What is decided at some second about a job of which this is seen."""
    wire = status.to_wire() if status else None
    return decide(observe(stored(generation, wire, **changes), jobs, pods, heard, at(now)), POLICY)


def told(decision: Decision) -> FineTuneJobStatus:
    assert decision.status
    return decision.status


def started(**changes: Any) -> FineTuneJobStatus:
    """Status of a job whose first attempt has just been created."""
    return told(look(None, (PREPARE_DONE,), (PREPARE_POD,), now=30, **changes))


def lost(attempts: int, **changes: Any) -> FineTuneJobStatus:
    """Status of a job that lost so many attempts, one a minute."""
    status = started(**changes)
    for number in range(1, attempts + 1):
        status = told(look(status, now=60 * number, **changes))
        if number < attempts:
            done = batch_job(Stage.PREPARE, number + 1, ended="Complete")
            ended = pod(Stage.PREPARE, number + 1, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
            status = told(look(status, (done,), (ended,), now=60 * number + 59, **changes))
    return status


def created(decision: Decision) -> list[str]:
    return [f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in decision.create]


@dataclass(frozen=True)
class Case:
    """What is seen, and what must come of it."""

    state: str
    says: str = ""
    status: FineTuneJobStatus | None = None
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    now: float = 100
    heard: ProgressReport | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    creates: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    again: float | None = None
    outcomes: tuple[str | None, ...] = ()


CONFIG_ERROR = pod(Stage.PREPARE, phase="Pending", waiting=("CreateContainerConfigError", 'secret "keys" not found'))
TWO = {"resources": {"nodes": 2}}
TRAIN_OBJECTS = (f"ConfigMap {TRAIN_JOB}", f"Service {TRAIN_JOB}", f"Job {TRAIN_JOB}")
DATA_ERROR = failed(Stage.PREPARE, FailureClass.DATA_ERROR, "train.jsonl:17: broken JSON")

PREPARING: dict[str, Case] = {
    "a new job is prepared": Case(
        "Preparing", "checking and preparing", creates=(f"ConfigMap {PREPARE_JOB}", f"Job {PREPARE_JOB}")
    ),
    "prepare runs": Case("Preparing", "checking", jobs=(batch_job(Stage.PREPARE),), pods=(pod(Stage.PREPARE),)),
    "prepare cannot be scheduled": Case(
        "Preparing",
        "cannot be scheduled: 0/4 nodes",
        jobs=(batch_job(Stage.PREPARE),),
        pods=(pod(Stage.PREPARE, phase="Pending", conditions=(unschedulable("0/4 nodes"),)),),
    ),
    "prepare waits for its image": Case(
        "Preparing",
        "cannot start: ImagePullBackOff: no such image",
        jobs=(batch_job(Stage.PREPARE),),
        pods=(pod(Stage.PREPARE, phase="Pending", waiting=("ImagePullBackOff", "no such image")),),
    ),
    "a container that is being created is no problem": Case(
        "Preparing",
        "checking",
        jobs=(batch_job(Stage.PREPARE),),
        pods=(pod(Stage.PREPARE, phase="Pending", waiting=("ContainerCreating", "")),),
    ),
    "a Secret may come a little later": Case(
        "Preparing",
        'secret "keys" not found in namespace team-a. Create the Secret',
        jobs=(batch_job(Stage.PREPARE),),
        pods=(CONFIG_ERROR,),
        now=10,
        again=21,
    ),
    "a Secret that does not come fails the job": Case(
        "Failed",
        'secret "keys" not found in namespace team-a. Create the Secret',
        jobs=(batch_job(Stage.PREPARE),),
        pods=(CONFIG_ERROR,),
        now=31,
        deletes=(PREPARE_JOB,),
    ),
    "prepare found an error": Case(
        "Failed",
        "train.jsonl:17: broken JSON. What to do.",
        jobs=(batch_job(Stage.PREPARE, ended="Failed"),),
        pods=(pod(Stage.PREPARE, phase="Failed", exit_code=11, outcome=DATA_ERROR),),
    ),
    "prepare was lost too often": Case(
        "Failed",
        "killed by signal 9",
        jobs=(batch_job(Stage.PREPARE, ended="Failed"),),
        pods=(pod(Stage.PREPARE, phase="Failed", exit_code=137),),
    ),
    "prepare's result was lost with its pod": Case(
        "Preparing", "preparing again", jobs=(PREPARE_DONE,), deletes=(PREPARE_JOB,)
    ),
    "prepare's result was lost, its Job is going": Case(
        "Preparing", "preparing again", jobs=(batch_job(Stage.PREPARE, ended="Complete", deleting=True),)
    ),
    "prepared: training starts": Case(
        "Starting",
        "starting attempt 1",
        jobs=(PREPARE_DONE,),
        pods=(PREPARE_POD,),
        creates=TRAIN_OBJECTS,
        outcomes=(None,),
    ),
    "prepared and published already: adopted": Case(
        "Complete",
        "verified artifact at s3://",
        jobs=(PREPARE_DONE,),
        pods=(pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome(adopted=True)),),
    ),
}

TRAINING: dict[str, Case] = {
    "pods do not exist yet": Case("Starting", "0 of 1 pods", started(), (batch_job(),), outcomes=(None,)),
    "one of two pods runs": Case(
        "Starting", "1 of 2 pods", started(**TWO), (batch_job(),), (pod(),), changes=TWO, outcomes=(None,)
    ),
    "one of two pods cannot be scheduled": Case(
        "Starting",
        "0/4 nodes",
        started(**TWO),
        (batch_job(),),
        (pod(), pod(index=1, phase="Pending", conditions=(unschedulable("0/4 nodes"),))),
        changes=TWO,
        outcomes=(None,),
    ),
    "all pods run": Case(
        "Training",
        "2 of 2 pods are running",
        started(**TWO),
        (batch_job(),),
        (pod(), pod(index=1)),
        changes=TWO,
        outcomes=(None,),
    ),
    "the trainer reports evaluation": Case(
        "Evaluating", "", started(), (batch_job(),), (pod(),), heard=report(stage=Stage.EVALUATE), outcomes=(None,)
    ),
    "the trainer reports publishing": Case(
        "Publishing", "", started(), (batch_job(),), (pod(),), heard=report(stage=Stage.PUBLISH), outcomes=(None,)
    ),
    "a report of another attempt says nothing": Case(
        "Training",
        "",
        started(),
        (batch_job(),),
        (pod(),),
        heard=report(attempt=2, stage=Stage.PUBLISH),
        outcomes=(None,),
    ),
    "a report of an older job of the name says nothing": Case(
        "Training",
        "",
        started(),
        (batch_job(),),
        (pod(),),
        heard=report(uid="older", stage=Stage.PUBLISH),
        outcomes=(None,),
    ),
    "ended well": Case(
        "Complete",
        "verified artifact at s3://",
        started(),
        (batch_job(ended="Complete"),),
        (pod(phase="Succeeded", exit_code=0, outcome=published_outcome()),),
        outcomes=("Succeeded",),
    ),
    "ended well, but the result was lost with the pods": Case(
        "Preparing",
        "looking for it in storage",
        started(),
        (batch_job(ended="Complete"),),
        again=0,
        outcomes=("Unread",),
    ),
    "a pod was lost": Case(
        "Starting",
        "attempt 1 ended: pod",
        started(),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=137, conditions=(disrupted(),)),),
        again=0,
        outcomes=("PodLost",),
    ),
    "a pod was lost, and none may be": Case(
        "Failed",
        "was ended by the cluster",
        started(backoffLimit=0),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=137, conditions=(disrupted(),)),),
        changes={"backoffLimit": 0},
        outcomes=("PodLost",),
    ),
    "the manifest's own fault": Case(
        "Failed",
        "loss is NaN",
        started(),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=13, outcome=failed(Stage.TRAIN, FailureClass.DIVERGED, "loss is NaN")),),
        outcomes=("Diverged",),
    ),
    "the Job was deleted": Case("Starting", "the Job was deleted", started(), again=0, outcomes=("PodLost",)),
    "the Job is being deleted": Case(
        "Starting", "attempt 1 ended", started(), (batch_job(deleting=True),), (pod(),), again=0, outcomes=("PodLost",)
    ),
}

RETRYING: dict[str, Case] = {
    "the first loss is followed at once": Case(
        "Preparing",
        "checking",
        lost(1),
        now=60,
        creates=(f"ConfigMap {NAME}-prepare-2", f"Job {NAME}-prepare-2"),
        outcomes=("PodLost",),
    ),
    "the second waits": Case("Starting", "attempt 3 starts at", lost(2), now=121, again=9, outcomes=("PodLost",) * 2),
    "and then goes on": Case(
        "Preparing",
        "checking",
        lost(2),
        now=130,
        creates=(f"ConfigMap {NAME}-prepare-3", f"Job {NAME}-prepare-3"),
        outcomes=("PodLost",) * 2,
    ),
    "pods of the attempt before are waited for": Case(
        "Starting",
        "waiting for pods of the attempt before",
        lost(1),
        (batch_job(Stage.PREPARE, 2, ended="Complete"),),
        (
            pod(deleted=60),
            pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome()),
        ),
        again=5,
        outcomes=("PodLost",),
    ),
    "pods of this attempt whose Job was deleted unseen are waited for": Case(
        "Starting", "waiting for pods", None, (PREPARE_DONE,), (PREPARE_POD, pod(deleted=50)), again=5
    ),
    "pods of this attempt whose Job was created unseen are its own": Case(
        "Starting",
        "starting attempt 1",
        None,
        (PREPARE_DONE, batch_job()),
        (PREPARE_POD, pod()),
        creates=TRAIN_OBJECTS,
        outcomes=(None,),
    ),
    "the next attempt starts": Case(
        "Starting",
        "starting attempt 2",
        lost(1),
        (batch_job(Stage.PREPARE, 2, ended="Complete"),),
        (pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome()),),
        creates=tuple(f"{kind} {NAME}-train-2" for kind in ("ConfigMap", "Service", "Job")),
        outcomes=("PodLost", None),
    ),
    "the inputs changed meanwhile": Case(
        "Failed",
        f"{RUN_ID} is now r-ffffffffffffffffffff",
        lost(1),
        (batch_job(Stage.PREPARE, 2, ended="Complete"),),
        (pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome(run_id="r-" + "f" * 20)),),
        outcomes=("PodLost",),
    ),
}

SUSPEND = {"suspend": True}
SUSPENDING: dict[str, Case] = {
    "a new job": Case("Suspended", "set it to false", changes=SUSPEND),
    "while preparing": Case(
        "Suspended",
        "waiting for 1 pods",
        None,
        (batch_job(Stage.PREPARE),),
        (pod(Stage.PREPARE),),
        changes=SUSPEND,
        deletes=(PREPARE_JOB,),
    ),
    "while training": Case(
        "Suspended",
        "waiting for 1 pods",
        started(),
        (PREPARE_DONE, batch_job()),
        (pod(),),
        changes=SUSPEND,
        deletes=(TRAIN_JOB,),
        outcomes=("Suspended",),
    ),
    "its Job is going already": Case(
        "Suspended",
        "set it to false",
        started(),
        (batch_job(deleting=True),),
        changes=SUSPEND,
        outcomes=("Suspended",),
    ),
    "its Job is gone already": Case("Suspended", "", started(), changes=SUSPEND, outcomes=("Suspended",)),
    "the Job that the status does not know of": Case(
        "Suspended", "", None, (PREPARE_DONE, batch_job()), (PREPARE_POD,), changes=SUSPEND, deletes=(TRAIN_JOB,)
    ),
    "too late: it had ended well": Case(
        "Complete",
        "",
        started(),
        (batch_job(ended="Complete"),),
        (pod(phase="Succeeded", exit_code=0, outcome=published_outcome()),),
        changes=SUSPEND,
        outcomes=("Succeeded",),
    ),
    "too late: it had failed": Case(
        "Failed",
        "loss is NaN",
        started(),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=13, outcome=failed(Stage.TRAIN, FailureClass.DIVERGED, "loss is NaN")),),
        changes=SUSPEND,
        outcomes=("Diverged",),
    ),
}

CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("preparing", PREPARING),
        ("training", TRAINING),
        ("retrying", RETRYING),
        ("suspending", SUSPENDING),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    case = CASES[name]
    decision = look(case.status, case.jobs, case.pods, now=case.now, heard=case.heard, **case.changes)
    status = told(decision)
    assert status.state
    assert status.state.value == case.state
    assert case.says in " ".join(condition.message for condition in status.conditions)
    assert created(decision) == list(case.creates)
    assert decision.delete_jobs == case.deletes
    assert decision.requeue_after == (None if case.again is None else timedelta(seconds=case.again))
    assert tuple(attempt.outcome for attempt in status.attempts) == case.outcomes
    assert status.start_time
    assert (status.completion_time is not None) is (case.state in ("Complete", "Failed"))


@pytest.mark.parametrize("name", CASES)
def test_same_sight_gives_the_same_decision(name: str) -> None:
    """An operator that crashed before it wrote anything decides the same again."""
    case = CASES[name]
    decisions = [look(case.status, case.jobs, case.pods, now=case.now, heard=case.heard, **case.changes) for _ in "12"]
    assert decisions[0] == decisions[1]


@pytest.mark.parametrize("name", CASES)
def test_generation_is_observed_by_every_decision(name: str) -> None:
    case = CASES[name]
    status = told(look(case.status, case.jobs, case.pods, now=case.now, heard=case.heard, generation=7, **case.changes))
    assert status.observed_generation == 7
    assert {condition.observed_generation for condition in status.conditions} == {7}


@pytest.mark.parametrize("name", CASES)
def test_status_of_every_decision_reads_back(name: str) -> None:
    """What is written must be readable: bounds of the schema hold and nothing is lost on the way."""
    case = CASES[name]
    status = told(look(case.status, case.jobs, case.pods, now=case.now, heard=case.heard, **case.changes))
    assert FineTuneJobStatus.model_validate(status.to_wire()) == status


FINAL = {
    "complete": told(
        look(
            started(),
            (batch_job(ended="Complete"),),
            (pod(phase="Succeeded", exit_code=0, outcome=published_outcome()),),
        )
    ),
    "failed": told(
        look(
            started(backoffLimit=0), (batch_job(ended="Failed"),), (pod(phase="Failed", exit_code=13),), backoffLimit=0
        )
    ),
    "failed while preparing": told(
        look(
            None,
            (batch_job(Stage.PREPARE, ended="Failed"),),
            (pod(Stage.PREPARE, phase="Failed", exit_code=11, outcome=DATA_ERROR),),
        )
    ),
}


@pytest.mark.parametrize("end", FINAL)
@pytest.mark.parametrize(
    "changes", [{}, {"suspend": True}, {"backoffLimit": 9}, {"model": {"source": "nonsense"}}], ids=str
)
def test_a_finished_job_stays_what_it_is(end: str, changes: dict[str, Any]) -> None:
    before = FINAL[end]
    decision = look(before, generation=2, now=9999, **changes)
    assert (decision.create, decision.delete_jobs, decision.requeue_after) == ((), (), None)
    after = told(decision)
    assert after.observed_generation == 2
    unmoved = {"observed_generation": 1, "conditions": before.conditions}
    assert after.model_copy(update=unmoved) == before
    assert [item.last_transition_time for item in after.conditions] == [
        item.last_transition_time for item in before.conditions
    ]


def test_complete_job_has_artifact_evaluation_and_all_stages() -> None:
    status = FINAL["complete"]
    assert status.artifact == artifact()
    assert status.evaluation
    assert status.evaluation.loss_after == "1.25"
    assert [stage.name.value for stage in status.stages] == ["prepare", "train", "evaluate", "publish"]
    assert all(stage.started and stage.finished for stage in status.stages)
    assert status.run_id == RUN_ID


def test_adopted_job_has_the_result_of_the_run_it_adopts() -> None:
    outcome = prepare_outcome(adopted=True)
    adopted = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=outcome)
    status = told(look(None, (PREPARE_DONE,), (adopted,)))
    assert status.artifact == artifact()
    assert status.evaluation
    assert status.attempts == ()
    assert is_true(status.conditions, ConditionType.ARTIFACT_VERIFIED)


def test_failure_is_told_with_class_message_and_remedy() -> None:
    failure = FINAL["failed while preparing"].failure
    assert failure
    assert failure.to_wire() == {
        "class": "DataError",
        "message": "train.jsonl:17: broken JSON",
        "remedy": "what to do",
    }


def test_losses_are_retried_to_the_limit_and_not_beyond() -> None:
    assert told(look(lost(3, backoffLimit=3), now=500, backoffLimit=3)).state == "Preparing"
    status = lost(4, backoffLimit=3)
    assert status.state == "Failed"
    assert [attempt.number for attempt in status.attempts] == [1, 2, 3, 4]


def test_raised_limit_counts_for_the_attempt_under_way() -> None:
    status = told(look(lost(1, backoffLimit=1), now=60, backoffLimit=1))
    ready = pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    status = told(look(status, (batch_job(Stage.PREPARE, 2, ended="Complete"),), (ready,), now=90, backoffLimit=1))
    assert told(look(status, now=120, backoffLimit=1)).state == "Failed"
    assert told(look(status, now=120, backoffLimit=2)).state == "Starting"


def test_resumed_job_prepares_again_and_takes_the_next_number() -> None:
    suspended = told(look(started(), (batch_job(),), (pod(),), suspend=True))
    decision = look(suspended, now=200)
    assert created(decision) == [f"ConfigMap {NAME}-prepare-2", f"Job {NAME}-prepare-2"]
    assert not is_true(told(decision).conditions, ConditionType.SUSPENDED)


def test_suspended_is_true_only_when_every_pod_has_ended() -> None:
    ending = told(look(started(), (batch_job(),), (pod(),), suspend=True))
    assert not is_true(ending.conditions, ConditionType.SUSPENDED)
    assert is_true(ending.conditions, ConditionType.RECONCILING)
    ended = told(look(ending, (), (pod(phase="Failed", exit_code=143),), suspend=True))
    assert is_true(ended.conditions, ConditionType.SUSPENDED)
    assert not is_true(ended.conditions, ConditionType.RECONCILING)


def test_stage_that_was_reached_is_remembered_without_new_reports() -> None:
    """Reports live in the operator's memory: after a restart the status is all there is."""
    running = ((batch_job(),), (pod(),))
    publishing = told(look(started(), *running, heard=report(stage=Stage.PUBLISH)))
    assert told(look(publishing, *running, now=200)).state == "Publishing"


def test_job_being_deleted_is_left_alone() -> None:
    manifest = stored()
    manifest["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:30Z"
    assert decide(observe(manifest, (), (), None, at(0)), POLICY) == Decision(status=None)


UNREADABLE: dict[str, Any] = {"hyperparameters": {"seed": "many"}, "dataset": {"tooLong": "Wrap"}}


class TestSpecOfAnOlderSchema:
    """A spec that the API server took and this version cannot read."""

    def test_fails_with_the_fields(self) -> None:
        status = told(look(None, (), (), **UNREADABLE))
        assert status.state == "Failed"
        assert status.failure
        assert "spec.hyperparameters.seed: Input should be a valid integer" in status.failure.message
        assert "spec.dataset.tooLong: Input should be 'Truncate' or 'Refuse'" in status.failure.message
        assert not is_true(status.conditions, ConditionType.VALIDATED)
        assert is_true(status.conditions, ConditionType.FAILED)

    def test_is_told_once(self) -> None:
        status = told(look(None, (), (), **UNREADABLE))
        assert told(look(status, (), (), now=999, **UNREADABLE)) == status

    def test_ends_what_an_older_operator_started(self) -> None:
        decision = look(started(), (PREPARE_DONE, batch_job()), (pod(),), **UNREADABLE)
        assert decision.delete_jobs == (TRAIN_JOB,)

    def test_message_is_bounded(self) -> None:
        sources = [{"source": "nonsense " + "x" * 500} for _ in range(16)]
        status = told(look(None, (), (), dataset={"train": sources}))
        assert status.failure
        assert len(status.failure.message) <= 2048


def test_status_that_cannot_be_read_counts_as_none() -> None:
    manifest = stored(status={"state": "Dreaming", "attempts": "many"})
    decision = decide(observe(manifest, (), (), None, at(0)), POLICY)
    assert created(decision) == [f"ConfigMap {PREPARE_JOB}", f"Job {PREPARE_JOB}"]
