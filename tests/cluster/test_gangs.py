"""Gangs that do not fit beside each other: all pods or none, and nobody waits for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.operated import Object, Platform, condition, eventually, is_true

# Of a node's 64Gi: no two such pods fit on one.
MEMORY = "40Gi"
LONG = {"hyperparameters": {"maxSteps": 100_000}}


@pytest.fixture
def two_nodes(platform: Platform, namespace: str) -> Iterator[dict[str, str]]:
    """A label that two nodes have: room for one gang of two such pods."""
    nodes = platform.kubectl("get", "nodes", "-o", "name").split()[:2]
    platform.kubectl("label", *nodes, f"pool={namespace}", "--overwrite")
    yield {"pool": namespace}
    platform.kubectl("label", *nodes, "pool-")


def gang(pool: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"resources": {"nodes": 2, "memory": MEMORY, "nodeSelector": pool}, "backoffLimit": 0, **more}


def outcomes(job: Object) -> list[str | None]:
    return [attempt.get("outcome") for attempt in job.get("status", {}).get("attempts", ())]


def test_two_gangs_on_room_for_one_both_get_their_turn(
    platform: Platform, namespace: str, two_nodes: dict[str, str]
) -> None:
    for name in ("one", "other"):
        platform.submit(namespace, name, **gang(two_nodes, hyperparameters={"maxSteps": 3, "seed": len(name)}))
    for name in ("one", "other"):
        job = platform.wait_finished(namespace, name)
        assert is_true(job, "Complete"), platform.story(namespace, job)
        # Giving way to the other costs no retry: there is none to spend.
        assert [outcome for outcome in outcomes(job) if outcome != "Unschedulable"] == ["Succeeded"]


def test_a_half_placed_gang_gives_its_room_back(platform: Platform, namespace: str, two_nodes: dict[str, str]) -> None:
    filler = platform.manifest(namespace, "filler", **LONG)
    filler["spec"]["resources"] = {"memory": MEMORY, "nodeSelector": two_nodes}
    platform.apply(filler)
    platform.wait(namespace, "filler", lambda job: is_true(job, "Running"))
    platform.submit(namespace, "half", **gang(two_nodes))
    platform.wait(namespace, "half", lambda job: outcomes(job)[:1] == ["Unschedulable"])
    eventually(lambda: not placed(platform, namespace, "half"), 60)
    platform.kubectl("delete", "ftj", "filler", "-n", namespace)
    job = platform.wait_finished(namespace, "half")
    assert is_true(job, "Complete"), platform.story(namespace, job)


def placed(platform: Platform, namespace: str, name: str) -> list[str]:
    """Training pods that hold room on a node."""
    pods = platform.children("pods", namespace, name, "train")
    return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]


@pytest.fixture
def urgent(platform: Platform, namespace: str) -> Iterator[str]:
    manifest = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    name = f"urgent-{namespace}"
    platform.kubectl("create", "-f", "-", stdin=json.dumps(manifest | {"metadata": {"name": name}}))
    yield name
    platform.kubectl("delete", "priorityclass", name)


def test_a_gang_of_higher_priority_takes_the_room_and_gives_it_back(
    platform: Platform, namespace: str, two_nodes: dict[str, str], urgent: str
) -> None:
    platform.submit(namespace, "low", **gang(two_nodes, hyperparameters={"maxSteps": 300}))
    platform.wait(
        namespace, "low", lambda job: is_true(job, "Running") and job["status"].get("progress", {}).get("step", 0) >= 3
    )
    platform.submit(namespace, "high", **gang(two_nodes, priorityClassName=urgent))
    high = platform.wait_finished(namespace, "high")
    assert is_true(high, "Complete"), platform.story(namespace, high)
    low = platform.wait_finished(namespace, "low")
    assert is_true(low, "Complete"), platform.story(namespace, low)
    assert outcomes(low)[0] in ("Disrupted", "Preempted")
    assert outcomes(low)[-1] == "Succeeded"
    assert low["status"]["attempts"][-1]["resumedFromStep"] >= 3
    assert low["status"].get("losses", 0) == 0


def test_no_half_gang_where_the_quota_of_the_namespace_is_short(platform: Platform, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "memory", "namespace": namespace}}
    # Two gangs of 20Gi on a quota of 30Gi.
    platform.apply(quota | {"spec": {"hard": {"requests.memory": "30Gi"}}})
    two = {"resources": {"nodes": 2, "memory": "10Gi"}, "backoffLimit": 0}
    platform.submit(namespace, "first", **two, **LONG)
    platform.wait(namespace, "first", lambda job: is_true(job, "Running"))
    platform.submit(namespace, "second", **two)
    words = "ResourceQuota memory has no room for all pods"
    job = platform.wait(namespace, "second", lambda job: words in condition(job, "Running").get("message", ""))
    assert (job["status"]["state"], condition(job, "Running")["reason"]) == ("Queued", "Queued")
    assert not platform.children("pods", namespace, "second", "train")
    platform.kubectl("delete", "ftj", "first", "-n", namespace)
    job = platform.wait_finished(namespace, "second")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert outcomes(job) == ["Succeeded"]
