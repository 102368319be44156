"""What the node knows of a pod when it first sees it (no I/O)."""

from __future__ import annotations

import datetime

from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.status import ContainerRecord, ContainerState, PodFacts, Terminated, Waiting
from finetune_sandbox.node.times import parse_time

# The exit code and reason that the kubelet gives a container which it finds no trace of.
LOST_EXIT_CODE, LOST_REASON = 137, "ContainerStatusUnknown"
_LOST_MESSAGE = "The container ended with the node agent that ran it"


def initial_facts(pod: Json, host_ip: str, pod_ip: str, at: datetime.datetime) -> PodFacts:
    """Facts of a pod that is new to this agent, though perhaps not to one before it.

    Containers that the status shows running are lost: a container never outlives its agent.
    """
    status = pod.get("status") or {}
    return PodFacts(
        host_ip=host_ip,
        pod_ip=pod_ip,
        start_time=parse_time(status["startTime"]) if status.get("startTime") else at,
        init_containers=_records(pod, "initContainers", "initContainerStatuses", at),
        containers=_records(pod, "containers", "containerStatuses", at),
    )


def _records(pod: Json, field: str, status_field: str, at: datetime.datetime) -> list[ContainerRecord]:
    known = {entry["name"]: entry for entry in (pod.get("status") or {}).get(status_field) or []}
    return [
        _record(container, pod["metadata"]["uid"], known.get(container["name"]), at)
        for container in pod["spec"].get(field) or []
    ]


def _record(container: Json, uid: str, known: Json | None, at: datetime.datetime) -> ContainerRecord:
    record = ContainerRecord(container["name"], container.get("image") or "", uid)
    if known is None:
        return record
    record.restarts = known.get("restartCount", 0)
    record.state = _state(known.get("state") or {}, at)
    last = _state(known.get("lastState") or {}, at)
    record.last = last if isinstance(last, Terminated) else None
    if record.last and isinstance(record.state, Waiting):
        # It was between two runs: the next one counts.
        record.restarts += 1
    return record


def _state(state: Json, at: datetime.datetime) -> ContainerState:
    if running := state.get("running"):
        return Terminated(LOST_EXIT_CODE, LOST_REASON, at, _time(running.get("startedAt")), message=_LOST_MESSAGE)
    if ended := state.get("terminated"):
        return Terminated(
            exit_code=ended["exitCode"],
            reason=ended.get("reason") or "",
            finished_at=_time(ended.get("finishedAt")) or at,
            started_at=_time(ended.get("startedAt")),
            signal=ended.get("signal") or 0,
            message=ended.get("message") or "",
            container_id=ended.get("containerID") or "",
        )
    return Waiting()


def _time(text: str | None) -> datetime.datetime | None:
    return parse_time(text) if text else None
