"""Limits in time and priority, on a real cluster."""

from __future__ import annotations

import json

import pytest

from support.operated import Platform, eventually, is_true

KINDS = "jobs,pods,configmaps,services,networkpolicies"


@pytest.fixture
def priority_class(platform: Platform, namespace: str) -> str:
    manifest = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    platform.kubectl("create", "-f", "-", stdin=json.dumps(manifest | {"metadata": {"name": namespace}}))
    return namespace


def test_a_finished_job_outlives_its_children(platform: Platform, namespace: str, priority_class: str) -> None:
    platform.submit(namespace, "brief", ttlSecondsAfterFinished=2, priorityClassName=priority_class)
    pods = eventually(lambda: platform.children("pods", namespace, "brief"), 60)
    assert {(pod["spec"]["priorityClassName"], pod["spec"]["priority"]) for pod in pods} == {(priority_class, 1000)}
    done = platform.wait_finished(namespace, "brief")
    assert is_true(done, "Complete"), platform.story(namespace, done)
    eventually(lambda: not platform.children(KINDS, namespace, "brief"), 60)
    after = platform.job(namespace, "brief")
    assert after["status"] == done["status"]
    platform.kubectl("delete", "priorityclass", priority_class)


def test_a_job_ends_when_its_training_time_is_over(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "long", activeDeadlineSeconds=8, hyperparameters={"maxSteps": 100_000})
    failed = platform.wait_finished(namespace, "long")
    assert failed["status"]["failure"]["class"] == "DeadlineExceeded"
    usage, (attempt,) = failed["status"]["usage"], failed["status"]["attempts"]
    assert 8 <= usage["trainingSeconds"] <= 20
    assert (usage["gpuSeconds"], usage["wastedGpuSeconds"]) == (0, 0)
    assert attempt["outcome"] == "DeadlineExceeded"
    assert usage["startupSeconds"] + usage["lostSeconds"] <= usage["trainingSeconds"]
    eventually(lambda: not platform.children("jobs,pods", namespace, "long", "train"), 60)
