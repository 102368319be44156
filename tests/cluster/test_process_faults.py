"""A job whose pods and nodes suffer one fault after the other comes to the end of an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from finetune_sandbox import Sandbox
from support.clusters import Cluster
from support.operated import Object, Platform, eventually, is_true
from support.seeds import command, seeds

NODES = tuple(f"sandbox-{number}" for number in range(4))
# Faults of a pod or of the node it is on, and what may be said of the attempt that one ends. Drained pods end in order.
OUTCOMES = {
    "kill": {"PodLost"},
    "evict": {"Evicted"},
    "fill": {"Evicted"},
    "drain": {"Disrupted", "Preempted"},
    "freeze": {"Hung"},
    "lose": {"NodeLost", "PodLost", "Rendezvous"},
}
# The others take minutes: a hang has to be noticed, a lost node to be given up.
QUICK = ("kill", "evict", "drain", "fill")
STORM: Object = {
    "hyperparameters": {"maxSteps": 60},
    "resources": {"nodes": 2},
    "checkpoint": {"everySteps": 5, "gracePeriodSeconds": 30},
    "backoffLimit": 20,
}


@pytest.fixture
def sandbox(cluster: Cluster) -> Iterator[Sandbox]:
    """The sandbox that the cluster is; all its nodes are whole again when the test is over."""
    if cluster.sandbox is None:
        pytest.skip("faults are injected into a sandbox, not into the cluster that KUBECONFIG names")
    yield cluster.sandbox
    for node in NODES:
        cluster.sandbox.fault("restore", node)


def attempts(job: Object) -> list[Object]:
    return list((job.get("status") or {}).get("attempts") or ())


def in_attempt(number: int, job: Object) -> bool:
    """Whether an attempt trains and has gone some way."""
    if len(attempts(job)) != number or not is_true(job, "Running"):
        return False
    step = (job["status"].get("progress") or {}).get("step", 0)
    return step > int(attempts(job)[-1].get("resumedFromStep") or 0)


def strike(platform: Platform, sandbox: Sandbox, namespace: str, kind: str, random: Random) -> None:
    """Injects a fault into a random rank of the attempt that runs, or into its node."""
    pods = [
        pod
        for pod in platform.children("pods", namespace, "storm", "train")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    pod = random.choice(sorted(pods, key=lambda pod: str(pod["metadata"]["name"])))
    if kind in ("drain", "fill", "lose"):
        sandbox.fault(kind, pod["spec"]["nodeName"])
    elif kind == "freeze":
        sandbox.fault(kind, pod["metadata"]["name"], namespace=namespace, process="rank-")
    else:
        sandbox.fault(kind, pod["metadata"]["name"], namespace=namespace)


@pytest.mark.parametrize("seed", seeds())
def test_a_storm_of_faults_changes_nothing_but_the_time(
    platform: Platform, namespace: str, sandbox: Sandbox, seed: int
) -> None:
    random, repeat = Random(seed), command("tests/cluster/test_process_faults.py", seed)
    faults = random.sample(QUICK if seed == 0 else sorted(OUTCOMES), 2)
    calm = platform.submit(namespace, "calm", **STORM)
    platform.submit(namespace, "storm", **STORM)
    for number, kind in enumerate(faults, 1):
        platform.wait(namespace, "storm", lambda job, number=number: in_attempt(number, job), 400)  # type: ignore[misc]
        strike(platform, sandbox, namespace, kind, random)
        eventually(
            lambda number=number: attempts(platform.job(namespace, "storm"))[number - 1].get("finished"),  # type: ignore[misc]
            400,
            lambda: f"{faults}: {repeat}\n{platform.story(namespace, platform.job(namespace, 'storm'))}",
        )
        for node in NODES:
            sandbox.fault("restore", node)
    job, calm = platform.wait_finished(namespace, "storm"), platform.wait_finished(namespace, "calm")
    told = f"{faults}: {repeat}\n{platform.story(namespace, job)}"
    assert is_true(job, "Complete"), told
    assert job["status"]["artifact"]["contentDigest"] == calm["status"]["artifact"]["contentDigest"], told
    outcomes = [attempt["outcome"] for attempt in attempts(job)]
    assert len(outcomes) == len(faults) + 1, told
    assert all(outcome in OUTCOMES[kind] for kind, outcome in zip(faults, outcomes, strict=False)), told
    assert outcomes[-1] == "Succeeded", told
    names = sorted(child["metadata"]["name"] for child in platform.children("jobs", namespace, "storm"))
    stages = [f"storm-{stage}-{number}" for stage in ("prepare", "train") for number in range(1, len(faults) + 2)]
    assert set(names) <= set(stages), told


def test_a_node_that_ended_two_attempts_gets_no_third(platform: Platform, namespace: str, sandbox: Sandbox) -> None:
    bad, *others = NODES

    def placed(number: int) -> Object:
        """The running pod of an attempt."""

        def find() -> Object | None:
            pods = platform.children("pods", namespace, "shy", "train")
            running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
            mine = [pod for pod in running if f"-train-{number}-" in pod["metadata"]["name"]]
            return mine[0] if mine else None

        return eventually(find, 300, lambda: platform.story(namespace, platform.job(namespace, "shy")))  # type: ignore[return-value]

    for node in others:
        platform.kubectl("cordon", node)
    platform.submit(namespace, "shy", hyperparameters={"maxSteps": 500}, backoffLimit=5)
    for number in (1, 2):
        pod = placed(number)
        assert pod["spec"]["nodeName"] == bad
        if number == 2:
            for node in others:
                platform.kubectl("uncordon", node)
        sandbox.fault("kill", pod["metadata"]["name"], namespace=namespace)
    assert placed(3)["spec"]["nodeName"] in others
    status = platform.job(namespace, "shy")["status"]
    assert status["plan"]["avoidedNodes"] == [bad]
    assert [(attempt["outcome"], attempt["node"]) for attempt in status["attempts"][:2]] == [("PodLost", bad)] * 2
    assert status["attempts"][1]["change"] == f"node {bad} is avoided: it ended two attempts"
