"""Kueue's real controllers: gangs that wait for quota, give way to others, and go on from their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install
from support.clusters import PROJECT
from support.kueue import Kueue
from support.operated import Object, Platform, condition, eventually, is_true
from support.tiny_model import write_chat_rows, write_tiny_model

EXAMPLES = PROJECT / "examples" / "kueue"
URGENT = {"kueue.x-k8s.io/priority-class": "urgent"}
# Of the three CPUs of the quota: there is room for one such gang.
GANG = {"resources": {"nodes": 2, "cpu": "1"}, "queueName": "gpus", "backoffLimit": 0}
LONG = {"hyperparameters": {"maxSteps": 100_000}}


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A sandbox of its own with Kueue, whose webhooks would see the Jobs of every other test."""
    folder = tmp_path_factory.mktemp("kueue")
    with Sandbox.up(folder / "state", nodes=2, preload="finetune_trainer.preload", attached=True) as sandbox:
        kueue = Kueue(sandbox.kubeconfig, folder / "kueue")
        install(sandbox.kubeconfig, PROJECT)
        operator = OperatorProcess.start(sandbox.kubeconfig, folder / "operator")
        platform = Platform(sandbox.kubeconfig, sandbox.environment(), sandbox.bucket, "kueue", operator)
        try:
            kueue.start()
            platform.upload_folder("models/tiny", write_tiny_model(folder / "tiny"))
            platform.upload("data/train.jsonl", write_chat_rows(folder / "train.jsonl", 40).read_bytes())
            yield platform
        finally:
            operator.stop()
            kueue.stop()


@pytest.fixture
def team(queued: Platform) -> Iterator[str]:
    """A namespace with the queue of the example, of three CPUs and six GPUs, of its own."""
    namespace = queued.new_namespace()
    for document in yaml.safe_load_all((EXAMPLES / "queues.yaml").read_text()):
        if document["kind"] == "ClusterQueue":
            document["metadata"]["name"] = namespace
            document["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"] = 3
        if document["kind"] == "LocalQueue":
            document["metadata"]["namespace"] = namespace
            document["spec"]["clusterQueue"] = namespace
        queued.apply(document)
    yield namespace
    queued.kubectl("delete", "namespace", namespace, "--wait=false")


def submit(platform: Platform, namespace: str, name: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
    manifest = platform.manifest(namespace, name, **{**GANG, **spec})
    manifest["metadata"]["labels"] = labels or {}
    platform.apply(manifest)


def waits(job: Object, words: str) -> bool:
    """Whether a job is in the queue and says so, and why."""
    running = condition(job, "Running")
    return job.get("status", {}).get("state") == "Queued" and words in running["message"]


def workloads(platform: Platform, namespace: str) -> list[Object]:
    found = json.loads(platform.kubectl("get", "workloads.kueue.x-k8s.io", "-n", namespace, "-o", "json"))
    return list(found["items"])


def change(platform: Platform, namespace: str, name: str, **spec: Any) -> None:
    platform.kubectl("patch", "ftj", name, "-n", namespace, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_of_two_gangs_on_quota_for_one_the_second_waits_its_turn(queued: Platform, team: str) -> None:
    submit(queued, team, "first", **LONG)
    queued.wait(team, "first", lambda job: is_true(job, "Running"))
    submit(queued, team, "second", hyperparameters={"maxSteps": 2})
    job = queued.wait(team, "second", lambda job: waits(job, "waits in queue gpus: couldn't assign flavors"))
    assert "insufficient unused quota for cpu" in condition(job, "Running")["message"]
    assert is_true(job, "Prepared"), "what needs no GPU is done while it waits"
    assert not queued.children("pods", team, "second", "train")

    change(queued, team, "second", suspend=True)
    queued.wait(team, "second", lambda job: is_true(job, "Suspended"))
    eventually(lambda: len(workloads(queued, team)) == 1, 60)
    change(queued, team, "second", suspend=False)
    queued.wait(team, "second", lambda job: waits(job, "insufficient unused quota"))

    queued.kubectl("delete", "ftj", "first", "-n", team)
    job = queued.wait_finished(team, "second")
    assert is_true(job, "Complete"), queued.story(team, job)
    assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Suspended", "Succeeded"]


def test_a_gang_that_gives_way_goes_on_from_its_checkpoint(queued: Platform, team: str) -> None:
    submit(queued, team, "low", hyperparameters={"maxSteps": 300}, checkpoint={"everySteps": 1000})
    # A report may come before the operator has seen the pods run, of which it would not say that they ran again.
    queued.wait(
        team, "low", lambda job: is_true(job, "Running") and job["status"].get("progress", {}).get("step", 0) >= 3
    )
    submit(queued, team, "high", URGENT, hyperparameters={"maxSteps": 2})
    low = queued.wait(team, "low", lambda job: waits(job, "Preempted to accommodate a workload"))
    assert condition(low, "Running")["reason"] == "Requeued"
    high = queued.wait_finished(team, "high")
    assert is_true(high, "Complete"), queued.story(team, high)
    low = queued.wait_finished(team, "low")
    assert is_true(low, "Complete"), queued.story(team, low)
    (attempt,) = low["status"]["attempts"]
    assert (attempt["outcome"], attempt["evictions"]) == ("Succeeded", 1)
    assert attempt["resumedFromStep"] >= 3, "no step was lost, though no checkpoint was due"
    assert "losses" not in low["status"]


def test_gpus_are_counted_and_a_deleted_job_leaves_the_queue(queued: Platform, team: str) -> None:
    gpus = {"resources": {"nodes": 2, "gpusPerNode": 2, "cpu": "500m"}, "hyperparameters": {"globalBatchSize": 4}}
    submit(queued, team, "first", **gpus)
    # Two gangs of four GPUs on a quota of six. The sandbox's nodes have none, so that the first gets no further.
    queued.wait(team, "first", lambda job: "cannot be scheduled" in condition(job, "Running").get("message", ""))
    submit(queued, team, "second", **gpus)
    queued.wait(team, "second", lambda job: waits(job, "insufficient unused quota for nvidia.com/gpu"))
    for name in ("second", "first"):
        queued.kubectl("delete", "ftj", name, "-n", team)
    assert eventually(lambda: not workloads(queued, team), 120)


def test_the_example_waits_in_the_queue_of_the_example(queued: Platform) -> None:
    queued.kubectl("create", "namespace", "team-gpu")
    queued.kubectl("apply", "-f", str(EXAMPLES / "queues.yaml"))
    queued.kubectl("wait", "--for=condition=Active", "localqueue/gpus", "-n", "team-gpu", "--timeout=60s")
    queued.kubectl("apply", "-n", "team-gpu", "-f", str(EXAMPLES / "job.yaml"))
    made = eventually(lambda: queued.children("jobs", "team-gpu", "queued"), 60)
    assert [job["spec"].get("suspend", False) for job in made] == [False], "prepare does not wait"
    queued.kubectl("delete", "namespace", "team-gpu", "--wait=false")
