"""Pod status, restarts, recovery and privileges, as tables."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from finetune_sandbox.node.errors import ContainerConfigError
from finetune_sandbox.node.recovery import initial_facts
from finetune_sandbox.node.restart import Backoff, restarts
from finetune_sandbox.node.security import Privileges, privileges
from finetune_sandbox.node.simulation import run_seconds
from finetune_sandbox.node.status import (
    ContainerRecord,
    ContainerState,
    PodFacts,
    Running,
    Terminated,
    Waiting,
    build_status,
    pod_phase,
)

AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC)
NOW = "2026-01-02T03:04:05Z"
POD: dict[str, Any] = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}, "spec": {}}
DONE = Terminated(0, "Completed", AT, AT)
BROKEN = Terminated(3, "Error", AT, AT)


def record(state: ContainerState, last: Terminated | None = None, number: int = 0) -> ContainerRecord:
    return ContainerRecord(f"c{number}", "image", "u", state, last)


def facts(*states: ContainerState, init: tuple[ContainerState, ...] = (), **fields: Any) -> PodFacts:
    records = [record(state, number=number) for number, state in enumerate(states)]
    init_records = [record(state, number=number) for number, state in enumerate(init)]
    return PodFacts("127.0.0.1", "127.5.6.7", AT, init_records, records, **fields)


@pytest.mark.parametrize(
    ("known", "phase"),
    [
        (facts(Waiting()), "Pending"),
        (facts(Waiting(), init=(Running(AT),)), "Pending"),
        (facts(Running(AT)), "Running"),
        (facts(Running(AT), Waiting()), "Running"),
        (facts(DONE), "Running"),
        (facts(DONE, finished=True), "Succeeded"),
        (facts(DONE, BROKEN, finished=True), "Failed"),
        (facts(DONE, Running(AT), finished=True), "Running"),
        (facts(Waiting(), init=(BROKEN,), finished=True), "Failed"),
        (facts(DONE, init=(DONE,), finished=True), "Succeeded"),
        (facts(DONE, finished=True, reason="DeadlineExceeded"), "Failed"),
        (facts(Waiting(), finished=True), "Failed"),
    ],
)
def test_phase(known: PodFacts, phase: str) -> None:
    assert pod_phase(known) == phase


def test_a_container_between_two_runs_keeps_its_pod_running() -> None:
    known = facts()
    known.containers = [record(Waiting("CrashLoopBackOff"), last=BROKEN)]
    assert pod_phase(known) == "Running"


def test_whole_status_of_a_running_pod() -> None:
    container_id = record(Running(AT)).container_id
    assert build_status(POD, facts(Running(AT)), AT) == {
        "phase": "Running",
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": "127.5.6.7",
        "podIPs": [{"ip": "127.5.6.7"}],
        "startTime": NOW,
        "observedGeneration": 2,
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "lastTransitionTime": NOW,
                "observedGeneration": 2,
                "reason": None,
                "message": None,
            }
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
        ],
        "containerStatuses": [
            {
                "name": "c0",
                "image": "image",
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": NOW}},
                "lastState": {},
                "containerID": container_id,
            }
        ],
    }


def test_status_of_a_container_that_a_signal_ended() -> None:
    ended = Terminated(137, "Error", AT, AT, signal=9, message="bye", container_id="process://1")
    status = build_status(POD, facts(ended, finished=True), AT)
    assert status["containerStatuses"][0]["state"] == {
        "terminated": {
            "exitCode": 137,
            "signal": 9,
            "reason": "Error",
            "message": "bye",
            "startedAt": NOW,
            "finishedAt": NOW,
            "containerID": "process://1",
        }
    }


@pytest.mark.parametrize(
    ("known", "kind", "status", "reason", "message"),
    [
        (facts(Waiting()), "Ready", "False", "ContainersNotReady", "containers with unready status: [c0]"),
        (facts(DONE, finished=True), "Ready", "False", "PodCompleted", None),
        (facts(BROKEN, finished=True), "ContainersReady", "False", "PodFailed", None),
        (
            facts(Waiting(), init=(DONE, Running(AT))),
            "Initialized",
            "False",
            "ContainersNotInitialized",
            "containers with incomplete status: [c1]",
        ),
        (facts(Waiting(), init=(DONE,)), "Initialized", "True", None, None),
        (facts(DONE, finished=True), "Initialized", "True", "PodCompleted", None),
    ],
)
def test_conditions(known: PodFacts, kind: str, status: str, reason: str | None, message: str | None) -> None:
    conditions = {condition["type"]: condition for condition in build_status(POD, known, AT)["conditions"]}
    found = conditions[kind]
    assert (found["status"], found["reason"], found["message"]) == (status, reason, message)


def test_a_condition_that_stays_keeps_its_time() -> None:
    earlier = "2025-01-01T00:00:00Z"
    known = {"conditions": [{"type": "Initialized", "status": "True", "lastTransitionTime": earlier}]}
    conditions = build_status({**POD, "status": known}, facts(Running(AT)), AT)["conditions"]
    assert {each["type"]: each["lastTransitionTime"] for each in conditions} == {
        "PodReadyToStartContainers": NOW,
        "Initialized": earlier,
        "Ready": NOW,
        "ContainersReady": NOW,
    }


def test_the_reason_of_a_failed_pod() -> None:
    known = facts(BROKEN, finished=True, reason="DeadlineExceeded", message="too long")
    status = build_status(POD, known, AT)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")


@pytest.mark.parametrize(
    ("policy", "code", "init", "expected"),
    [
        ("Never", 1, False, False),
        ("Never", 0, False, False),
        ("OnFailure", 1, False, True),
        ("OnFailure", 0, False, False),
        ("Always", 0, False, True),
        ("Always", 1, False, True),
        ("Always", 0, True, False),
        ("Always", 1, True, True),
        ("Never", 1, True, False),
    ],
)
def test_restart_policy(policy: str, code: int, init: bool, expected: bool) -> None:
    assert restarts(policy, code, init) is expected


def test_backoff_grows_to_five_minutes_and_is_forgotten_after_a_long_run() -> None:
    backoff = Backoff()
    assert [backoff.next(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert [backoff.next(600), backoff.next(1)] == [0, 10]


def pod_with(status: dict[str, Any]) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "i"}]}
    return {"metadata": POD["metadata"], "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("status", "state", "restart_count"),
    [
        ({}, Waiting(), 0),
        (
            {"state": {"running": {"startedAt": NOW}}, "restartCount": 2},
            Terminated(
                137,
                "ContainerStatusUnknown",
                AT,
                AT.replace(microsecond=0),
                message="The container ended with the node agent that ran it",
            ),
            2,
        ),
        (
            {"state": {"terminated": {"exitCode": 4, "reason": "Error", "signal": 0, "finishedAt": NOW}}},
            Terminated(4, "Error", AT.replace(microsecond=0)),
            0,
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1}},
                "restartCount": 3,
            },
            Waiting(),
            4,
        ),
    ],
)
def test_what_a_new_agent_makes_of_a_container(
    status: dict[str, Any], state: ContainerState, restart_count: int
) -> None:
    pod = pod_with({"containerStatuses": [{"name": "main", **status}]} if status else {})
    found = initial_facts(pod, "127.0.0.1", "127.5.6.7", AT).containers[0]
    assert (found.state, found.restarts) == (state, restart_count)


def test_a_known_start_time_is_kept() -> None:
    assert initial_facts(pod_with({"startTime": NOW}), "", "", AT + datetime.timedelta(1)).start_time == AT.replace(
        microsecond=0
    )


@pytest.mark.parametrize(
    ("pod_context", "own", "expected"),
    [
        ({}, {}, Privileges(0, 0, False, False, False)),
        ({"runAsNonRoot": True}, {}, Privileges(65532, 65532, False, False, False)),
        ({"runAsUser": 1000, "runAsGroup": 2000}, {}, Privileges(1000, 2000, False, False, False)),
        ({"runAsUser": 1000}, {"runAsUser": 5}, Privileges(5, 0, False, False, False)),
        ({"runAsNonRoot": True}, {"runAsUser": 7}, Privileges(7, 0, False, False, False)),
        (
            {},
            {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            Privileges(0, 0, True, True, True),
        ),
    ],
)
def test_privileges(pod_context: dict[str, Any], own: dict[str, Any], expected: Privileges) -> None:
    pod = {"metadata": POD["metadata"], "spec": {"securityContext": pod_context}}
    assert privileges(pod, {"name": "c", "securityContext": own}) == expected


def test_root_is_refused_where_it_may_not_be() -> None:
    pod = {"metadata": POD["metadata"], "spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}}
    with pytest.raises(ContainerConfigError, match="container's runAsUser breaks non-root policy"):
        privileges(pod, {"name": "c"})


@pytest.mark.parametrize(("text", "seconds"), [("1.5", 1.5), ("0", 0.0), ("soon", None), (None, None)])
def test_run_time_of_a_simulated_pod(text: str | None, seconds: float | None) -> None:
    annotations = {} if text is None else {"sandbox.finetune.dev/run-seconds": text}
    assert run_seconds({"metadata": {"annotations": annotations}}) == seconds
