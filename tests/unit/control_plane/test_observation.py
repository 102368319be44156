"""Reading Jobs and pods as the API server shows them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass, Stage
from finetune_operator.observation import ChildJob, Object, Pod, observe, parse_time, read_job, read_outcome, read_pod
from support.builders import (
    NAME,
    NOW,
    at,
    batch_job,
    disrupted,
    failed,
    pod,
    prepare_outcome,
    report,
    stored,
    unschedulable,
)

JOBS: dict[str, tuple[Object, dict[str, Any]]] = {
    "new": (batch_job(), {}),
    "complete": (batch_job(ended="Complete", finished=90), {"finished": at(90), "succeeded": True}),
    "failed": (
        batch_job(ended="Failed", finished=70, message="Job has reached the specified backoff limit"),
        {"finished": at(70), "message": "Job has reached the specified backoff limit"},
    ),
    "being deleted": (batch_job(deleting=True), {"deleting": True}),
    "of another attempt": (batch_job(attempt=3), {"name": f"{NAME}-train-3", "attempt": 3}),
    "of prepare": (batch_job(Stage.PREPARE), {"name": f"{NAME}-prepare-1", "stage": Stage.PREPARE}),
}


@pytest.mark.parametrize("case", JOBS)
def test_job(case: str) -> None:
    manifest, expected = JOBS[case]
    base = {"name": f"{NAME}-train-1", "stage": Stage.TRAIN, "attempt": 1, "created": NOW}
    assert read_job(manifest) == ChildJob(**base | expected)


def test_job_whose_end_is_only_announced_has_not_ended() -> None:
    """FailureTarget comes first; the Job is Failed when its pods have ended."""
    manifest = batch_job()
    manifest["status"]["conditions"] = [{"type": "FailureTarget", "status": "True", "lastTransitionTime": "x"}]
    assert read_job(manifest).finished is None


def test_condition_that_is_false_does_not_end_a_job() -> None:
    manifest = batch_job(ended="Complete")
    manifest["status"]["conditions"][1]["status"] = "False"
    assert read_job(manifest).finished is None


OUTCOME = failed(Stage.TRAIN, FailureClass.DATA_ERROR)
PODS: dict[str, tuple[Object, dict[str, Any]]] = {
    "running": (pod(), {}),
    "pending": (pod(phase="Pending"), {"phase": "Pending"}),
    "of another rank": (pod(index=3), {"name": f"{NAME}-train-1-3-abcde", "index": 3}),
    "unschedulable": (
        pod(phase="Pending", conditions=(unschedulable("0/4 nodes"),)),
        {"phase": "Pending", "unschedulable": "0/4 nodes"},
    ),
    "waiting": (
        pod(phase="Pending", waiting=("ImagePullBackOff", "no such image")),
        {"phase": "Pending", "waiting": ("ImagePullBackOff", "no such image")},
    ),
    "succeeded": (
        pod(phase="Succeeded", exit_code=0, reason="Completed", outcome=prepare_outcome()),
        {"phase": "Succeeded", "exit_code": 0, "finished": at(60), "outcome": prepare_outcome()},
    ),
    "failed with an outcome": (
        pod(phase="Failed", exit_code=11, outcome=OUTCOME),
        {"phase": "Failed", "exit_code": 11, "finished": at(60), "outcome": OUTCOME},
    ),
    "failed with a traceback": (
        pod(phase="Failed", exit_code=1, outcome="Traceback (most recent call last):"),
        {"phase": "Failed", "exit_code": 1, "finished": at(60)},
    ),
    "out of memory": (
        pod(phase="Failed", exit_code=137, reason="OOMKilled"),
        {"phase": "Failed", "exit_code": 137, "finished": at(60), "oom_killed": True},
    ),
    "disrupted": (
        pod(conditions=(disrupted("PreemptionByScheduler", "preempting"),)),
        {"disrupted": ("PreemptionByScheduler", "preempting")},
    ),
    "evicted": (pod(phase="Failed", pod_reason="Evicted"), {"phase": "Failed", "disrupted": ("Evicted", "")}),
    "evicted by the kubelet, which sets a condition too": (
        pod(phase="Failed", pod_reason="Evicted", conditions=(disrupted("TerminationByKubelet", "memory"),)),
        {"phase": "Failed", "disrupted": ("Evicted", "")},
    ),
    "placed": (pod(node="node-1", scheduled=3), {"node": "node-1", "scheduled": at(3)}),
    "being deleted": (pod(deleted=12), {"deleted_at": at(12), "deadline": at(42)}),
}


@pytest.mark.parametrize("case", PODS)
def test_pod(case: str) -> None:
    manifest, expected = PODS[case]
    base = {
        "name": f"{NAME}-train-1-0-abcde",
        "stage": Stage.TRAIN,
        "attempt": 1,
        "phase": "Running",
        "created": NOW,
    }
    assert read_pod(manifest) == Pod(**base | expected)


@pytest.mark.parametrize(
    ("phase", "ended"),
    [("Pending", False), ("Running", False), ("Unknown", False), ("Succeeded", True), ("Failed", True)],
)
def test_pod_has_ended(phase: str, ended: bool) -> None:
    assert read_pod(pod(phase=phase)).ended is ended


def test_pod_that_was_only_just_created_has_no_status() -> None:
    manifest = pod()
    del manifest["status"], manifest["metadata"]["annotations"]
    assert (read_pod(manifest).phase, read_pod(manifest).index) == ("Pending", 0)


def test_pod_deleted_without_grace() -> None:
    manifest = pod(deleted=12)
    manifest["metadata"]["deletionGracePeriodSeconds"] = 0
    assert read_pod(manifest).deleted_at == at(42)


@pytest.mark.parametrize("message", [None, "", "text", "{}", '{"stage": "train", "unknown": 1}', "[1, 2"])
def test_termination_message_that_is_no_outcome(message: str | None) -> None:
    assert read_outcome(message) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01T12:00:00Z", NOW),
        ("2026-03-01T12:00:00.500000Z", NOW + timedelta(milliseconds=500)),
        (None, None),
        ("", None),
    ],
)
def test_time(text: str | None, moment: object) -> None:
    assert parse_time(text) == moment


def test_observation_finds_children_by_stage_and_attempt() -> None:
    seen = observe(
        stored(),
        [batch_job(Stage.PREPARE, ended="Complete"), batch_job(attempt=1, ended="Failed"), batch_job(attempt=2)],
        [pod(Stage.PREPARE), pod(attempt=2, index=0), pod(attempt=2, index=1)],
        report(),
        NOW + timedelta(microseconds=7),
    )
    assert seen.now == NOW, "times are written with a resolution of seconds"
    found = seen.job_of(Stage.TRAIN, 2)
    assert found
    assert found.name == f"{NAME}-train-2"
    assert seen.job_of(Stage.PREPARE, 2) is None
    assert [found.index for found in seen.pods_of(Stage.TRAIN, 2)] == [0, 1]
    assert seen.pods_of(Stage.TRAIN, 1) == ()


def test_unfinished_jobs_are_those_to_delete() -> None:
    jobs = [batch_job(Stage.PREPARE, ended="Complete"), batch_job(attempt=1, deleting=True), batch_job(attempt=2)]
    assert observe(stored(), jobs, (), None, NOW).unfinished == (f"{NAME}-train-2",)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"finetune.dev/stage": "train"},
        {"finetune.dev/stage": "coffee", "finetune.dev/attempt": "1"},
        {"finetune.dev/stage": "train", "finetune.dev/attempt": "one"},
    ],
)
def test_what_others_label_with_the_jobs_uid_is_left_out(labels: dict[str, str]) -> None:
    stranger = pod()
    stranger["metadata"]["labels"] = labels
    other = batch_job()
    other["metadata"]["labels"] = labels
    seen = observe(stored(), [other], [stranger], None, NOW)
    assert (seen.jobs, seen.pods) == ((), ())
