"""Deleting, applying again, suspending, and many at once."""

from __future__ import annotations

import pytest

from finetune_sandbox.installation import OperatorProcess
from support.operated import Object, Platform, condition, eventually, finished, is_true

# Long enough that a test can do something to it; ended by the test.
LONG = {"hyperparameters": {"maxSteps": 100_000}}
# Some ten seconds of steps: long enough to be caught in the middle, short enough to wait for.
MIDDLE = {"hyperparameters": {"maxSteps": 150}}


def training(job: Object) -> bool:
    return is_true(job, "Running") and (job["status"].get("progress") or {}).get("step", 0) > 0


def left_behind(platform: Platform, namespace: str, name: str) -> list[str]:
    kinds = ("jobs", "pods", "configmaps", "services", "networkpolicies")
    return [
        f"{kind}/{child['metadata']['name']}" for kind in kinds for child in platform.children(kind, namespace, name)
    ]


def test_deleting_the_namespace_of_a_running_job_finishes(platform: Platform) -> None:
    namespace = platform.new_namespace()
    platform.submit(namespace, "running", **LONG)
    platform.wait(namespace, "running", training)
    platform.kubectl("delete", "namespace", namespace, "--timeout=60s")
    assert namespace not in platform.kubectl("get", "namespaces", "-o", "name")


def test_deleting_a_namespace_waits_for_no_operator(platform: Platform, running_operator: OperatorProcess) -> None:
    namespace = platform.new_namespace()
    platform.submit(namespace, "orphan", **LONG)
    eventually(lambda: platform.children("pods", namespace, "orphan"), 30)
    running_operator.stop()
    platform.kubectl("delete", "namespace", namespace, "--timeout=60s")
    assert namespace not in platform.kubectl("get", "namespaces", "-o", "name")


def test_a_finished_job_is_not_trained_again(
    platform: Platform, namespace: str, running_operator: OperatorProcess
) -> None:
    manifest = platform.submit(namespace, "once")
    done = platform.wait_finished(namespace, "once")
    assert is_true(done, "Complete"), platform.story(namespace, done)

    platform.kubectl(
        "delete", "jobs,pods,configmaps,services,networkpolicies", "-n", namespace, "-l", "finetune.dev/job=once"
    )
    eventually(lambda: not left_behind(platform, namespace, "once"), 30)
    running_operator.kill()
    running_operator.launch()
    platform.kubectl("annotate", "ftj", "once", "-n", namespace, "example.com/touched=yes")
    platform.kubectl("patch", "ftj", "once", "-n", namespace, "--type=merge", "-p", '{"spec":{"backoffLimit":7}}')
    eventually(lambda: platform.job(namespace, "once")["status"]["observedGeneration"] == 2, 60)
    seen = platform.job(namespace, "once")
    assert left_behind(platform, namespace, "once") == []
    assert seen["status"]["artifact"] == done["status"]["artifact"]

    platform.kubectl("delete", "ftj", "once", "-n", namespace)
    platform.apply(manifest)
    again = platform.wait_finished(namespace, "once")
    assert condition(again, "Complete")["reason"] == "Adopted"
    assert again["metadata"]["uid"] != done["metadata"]["uid"]
    assert again["status"]["artifact"] == done["status"]["artifact"]
    assert again["status"]["evaluation"] == done["status"]["evaluation"]
    assert platform.children("pods", namespace, "once", "train") == []
    assert again["status"]["attempts"] == []


def at_rest(job: Object) -> bool:
    """Suspended, with every pod gone and its last checkpoint told."""
    ended = condition(job, "Suspended").get("message", "").startswith("spec.suspend is true")
    return ended and "checkpoint" in job["status"]


def test_suspend_frees_the_pods_and_resume_runs_to_the_end(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "paused", **MIDDLE)
    platform.wait(namespace, "paused", training)
    _suspend(platform, namespace, "paused", True)
    stopped = platform.wait(namespace, "paused", lambda job: is_true(job, "Suspended"), 60)
    assert stopped["status"]["state"] == "Suspended"
    assert not is_true(stopped, "Running")
    saved = platform.wait(namespace, "paused", at_rest, 60)
    kept = saved["status"]["checkpoint"]["step"]
    phases = [pod["status"]["phase"] for pod in platform.children("pods", namespace, "paused", "train")]
    assert set(phases) <= {"Failed", "Succeeded"}

    _suspend(platform, namespace, "paused", False)
    done = platform.wait_finished(namespace, "paused")
    assert is_true(done, "Complete"), platform.story(namespace, done)
    outcomes = [(attempt["number"], attempt["outcome"]) for attempt in done["status"]["attempts"]]
    assert outcomes == [(1, "Suspended"), (2, "Succeeded")]
    assert done["status"]["attempts"][1]["resumedFromStep"] == kept > 0
    assert done["status"]["progress"]["step"] == MIDDLE["hyperparameters"]["maxSteps"]
    assert "checkpoint" not in done["status"], "they go when the artifact is published"
    assert [event["reason"] for event in platform.events(namespace, "paused")].count("Suspended") == 1


def _suspend(platform: Platform, namespace: str, name: str, value: bool) -> None:
    patch = f'{{"spec":{{"suspend":{str(value).lower()}}}}}'
    platform.kubectl("patch", "ftj", name, "-n", namespace, "--type=merge", "-p", patch)


def test_a_job_that_is_born_suspended_waits(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "later", suspend=True)
    platform.wait(namespace, "later", lambda job: is_true(job, "Suspended"))
    assert left_behind(platform, namespace, "later") == []
    _suspend(platform, namespace, "later", False)
    done = platform.wait_finished(namespace, "later")
    assert is_true(done, "Complete"), platform.story(namespace, done)


def test_ten_jobs_at_once_in_three_namespaces(platform: Platform) -> None:
    namespaces = [platform.new_namespace() for _ in range(3)]
    jobs = [(namespaces[index % 3], f"many-{index}") for index in range(10)]
    for index, (namespace, name) in enumerate(jobs):
        platform.submit(namespace, name, hyperparameters={"seed": index})
    ended = [platform.wait_finished(*job, seconds=800) for job in jobs]
    assert [job["status"]["state"] for job in ended] == ["Complete"] * 10
    assert len({job["status"]["runID"] for job in ended}) == 10
    assert all(job["status"]["observedGeneration"] == job["metadata"]["generation"] for job in ended)
    for namespace in namespaces:
        platform.kubectl("delete", "namespace", namespace, "--wait=false")


def test_the_generation_is_observed_after_every_change(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "seen", suspend=True)
    for limit in (4, 5, 6):
        patch = f'{{"spec":{{"backoffLimit":{limit}}}}}'
        platform.kubectl("patch", "ftj", "seen", "-n", namespace, "--type=merge", "-p", patch)
        job = platform.wait(namespace, "seen", lambda job: _observed(job) == job["metadata"]["generation"])
        assert {item["observedGeneration"] for item in job["status"]["conditions"]} == {job["metadata"]["generation"]}
    assert not finished(job)


def _observed(job: Object) -> int | None:
    return (job.get("status") or {}).get("observedGeneration")


@pytest.mark.parametrize("operator_runs", [True, False], ids=["operator running", "operator stopped"])
def test_a_deleted_job_leaves_nothing_behind(
    platform: Platform,
    namespace: str,
    garbage_collector: None,
    running_operator: OperatorProcess,
    operator_runs: bool,
) -> None:
    platform.submit(namespace, "gone", **LONG, resources={"nodes": 2})
    platform.wait(namespace, "gone", training)
    if not operator_runs:
        running_operator.stop()
    platform.kubectl("delete", "ftj", "gone", "-n", namespace)
    eventually(
        lambda: not left_behind(platform, namespace, "gone"), 10, lambda: str(left_behind(platform, namespace, "gone"))
    )
    assert left_behind(platform, namespace, "gone") == []
