"""Pods on nodes that do not answer must not be waited for for ever."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import FailureClass, Stage
from support.builders import NAME, batch_job, failed, pod, prepare_outcome
from support.decisions import TRAIN_JOB, TWO, Case, check, decided, lost, started, told

# Asked to end at second 60 with 30 s of grace, and given up a minute after that.
SILENT = pod(deleted=60, node="node-a", index=1)
ECHO = pod(phase="Failed", exit_code=15, finished=61, outcome=failed(Stage.TRAIN, FailureClass.RENDEZVOUS, "lost"))
KILLED = pod(phase="Failed", exit_code=137, finished=59, node="node-b")
SILENCE = "was told to end and did not: its node node-a does not answer"

CASES: dict[str, Case] = {
    "it may still end": Case(
        "Training", "2 of 2", started(**TWO), (batch_job(),), (ECHO, SILENT), now=150, changes=TWO, outcomes=(None,)
    ),
    "it will not end": Case(
        "Starting",
        SILENCE,
        started(**TWO),
        (batch_job(),),
        (ECHO, SILENT),
        now=151,
        changes=TWO,
        again=0,
        outcomes=("NodeLost",),
    ),
    "another one says why": Case(
        "Starting",
        "killed by signal 9",
        started(**TWO),
        (batch_job(),),
        (KILLED, SILENT),
        now=151,
        changes=TWO,
        again=0,
        outcomes=("PodLost",),
    ),
    "while others run it is not over": Case(
        "Training", "2 of 2", started(**TWO), (batch_job(),), (pod(), SILENT), now=151, changes=TWO, outcomes=(None,)
    ),
    "the next attempt does not wait for it": Case(
        "Starting",
        "starting attempt 2",
        lost(1),
        (batch_job(Stage.PREPARE, 2, ended="Complete"),),
        (SILENT, pod(Stage.PREPARE, 2, phase="Succeeded", exit_code=0, outcome=prepare_outcome())),
        now=151,
        creates=tuple(f"{kind} {NAME}-train-2" for kind in ("ConfigMap", "Service", "Job")),
        outcomes=("PodLost", None),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lost_pods(name: str) -> None:
    check(CASES[name])


def test_the_job_of_a_lost_pod_is_deleted() -> None:
    """Its controller waits for the pod; the look after the one that ended the attempt removes it."""
    ended = told(decided(CASES["it will not end"]))
    after = Case("Preparing", status=ended, jobs=(batch_job(),), pods=(ECHO, SILENT), now=152, changes=TWO)
    assert decided(after).delete_jobs == (TRAIN_JOB,)
