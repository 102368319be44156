"""Pods on nodes that do not answer must not be waited for for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass, Stage
from finetune_operator.hearing import Silence
from support.builders import NAME, batch_job, failed, pod, prepare_outcome
from support.decisions import PREPARE_JOB, TRAIN_JOB, TWO, Case, check, decided, lost, started, told

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

RUNS = pod(Stage.PREPARE, node="node-a", created=5)
ENDING = pod(Stage.PREPARE, node="node-a", deleted=60)


def _preparing(state: str, says: str, silence: Silence | None = None, **rest: Any) -> Case:
    return Case(state, says, **({"jobs": (batch_job(Stage.PREPARE),), "pods": (RUNS,), "silence": silence} | rest))


def _silent(minutes: float, spoken: bool = True) -> Silence:
    return Silence(timedelta(minutes=minutes), spoken)


PREPARING: dict[str, Case] = {
    "it was heard of lately": _preparing("Preparing", "checking", _silent(10)),
    "it is heard of no more": _preparing(
        "Starting",
        f"attempt 1 ended: prepare pod {RUNS['metadata']['name']} on node node-a runs and has not said for 10 min that",
        _silent(10.1),
        again=0,
        outcomes=("PodLost",),
    ),
    "it may not reach the operator": _preparing("Preparing", "checking", _silent(59, spoken=False)),
    "it was never heard of": _preparing(
        "Starting", "has not been heard of for 61 min", _silent(61, spoken=False), again=0, outcomes=("PodLost",)
    ),
    "the silence is that of a pod of the attempt before": _preparing(
        "Preparing",
        "checking",
        _silent(999),
        status=lost(1),
        jobs=(batch_job(Stage.PREPARE, 2),),
        pods=(RUNS,),
        now=120,
        outcomes=("PodLost",),
    ),
    "too many were lost": _preparing(
        "Failed",
        "runs and has not said for 999 min that it gets on. See what ended the pods",
        _silent(999),
        changes={"backoffLimit": 0},
        again=0,
        outcomes=("PodLost",),
    ),
    "it was told to end and may still": _preparing("Preparing", "checking", pods=(ENDING,), now=150),
    "it was told to end and will not": _preparing(
        "Starting", SILENCE, pods=(ENDING,), now=151, again=0, outcomes=("NodeLost",)
    ),
}


@pytest.mark.parametrize("name", PREPARING)
def test_lost_prepare_pods(name: str) -> None:
    check(PREPARING[name])


def test_the_next_attempt_prepares_beside_a_prepare_pod_that_never_ends() -> None:
    """Its Job is deleted; what its node says of the pod holds nothing up. Two such losses mark the node."""
    status, jobs = told(decided(Case("Preparing"))), (batch_job(Stage.PREPARE),)
    for number in (1, 2):
        running = pod(Stage.PREPARE, number, node="node-a")
        ended = Case("Starting", status=status, jobs=jobs, pods=(running,), silence=_silent(11), now=100 * number)
        status, jobs = told(decided(ended)), (batch_job(Stage.PREPARE, number + 1),)
        assert status.attempts[-1].node == "node-a"
    after = decided(Case("Preparing", status=status, jobs=(batch_job(Stage.PREPARE, 2),), pods=(running,), now=900))
    assert after.delete_jobs == (PREPARE_JOB.replace("-1", "-2"),)
    made = after.create[-1]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = made["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchFields"][0]["values"] == ["node-a"]


@pytest.mark.parametrize("name", CASES)
def test_lost_pods(name: str) -> None:
    check(CASES[name])


def test_the_job_of_a_lost_pod_is_deleted() -> None:
    """Its controller waits for the pod; the look after the one that ended the attempt removes it."""
    ended = told(decided(CASES["it will not end"]))
    after = Case("Preparing", status=ended, jobs=(batch_job(),), pods=(ECHO, SILENT), now=152, changes=TWO)
    assert decided(after).delete_jobs == (TRAIN_JOB,)
