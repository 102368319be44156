"""A pod's status, from what its containers are doing (no I/O)."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.times import timestamp

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]
TERMINAL: tuple[Phase, ...] = ("Succeeded", "Failed")
CREATING = "ContainerCreating"
INITIALIZING = "PodInitializing"


@dataclass(frozen=True)
class Waiting:
    """Not started, or between two starts."""

    reason: str = CREATING
    message: str = ""


@dataclass(frozen=True)
class Running:
    """The process runs."""

    started_at: datetime.datetime


@dataclass(frozen=True)
class Terminated:
    """The process ended; ``exit_code`` is 128 plus the signal when a signal ended it."""

    exit_code: int
    reason: str
    finished_at: datetime.datetime
    started_at: datetime.datetime | None = None
    signal: int = 0
    message: str = ""
    container_id: str = ""


ContainerState = Waiting | Running | Terminated


@dataclass
class ContainerRecord:
    """One container of a pod: its state now, how it ended the last time, and how often it was started again."""

    name: str
    image: str
    uid: str
    state: ContainerState = field(default_factory=Waiting)
    last: Terminated | None = None
    restarts: int = 0

    @property
    def container_id(self) -> str:
        """Identifies one run of the container, as a container runtime's ID does."""
        digest = hashlib.sha256(f"{self.uid}/{self.name}/{self.restarts}".encode()).hexdigest()
        return f"process://{digest}"

    @property
    def succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return isinstance(self.state, Terminated) and self.state.exit_code == 0


@dataclass
class PodFacts:
    """What the node knows about a pod."""

    host_ip: str
    pod_ip: str
    start_time: datetime.datetime
    init_containers: list[ContainerRecord]
    containers: list[ContainerRecord]
    # Why the pod as a whole failed, such as DeadlineExceeded.
    reason: str = ""
    message: str = ""
    # Why the node ended it on purpose: the reason of its DisruptionTarget condition.
    disruption: str = ""
    # No container will be started again.
    finished: bool = False


def pod_phase(facts: PodFacts) -> Phase:
    """The phase: terminal only when no container runs nor will."""
    records = facts.init_containers + facts.containers
    if facts.finished and not any(isinstance(record.state, Running) for record in records):
        good = not facts.reason and all(record.succeeded for record in records)
        return "Succeeded" if good else "Failed"
    if any(not isinstance(record.state, Waiting) or record.last for record in facts.containers):
        return "Running"
    return "Pending"


def build_status(pod: Json, facts: PodFacts, at: datetime.datetime) -> Json:
    """The status for a strategic merge patch; ``at`` is the transition time of conditions that change."""
    phase = pod_phase(facts)
    status: Json = {
        "phase": phase,
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "startTime": timestamp(facts.start_time),
        "conditions": _conditions(pod, facts, phase, at),
        "containerStatuses": [_container_status(record, True) for record in facts.containers],
        "observedGeneration": pod["metadata"].get("generation", 1),
    }
    if facts.init_containers:
        status["initContainerStatuses"] = [_container_status(record, False) for record in facts.init_containers]
    if facts.pod_ip:
        status |= {"podIP": facts.pod_ip, "podIPs": [{"ip": facts.pod_ip}]}
    if facts.reason:
        status |= {"reason": facts.reason, "message": facts.message}
    return status


def _conditions(pod: Json, facts: PodFacts, phase: Phase, at: datetime.datetime) -> list[Json]:
    generation = pod["metadata"].get("generation", 1)
    previous = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions") or []}
    conditions = [
        ("PodReadyToStartContainers", bool(facts.pod_ip) and phase not in TERMINAL, "", ""),
        ("Initialized", *_initialized(facts, phase)),
        ("Ready", *_ready(facts, phase)),
        ("ContainersReady", *_ready(facts, phase)),
    ]
    if facts.disruption:
        conditions.append(("DisruptionTarget", True, facts.disruption, facts.message))
    return [
        _condition(previous.get(kind), kind, true, reason, message, generation, at)
        for kind, true, reason, message in conditions
    ]


def _condition(
    previous: Json | None, kind: str, true: bool, reason: str, message: str, generation: int, at: datetime.datetime
) -> Json:
    status = "True" if true else "False"
    same = previous is not None and previous["status"] == status
    since = previous["lastTransitionTime"] if same and previous else timestamp(at)
    condition: Json = {"type": kind, "status": status, "lastTransitionTime": since, "observedGeneration": generation}
    # None removes what an earlier patch wrote.
    return condition | {"reason": reason or None, "message": message or None}


def _initialized(facts: PodFacts, phase: Phase) -> tuple[bool, str, str]:
    if phase == "Succeeded":
        return True, "PodCompleted", ""
    unfinished = [record.name for record in facts.init_containers if not record.succeeded]
    if not unfinished:
        return True, "", ""
    return False, "ContainersNotInitialized", f"containers with incomplete status: {_names(unfinished)}"


def _ready(facts: PodFacts, phase: Phase) -> tuple[bool, str, str]:
    if phase == "Succeeded":
        return False, "PodCompleted", ""
    if phase == "Failed":
        return False, "PodFailed", ""
    unready = [record.name for record in facts.containers if not isinstance(record.state, Running)]
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: {_names(unready)}"
    return True, "", ""


def _names(names: Iterable[str]) -> str:
    return "[" + " ".join(names) + "]"


def _container_status(record: ContainerRecord, main: bool) -> Json:
    running = isinstance(record.state, Running)
    status: Json = {
        "name": record.name,
        "image": record.image,
        "imageID": "",
        "ready": running if main else record.succeeded,
        "started": running,
        "restartCount": record.restarts,
        "state": container_state(record.state),
        "lastState": container_state(record.last) if record.last else {},
    }
    if not isinstance(record.state, Waiting):
        status["containerID"] = record.container_id
    elif record.last:
        status["containerID"] = record.last.container_id
    return status


def container_state(state: ContainerState) -> Json:
    """A ``v1.ContainerState``."""
    if isinstance(state, Waiting):
        waiting = {"reason": state.reason} | ({"message": state.message} if state.message else {})
        return {"waiting": waiting}
    if isinstance(state, Running):
        return {"running": {"startedAt": timestamp(state.started_at)}}
    terminated: Json = {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": timestamp(state.started_at) if state.started_at else None,
        "finishedAt": timestamp(state.finished_at),
        "containerID": state.container_id,
    }
    if state.signal:
        terminated["signal"] = state.signal
    if state.message:
        terminated["message"] = state.message
    return {"terminated": terminated}
