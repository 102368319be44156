"""Decisions before training: preparing, adopting, waiting for a Secret."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import Stage
from support.builders import batch_job, pod, prepare_outcome, unschedulable
from support.decisions import DATA_ERROR, PREPARE_DONE, PREPARE_JOB, PREPARE_POD, TRAIN_OBJECTS, Case, check

CONFIG_ERROR = pod(Stage.PREPARE, phase="Pending", waiting=("CreateContainerConfigError", 'secret "keys" not found'))
NO_CLAIM = '0/4 nodes are available: persistentvolumeclaim "zoo" not found. not found'

CASES: dict[str, Case] = {
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
    "prepare waits for a claim that does not exist": Case(
        "Preparing",
        "the PersistentVolumeClaim 'zoo' does not exist in namespace team-a. Create it, and the job goes on",
        jobs=(batch_job(Stage.PREPARE),),
        pods=(pod(Stage.PREPARE, phase="Pending", conditions=(unschedulable(NO_CLAIM),)),),
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
        'secret "keys" not found in namespace team-a. Create the Secret in the namespace of the job, and once the job '
        "has failed create the FineTuneJob again. It is waited for until 2026-03-01 12:00:30 UTC.",
        jobs=(batch_job(Stage.PREPARE),),
        pods=(CONFIG_ERROR,),
        now=10,
        again=3,
    ),
    "a Secret that does not come fails the job": Case(
        "Failed",
        'secret "keys" not found in namespace team-a. Create the Secret',
        jobs=(batch_job(Stage.PREPARE),),
        pods=(CONFIG_ERROR,),
        now=31,
        again=0,
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


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    check(CASES[name])
