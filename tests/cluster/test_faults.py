"""Pods that fail or vanish, and an operator that is killed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from finetune_sandbox.installation import OperatorProcess
from support.operated import Object, Platform, condition, is_true

MIDDLE = {"hyperparameters": {"maxSteps": 150}, "resources": {"nodes": 2}}


def stage_reached(*states: str) -> Callable[[Object], bool]:
    return lambda job: (job.get("status") or {}).get("state") in states


def training(job: Object) -> bool:
    return is_true(job, "Running") and (job["status"].get("progress") or {}).get("step", 0) > 0


def test_a_trainer_that_fails_says_why(platform: Platform, namespace: str) -> None:
    platform.submit(
        namespace,
        "diverges",
        hyperparameters={"maxSteps": 50},
        evaluation={"divergence": {"maxLoss": "0.001"}},
    )
    job = platform.wait_finished(namespace, "diverges")
    assert is_true(job, "Failed")
    assert is_true(job, "Stalled")
    failure = job["status"]["failure"]
    assert failure["class"] == "Diverged"
    assert "learningRate" in failure["remedy"]
    assert condition(job, "Failed")["message"].startswith(f"{failure['message']}. ")
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Diverged"]
    assert "artifact" not in job["status"]
    assert platform.events_until(namespace, "diverges", "Warning")


def test_a_pod_deleted_mid_run_costs_an_attempt_not_the_job(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "robbed", **MIDDLE)
    platform.wait(namespace, "robbed", training)
    pod = platform.children("pods", namespace, "robbed", "train")[1]["metadata"]
    victim, node = pod["name"], pod["labels"]["batch.kubernetes.io/job-completion-index"]
    platform.kubectl("delete", "pod", victim, "-n", namespace, "--wait=false")
    job = platform.wait_finished(namespace, "robbed")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    attempts = job["status"]["attempts"]
    assert [attempt["number"] for attempt in attempts] == [1, 2]
    assert attempts[1]["outcome"] == "Succeeded"
    # It stopped in order; whether anybody saw that depends on how soon the pod was gone.
    told = {"Preempted": f"pod {victim} was deleted", "PodLost": f"the pod of node {node} is gone"}
    assert attempts[0]["message"] == told[attempts[0]["outcome"]]
    assert "Retrying" in [event["reason"] for event in platform.events(namespace, "robbed")]


def test_losses_beyond_the_limit_end_the_job(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "unlucky", **MIDDLE, backoffLimit=0)
    platform.wait(namespace, "unlucky", training)
    victim = platform.children("pods", namespace, "unlucky", "train")[0]["metadata"]["name"]
    platform.kubectl("delete", "pod", victim, "-n", namespace, "--force", "--grace-period=0")
    job = platform.wait_finished(namespace, "unlucky")
    assert is_true(job, "Failed")
    assert job["status"]["failure"]["class"] == "PodLost"
    assert len(platform.children("jobs", namespace, "unlucky", "train")) == 1


def test_a_job_whose_training_job_is_deleted_starts_again(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "orphan", **MIDDLE)
    platform.wait(namespace, "orphan", training)
    platform.kubectl("delete", "job", "-n", namespace, "-l", "finetune.dev/job=orphan,finetune.dev/stage=train")
    job = platform.wait_finished(namespace, "orphan")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["PodLost", "Succeeded"]


STAGES: dict[str, Callable[[Object], bool]] = {
    "just created": lambda job: True,
    "preparing": stage_reached("Preparing"),
    "starting": stage_reached("Starting"),
    "training": training,
    "evaluating or publishing": stage_reached("Evaluating", "Publishing", "Complete"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_operator_killed_in_any_stage_changes_nothing(
    platform: Platform, namespace: str, running_operator: OperatorProcess, stage: str
) -> None:
    platform.submit(namespace, "survivor", hyperparameters={"maxSteps": 40})
    platform.wait(namespace, "survivor", lambda job: STAGES[stage](job) or stage_reached("Complete")(job))
    running_operator.kill()
    running_operator.launch()
    job = platform.wait_finished(namespace, "survivor")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Succeeded"]
    names = sorted(child["metadata"]["name"] for child in platform.children("jobs", namespace, "survivor"))
    assert names == ["survivor-prepare-1", "survivor-train-1"]
    assert len(platform.children("pods", namespace, "survivor")) == 2


def test_a_job_that_ends_while_the_operator_is_away_is_complete(
    platform: Platform, namespace: str, running_operator: OperatorProcess
) -> None:
    platform.submit(namespace, "unseen", hyperparameters={"maxSteps": 30})
    platform.wait(namespace, "unseen", training)
    running_operator.kill()
    platform.kubectl("wait", "--for=condition=Complete", "job/unseen-train-1", "-n", namespace, "--timeout=120s")
    platform.kubectl("delete", "job", "unseen-train-1", "-n", namespace)
    running_operator.launch()
    job = platform.wait_finished(namespace, "unseen")
    assert condition(job, "Complete")["reason"] == "Adopted"
    assert len(platform.children("jobs", namespace, "unseen", "train")) == 0
