"""What the operator sees of one job: typed values read from API objects, without any judgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.outcomes import Stage, StageOutcome
from finetune_api.progress import Progress
from finetune_api.reports import ProgressReport
from finetune_api.status import FineTuneJobStatus
from finetune_operator.hearing import Silence
from finetune_operator.naming import ATTEMPT_LABEL, QUEUE_LABEL, STAGE_LABEL
from finetune_operator.workloads import Workload

Object = dict[str, Any]


@dataclass(frozen=True)
class ChildJob:
    """A batch Job of one stage and attempt.

    Attributes:
        suspended: no pod of it runs, by somebody else's will: its queue's.
        admitted: when its pods were last let go, if it was ever suspended.
        queue: the queue that it is labelled with.
    """

    name: str
    stage: Stage
    attempt: int
    created: datetime | None
    finished: datetime | None = None
    succeeded: bool = False
    message: str = ""
    deleting: bool = False
    suspended: bool = False
    admitted: datetime | None = None
    queue: str | None = None
    uid: str = ""


@dataclass(frozen=True)
class Pod:
    """A pod of one stage and attempt.

    Attributes:
        index: completion index, the node's rank.
        node: name of the node that it was placed on.
        scheduled: when it was placed.
        deleted_at: when its deletion was asked for, or None.
        deadline: when its grace period is over after that, or None.
        waiting: reason and message of a container that cannot start, or None.
        unschedulable: the scheduler's message, or None.
        exit_code: of the container, or None while it has not ended.
        oom_killed: the kernel ended it for its memory.
        disrupted: reason and message when the cluster ended it (preemption, eviction, drain, a lost node), or None.
    """

    name: str
    stage: Stage
    attempt: int
    phase: str
    index: int = 0
    deleted_at: datetime | None = None
    deadline: datetime | None = None
    waiting: tuple[str, str] | None = None
    unschedulable: str | None = None
    exit_code: int | None = None
    finished: datetime | None = None
    oom_killed: bool = False
    disrupted: tuple[str, str] | None = None
    outcome: StageOutcome | None = None
    created: datetime | None = None
    node: str | None = None
    scheduled: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class Observation:
    """One job and its children, as they are now.

    ``status`` is the manifest's; ``needed`` the job that its model comes from, the one that this needs in turn, and so
    on, as far as they exist; ``account`` the ServiceAccount that it names, if that exists; ``workload`` what Kueue says
    of the Job that waits in its queue; ``quotas`` the ResourceQuotas of the namespace, where they may be in the way.
    ``silence`` is that of the newest prepare pod that runs.
    ``profiles`` are those that it may run under while that is not decided: the one that it names, or every default.
    """

    manifest: Object
    status: FineTuneJobStatus
    now: datetime
    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    report: ProgressReport | None = None
    needed: tuple[Object, ...] = ()
    account: Object | None = None
    workload: Workload | None = None
    quotas: tuple[Object, ...] = ()
    silence: Silence | None = None
    profiles: tuple[Object, ...] = ()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def job_of(self, stage: Stage, attempt: int) -> ChildJob | None:
        return next((job for job in self.jobs if (job.stage, job.attempt) == (stage, attempt)), None)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the Jobs that must be deleted to end every pod."""
        return tuple(job.name for job in self.jobs if job.finished is None and not job.deleting)

    def pods_of(self, stage: Stage, attempt: int) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if (pod.stage, pod.attempt) == (stage, attempt))

    @property
    def queued(self) -> ChildJob | None:
        """The Job that waits in a queue, if one does."""
        return queued_job(self.jobs)

    def resumed_from(self, attempt: int) -> int | None:
        """From which step an attempt went on, as a pod said when it ended."""
        said = (pod.outcome.resumed_from_step for pod in self.pods_of(Stage.TRAIN, attempt) if pod.outcome)
        return next((step for step in said if step is not None), None)

    def last_progress(self) -> Progress | None:
        """The last that pods of the later attempt said of progress, in a report or when they ended.

        What a pod said at its end may be newer than the report, which came only if operator and API server were there.
        """
        ends = {pod.attempt: pod.outcome.progress for pod in self.pods if pod.outcome and pod.outcome.progress}
        newest = max(ends, default=0)
        report = self.report if self.report and self.report.uid == self.manifest["metadata"]["uid"] else None
        if report and report.progress and report.attempt > newest:
            return report.progress
        return ends.get(newest)


def queued_job(jobs: Iterable[ChildJob]) -> ChildJob | None:
    """The newest Job whose pods somebody else holds back."""
    waiting = [job for job in jobs if job.suspended and job.finished is None and not job.deleting]
    return max(waiting, key=lambda job: (job.attempt, job.stage is Stage.TRAIN), default=None)


def known_status(manifest: Object) -> FineTuneJobStatus:
    """The status as last written. One that cannot be read is as good as none: storage and children know the rest."""
    try:
        return FineTuneJobStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        return FineTuneJobStatus()


def parse_time(text: str | None) -> datetime | None:
    """Reads an RFC 3339 time of the API server."""
    return datetime.fromisoformat(text) if text else None


def _identity(labels: dict[str, str]) -> tuple[Stage, int]:
    return Stage(labels[STAGE_LABEL]), int(labels[ATTEMPT_LABEL])


def _is_child(manifest: Object) -> bool:
    """Whether the labels are as the operator writes them; anybody may put its uid label on a pod of their own."""
    known = manifest["metadata"].get("labels") or {}
    return known.get(STAGE_LABEL) in set(Stage) and known.get(ATTEMPT_LABEL, "").isdecimal()


def _condition(status: Object, kind: str, value: str = "True") -> Object | None:
    found = (item for item in status.get("conditions") or () if item["type"] == kind and item["status"] == value)
    return next(found, None)


def read_job(manifest: Object) -> ChildJob:
    """Reads a batch Job."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    stage, attempt = _identity(metadata["labels"])
    end = _condition(status, "Complete") or _condition(status, "Failed")
    resumed = _condition(status, "Suspended", "False")
    return ChildJob(
        name=metadata["name"],
        stage=stage,
        attempt=attempt,
        created=parse_time(metadata.get("creationTimestamp")),
        finished=parse_time(end["lastTransitionTime"]) if end else None,
        succeeded=bool(end and end["type"] == "Complete"),
        message=(end or {}).get("message", ""),
        deleting="deletionTimestamp" in metadata,
        suspended=bool((manifest.get("spec") or {}).get("suspend")),
        admitted=parse_time(resumed["lastTransitionTime"]) if resumed else None,
        queue=metadata["labels"].get(QUEUE_LABEL),
        uid=metadata.get("uid", ""),
    )


def read_outcome(message: str | None) -> StageOutcome | None:
    """Reads a termination message; None for text that is not an outcome (a crash before the trainer's own code)."""
    try:
        return StageOutcome.model_validate_json(message or "")
    except ValidationError:
        return None


def _deletion_asked(metadata: Object) -> datetime | None:
    """deletionTimestamp is when the grace period ends, not when it began."""
    deadline = parse_time(metadata.get("deletionTimestamp"))
    if deadline is None:
        return None
    return datetime.fromtimestamp(
        deadline.timestamp() - (metadata.get("deletionGracePeriodSeconds") or 0), deadline.tzinfo
    )


@dataclass(frozen=True)
class _Container:
    waiting: tuple[str, str] | None = None
    terminated: Object = field(default_factory=dict)


def _container(status: Object) -> _Container:
    statuses = status.get("containerStatuses") or ()
    state = statuses[0].get("state") or {} if statuses else {}
    waiting = state.get("waiting")
    return _Container(
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        terminated=state.get("terminated") or {},
    )


def _unschedulable(status: Object) -> str | None:
    for item in status.get("conditions") or ():
        if item["type"] == "PodScheduled" and item["status"] == "False":
            return str(item.get("message") or "the pod cannot be scheduled")
    return None


def _disruption(status: Object) -> tuple[str, str] | None:
    # The kubelet's own word says more than its condition, which has one reason for everything that it ends.
    if status.get("phase") == "Failed" and status.get("reason"):
        return str(status["reason"]), str(status.get("message") or "")
    disruption = _condition(status, "DisruptionTarget")
    if disruption:
        return str(disruption.get("reason") or ""), str(disruption.get("message") or "")
    return None


def _scheduled(status: Object) -> datetime | None:
    placed = _condition(status, "PodScheduled")
    return parse_time(placed.get("lastTransitionTime")) if placed else None


def read_pod(manifest: Object) -> Pod:
    """Reads a pod."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    stage, attempt = _identity(metadata["labels"])
    container = _container(status)
    terminated = container.terminated
    return Pod(
        name=metadata["name"],
        stage=stage,
        attempt=attempt,
        phase=status.get("phase", "Pending"),
        index=int((metadata.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", 0)),
        deleted_at=_deletion_asked(metadata),
        deadline=parse_time(metadata.get("deletionTimestamp")),
        waiting=container.waiting,
        unschedulable=_unschedulable(status),
        exit_code=terminated.get("exitCode"),
        finished=parse_time(terminated.get("finishedAt")),
        oom_killed=terminated.get("reason") == "OOMKilled",
        disrupted=_disruption(status),
        outcome=read_outcome(terminated.get("message")),
        created=parse_time(metadata.get("creationTimestamp")),
        node=(manifest.get("spec") or {}).get("nodeName"),
        scheduled=_scheduled(status),
    )


def observe(
    manifest: Object,
    jobs: Iterable[Object],
    pods: Iterable[Object],
    report: ProgressReport | None,
    now: datetime,
    needed: Iterable[Object] = (),
    workload: Workload | None = None,
    quotas: Iterable[Object] = (),
    profiles: Iterable[Object] = (),
    namespace_labels: Mapping[str, str] | None = None,
    status: FineTuneJobStatus | None = None,
) -> Observation:
    """Puts together what was read of one job. The ``status`` is read from the manifest unless that was done already."""
    return Observation(
        manifest=manifest,
        status=status or known_status(manifest),
        now=now.replace(microsecond=0),
        jobs=tuple(read_job(job) for job in jobs if _is_child(job)),
        pods=tuple(read_pod(pod) for pod in pods if _is_child(pod)),
        report=report,
        needed=tuple(needed),
        workload=workload,
        quotas=tuple(quotas),
        profiles=tuple(profiles),
        namespace_labels=namespace_labels or {},
    )
