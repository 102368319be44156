"""A gang that waits in a queue, such as Kueue's: its Job is suspended until the queue lets it go, and again when the
queue takes it back. Time in the queue costs nothing: no retry, no second of the deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from finetune_api import progression
from finetune_api.conditions import Phase
from finetune_api.spec import OPERATOR, FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, Reason, State
from finetune_operator.naming import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from finetune_operator.observation import ChildJob, Observation, Pod
from finetune_operator.workloads import Workload

Object = dict[str, Any]

# Admission is told by the Job itself; what a queue waits for changes without a word to anybody but who asks.
LOOK_AGAIN = timedelta(seconds=15)
_LONGEST = 1024


def left_to_others(manifest: Object) -> bool:
    """Whether spec.managedBy names another controller. Nothing else of such a job is read: it may be newer."""
    return (manifest.get("spec") or {}).get("managedBy") not in (None, OPERATOR)


def with_queue(job: Object, spec: FineTuneJobSpec, labels: Mapping[str, str]) -> Object:
    """A batch Job that waits in the queue of the spec, if it names one.

    It is created suspended, so that it waits also where nobody watches the queue. ``labels`` are the FineTuneJob's: of
    them Kueue's own name of a priority goes to the Job, where Kueue looks for it.
    """
    if spec.queue_name is None:
        return job
    given = {key: labels[key] for key in (QUEUE_PRIORITY_LABEL,) if key in labels}
    metadata = job["metadata"] | {"labels": job["metadata"]["labels"] | {QUEUE_LABEL: spec.queue_name} | given}
    return job | {"metadata": metadata, "spec": job["spec"] | {"suspend": True}}


def in_another_queue(job: ChildJob, spec: FineTuneJobSpec) -> bool:
    """Whether a Job waits in a queue that the manifest does not name any more."""
    return spec.queue_name is not None and job.queue != spec.queue_name


def since_admission(job: ChildJob, pods: Sequence[Pod]) -> tuple[Pod, ...]:
    """The pods that were made since the queue last let the Job go; those from before are ending, or have ended.

    One that lives counts whatever its time says: the Job controller makes pods first and notes the admission after,
    maybe in the next second.
    """
    admitted = job.admitted
    if admitted is None:
        return tuple(pods)
    return tuple(pod for pod in pods if not (pod.ended or pod.deleted_at) or not pod.created or pod.created >= admitted)


def partly_done(pods: Sequence[Pod]) -> bool:
    """Whether a part of the gang had done its work when the rest was taken away: it could not go on without that."""
    return any(pod.phase == "Succeeded" for pod in pods)


def waiting(job: ChildJob, status: FineTuneJobStatus, seen: Observation) -> Phase:
    """Where a job is whose training pods wait in their queue."""
    attempt = progression.open_attempt(status)
    living = [pod for pod in seen.pods if not pod.ended]
    back = bool(attempt and attempt.evictions)
    words = [_place(job)]
    if living:
        words.append(f"{len(living)} pods save a checkpoint and end")
    if told := _told(job, seen.workload, back):
        words.append(told)
    reason = Reason.REQUEUED if back else Reason.QUEUED
    return Phase(State.QUEUED, reason, ": ".join(words)[:_LONGEST], prepared=True)


def held_back(job: ChildJob, workload: Workload | None) -> str:
    """Why the prepare stage does not begin: a queue takes every Job of the namespace."""
    told = _told(job, workload, back=False)
    return f"the prepare Job {_place(job)}: {told}"[:_LONGEST]


def _place(job: ChildJob) -> str:
    return f"waits in queue {job.queue}" if job.queue else "is suspended and in no queue"


def _told(job: ChildJob, workload: Workload | None, back: bool) -> str:
    """What is known of the reason."""
    if job.queue is None:
        return "set spec.queueName, or leave Jobs without a queue alone (Kueue's manageJobsWithoutQueueName)"
    if workload is None:
        return "Kueue has not taken it up yet; see that it runs with the integration batch/job"
    if not workload.active:
        return f"Workload {workload.name} is not active; set its spec.active to true"
    evicted = workload.evicted if back else ""
    return ". ".join(part.rstrip(".") for part in (evicted, workload.waits_for) if part)
