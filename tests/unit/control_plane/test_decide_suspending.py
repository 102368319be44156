"""Decisions about a job that is suspended."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import FailureClass, Stage
from support.builders import batch_job, failed, pod, published_outcome
from support.decisions import PREPARE_DONE, PREPARE_JOB, PREPARE_POD, TRAIN_JOB, Case, check, started

SUSPEND = {"suspend": True}
CASES: dict[str, Case] = {
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


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    check(CASES[name])
