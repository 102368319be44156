"""Faults that a sandbox injects, as the cluster and its users see them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetune_sandbox import Sandbox
from finetune_sandbox.errors import RequestFailed

# Counts as long as it runs, in a child of the container's command.
COUNTING = ["sh", "-c", "while true; do echo tick; sleep 0.05; done & wait"]
SLEEPING = ["sleep", "1000"]
# The node that suffers.
NODE = "sandbox-1"


def place(space: Any, name: str, command: list[str]) -> None:
    """A pod on the node that suffers, which runs when this returns."""
    space.pod(name, command, nodeName=NODE)
    space.state(name, "running")


def condition(status: Any, kind: str) -> Any:
    return next((item for item in status.get("conditions") or () if item["type"] == kind), None)


@pytest.fixture
def whole(sandbox: Sandbox) -> Iterator[None]:
    """The node is whole again when the test is over."""
    yield
    sandbox.fault("restore", NODE)


def test_a_killed_pod_fails_by_its_signal(space: Any, sandbox: Sandbox) -> None:
    place(space, "killed", COUNTING)
    told = sandbox.fault("kill", "killed", namespace=space.namespace)
    assert told.startswith("sent SIGKILL to ")
    status = space.ended("killed")
    assert status["phase"] == "Failed"
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_one_process_of_a_pod_can_be_killed(space: Any, sandbox: Sandbox) -> None:
    place(space, "robbed", ["sh", "-c", "sleep 12.34e2 & wait $!; exit $?"])
    told = sandbox.fault("kill", "robbed", namespace=space.namespace, process="sleep 12.34e2")
    assert "SIGKILL" in told
    assert space.ended("robbed")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_a_frozen_pod_runs_on_when_it_is_thawed(space: Any, sandbox: Sandbox) -> None:
    def ticks() -> int:
        return len(space.run("logs", "frozen").splitlines())

    place(space, "frozen", COUNTING)
    sandbox.fault("freeze", "frozen", namespace=space.namespace)
    before = ticks()
    time.sleep(0.5)
    assert ticks() == before
    sandbox.fault("thaw", "frozen", namespace=space.namespace)
    while ticks() == before:
        time.sleep(0.1)
    assert space.get("pod", "frozen")["status"]["phase"] == "Running"


def test_an_evicted_pod_says_what_the_node_was_short_of(space: Any, sandbox: Sandbox) -> None:
    place(space, "evicted", SLEEPING)
    sandbox.fault("evict", "evicted", namespace=space.namespace)
    status = space.ended("evicted")
    assert (status["phase"], status["reason"]) == ("Failed", "Evicted")
    assert "memory" in status["message"]
    assert condition(status, "DisruptionTarget")["reason"] == "TerminationByKubelet"


def test_a_drained_node_takes_no_pods(space: Any, sandbox: Sandbox, whole: None) -> None:
    place(space, "drained", SLEEPING)
    assert sandbox.fault("drain", NODE).startswith(f"drained {NODE} of ")
    space.run("wait", "--for=delete", "pod/drained", "--timeout=120s")
    assert space.get("node", NODE)["spec"]["unschedulable"] is True
    sandbox.fault("restore", NODE)
    assert "unschedulable" not in space.get("node", NODE)["spec"]


def test_a_full_disk_evicts_and_keeps_pods_away(space: Any, sandbox: Sandbox, whole: None) -> None:
    place(space, "full", SLEEPING)
    sandbox.fault("fill", NODE)
    assert "ephemeral-storage" in space.ended("full")["message"]
    assert condition(space.get("node", NODE)["status"], "DiskPressure")["status"] == "True"

    def kept_away(node: Any) -> bool:
        return any(taint["key"].endswith("disk-pressure") for taint in node["spec"].get("taints") or ())

    space.until("node", NODE, kept_away)
    sandbox.fault("restore", NODE)
    space.until("node", NODE, lambda node: not kept_away(node))


def test_a_lost_node_says_nothing_until_it_is_back(space: Any, sandbox: Sandbox, whole: None) -> None:
    place(space, "lost", COUNTING)
    assert sandbox.fault("lose", NODE).startswith(f"{NODE} is lost with ")
    space.run("delete", "pod", "lost", "--wait=false")
    time.sleep(2)
    # Nobody is there to end it, nor to say how it ended.
    assert space.get("pod", "lost")["status"]["phase"] == "Running"
    sandbox.fault("restore", NODE)
    space.run("wait", "--for=delete", "pod/lost", "--timeout=120s")


def test_a_node_that_is_back_knows_that_its_pods_are_gone(space: Any, sandbox: Sandbox, whole: None) -> None:
    place(space, "rebooted", SLEEPING)
    sandbox.fault("lose", NODE)
    sandbox.fault("restore", NODE)
    terminated = space.ended("rebooted")["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "ContainerStatusUnknown")


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("kill", "nobody", "no pod test-"),
        ("lose", "nowhere", "no node 'nowhere'; there are sandbox-0, sandbox-1"),
        ("melt", "sandbox-0", "no fault 'melt'"),
    ],
)
def test_what_is_not_there_is_refused(space: Any, sandbox: Sandbox, kind: str, name: str, problem: str) -> None:
    with pytest.raises(RequestFailed, match=problem):
        sandbox.fault(kind, name, namespace=space.namespace)


def test_faults_from_the_command_line(space: Any, sandbox: Sandbox, command: Callable[..., Any]) -> None:
    place(space, "struck", SLEEPING)
    done = command("fault", "kill", "struck", "-n", space.namespace, "--state-dir", sandbox.state_dir)
    assert (done.returncode, done.stdout[:12]) == (0, "sent SIGKILL"), done.stderr
    assert space.ended("struck")["phase"] == "Failed"
    missing = command("fault", "lose", "nowhere", "--state-dir", sandbox.state_dir)
    assert (missing.returncode, "no node 'nowhere'" in missing.stderr) == (1, True)
