"""Decisions while an attempt is under way, when it ends, and before the next one."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import progression
from finetune_api.outcomes import FailureClass, Stage
from finetune_api.plan import RunPlan
from finetune_api.status import AttemptStatus, FineTuneJobStatus
from finetune_operator.decide import Decision
from support.builders import (
    NAME,
    RUN_ID,
    Object,
    at,
    batch_job,
    disrupted,
    failed,
    pod,
    prepare_outcome,
    published_outcome,
    report,
    unschedulable,
)
from support.decisions import (
    PREPARE_DONE,
    PREPARE_POD,
    TRAIN_JOB,
    TRAIN_OBJECTS,
    TWO,
    Case,
    check,
    look,
    lost,
    started,
    told,
)

NAN = failed(Stage.TRAIN, FailureClass.DIVERGED, "loss is NaN")
NO_IMAGE = pod(phase="Pending", waiting=("ImagePullBackOff", "no such image"), scheduled=50, node="node-1")
FOUR_AT_A_TIME = {"deepspeed": {"microBatchSize": 4}, "hyperparameters": {"globalBatchSize": 8}}

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
        outcomes=("Disrupted",),
    ),
    "a pod was lost, and none may be": Case(
        "Failed",
        "was killed by signal 9",
        started(backoffLimit=0),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=137),),
        changes={"backoffLimit": 0},
        outcomes=("PodLost",),
    ),
    "what the cluster takes does not count": Case(
        "Starting",
        "EvictionByEvictionAPI",
        started(backoffLimit=0),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=17, conditions=(disrupted(),)),),
        changes={"backoffLimit": 0},
        again=0,
        outcomes=("Disrupted",),
    ),
    "one of two pods has failed, the other still ends": Case(
        "Training",
        "",
        started(**TWO),
        (batch_job(),),
        (pod(phase="Failed", exit_code=13, outcome=NAN), pod(index=1)),
        changes=TWO,
        outcomes=("Diverged",),
    ),
    "the pods are gone, but their end was seen": Case(
        "Failed",
        "loss is NaN",
        told(look(started(), (batch_job(),), (pod(phase="Failed", exit_code=13, outcome=NAN),))),
        (batch_job(ended="Failed"),),
        (),
        outcomes=("Diverged",),
    ),
    "a placed pod cannot pull its image yet": Case(
        "Starting", "no such image", started(), (batch_job(),), (NO_IMAGE,), again=551, outcomes=(None,)
    ),
    "a placed pod cannot pull its image": Case(
        "Starting",
        "attempt 1 ended",
        started(),
        (batch_job(),),
        (NO_IMAGE,),
        now=651,
        again=0,
        outcomes=("ImagePull",),
    ),
    "what lives on beyond its attempt is deleted": Case(
        "Preparing",
        "checking",
        lost(1),
        (batch_job(),),
        now=60,
        creates=(f"ConfigMap {NAME}-prepare-2", f"Job {NAME}-prepare-2"),
        deletes=(TRAIN_JOB,),
        outcomes=("PodLost",),
    ),
    "a Secret is gone": Case(
        "Failed",
        "not found",
        started(),
        (batch_job(),),
        (pod(phase="Pending", waiting=("CreateContainerConfigError", 'secret "keys" not found'), scheduled=50),),
        again=0,
        outcomes=("SecretMissing",),
    ),
    "half a gang is not kept for ever": Case(
        "Starting",
        "could not be placed for 5.6 min",
        started(**TWO),
        (batch_job(),),
        (pod(scheduled=50), pod(index=1, phase="Pending", conditions=(unschedulable("0/4 nodes"),))),
        now=386,
        changes=TWO,
        again=0,
        outcomes=("Unschedulable",),
    ),
    "a whole gang waits as long as it takes": Case(
        "Starting",
        "0/4 nodes",
        started(),
        (batch_job(),),
        (pod(phase="Pending", conditions=(unschedulable("0/4 nodes"),)),),
        now=99_999,
        outcomes=(None,),
    ),
    "memory ran out": Case(
        "Starting",
        "attempt 1 ended",
        started(**FOUR_AT_A_TIME),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=12),),
        changes=FOUR_AT_A_TIME,
        again=0,
        outcomes=("OutOfMemory",),
    ),
    "memory ran out, and nothing is left to make smaller": Case(
        "Failed",
        "Raise spec.resources.memory",
        started(),
        (batch_job(ended="Failed"),),
        (pod(phase="Failed", exit_code=12),),
        outcomes=("OutOfMemory",),
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

CASES = TRAINING | RETRYING


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    check(CASES[name])


def _after(status: FineTuneJobStatus, *pods: Object, **changes: Any) -> FineTuneJobStatus:
    """The status when the first attempt has failed."""
    return told(look(status, (batch_job(ended="Failed"),), pods, **changes))


def _plan_of_the_next(status: FineTuneJobStatus, **changes: Any) -> tuple[FineTuneJobStatus, Decision]:
    ready = pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    decision = look(status, (batch_job(Stage.PREPARE, 2, ended="Complete"),), (ready,), **changes)
    return told(decision), decision


def test_attempt_after_memory_ran_out_has_half_the_rows_and_the_same_batch() -> None:
    status = _after(started(**FOUR_AT_A_TIME), pod(phase="Failed", exit_code=12, node="node-1"), **FOUR_AT_A_TIME)
    assert status.attempts[0].node == "node-1"
    assert status.attempts[0].change == "microBatchSize 4 -> 2, gradient accumulation 4: memory ran out"
    status, decision = _plan_of_the_next(status, **FOUR_AT_A_TIME)
    assert status.plan
    assert (status.plan.micro_batch_size, status.plan.gradient_accumulation_steps) == (2, 4)
    plan = RunPlan.model_validate_json(decision.create[0]["data"]["plan.json"])
    assert plan.spec.deepspeed.micro_batch_size == 2
    assert plan.spec.hyperparameters.global_batch_size == 8
    assert plan.adjustments == {"spec.deepspeed.microBatchSize": "4 ran out of memory"}


def test_node_that_ended_two_attempts_is_avoided() -> None:
    status = _after(started(), pod(phase="Failed", exit_code=137, node="bad"))
    assert status.plan
    assert status.plan.avoided_nodes == ()
    status, _ = _plan_of_the_next(status)
    status = told(look(status, (batch_job(attempt=2, ended="Failed"),), (pod(attempt=2, exit_code=137, node="bad"),)))
    assert status.attempts[1].change == "node bad is avoided: it ended two attempts"
    ready = pod(Stage.PREPARE, 3, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    decision = look(status, (batch_job(Stage.PREPARE, 3, ended="Complete"),), (ready,), now=900)
    affinity = decision.create[-1]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}]}


def test_damaged_checkpoints_are_told() -> None:
    heard = report().model_copy(update={"damaged": ("step-000000040-ab",)})
    status = told(look(started(), (batch_job(),), (pod(),), heard=heard))
    assert status.attempts[0].damaged_checkpoints == ("step-000000040-ab",)


def test_step_that_the_trainer_resumed_from_is_told() -> None:
    heard = report().model_copy(update={"resumed_from_step": 40})
    status = told(look(started(), (batch_job(),), (pod(),), heard=heard))
    assert status.attempts[0].resumed_from_step == 40
    older = report(uid="older").model_copy(update={"resumed_from_step": 40})
    assert told(look(started(), (batch_job(),), (pod(),), heard=older)).attempts[0].resumed_from_step is None


def test_a_thousand_suspensions_leave_the_first_and_the_last() -> None:
    status = started()
    for number in range(1, 1002):
        status = progression.with_attempt(status, AttemptStatus(number=number, started=at(number)))
        status = progression.ended_attempt(status, number, "Suspended", "spec.suspend is true", at(number))
    assert [attempt.number for attempt in status.attempts] == [*range(1, 21), *range(922, 1002)]
    assert progression.attempt_number(status) == 1002
    assert len(status.to_json()) < 64 * 1024
