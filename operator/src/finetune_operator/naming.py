"""Names, labels and ports of a job's children: functions of the job alone, so that a second pass finds the first's."""

from __future__ import annotations

import hashlib

from finetune_api import GROUP
from finetune_api.outcomes import Stage

JOB_LABEL = f"{GROUP}/job"
JOB_UID_LABEL = f"{GROUP}/job-uid"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
FIELD_MANAGER = "finetune-operator"
PROGRESS_MANAGER = "finetune-operator-progress"
# https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
QUEUED_JOB_LABEL = "kueue.x-k8s.io/job-uid"
CHECKPOINT_MANAGER = "finetune-operator-checkpoint"
# On a FineTuneJob, for schedulers: step, time, URI and world size of its newest checkpoint, as JSON.
CHECKPOINT_ANNOTATION = f"{GROUP}/checkpoint"

# Below the ephemeral range of Linux (32768 and up), where a port may be taken by any outgoing connection.
_FIRST_PORT = 20_000
_PORTS = 12_000


def stage_name(job: str, stage: Stage, attempt: int) -> str:
    """Name of the Job, ConfigMap and Service of one stage of one attempt."""
    return f"{job}-{stage.value}-{attempt}"


def labels(job: str, uid: str, stage: Stage, attempt: int) -> dict[str, str]:
    """Labels of every child, by which the operator finds it again."""
    return {
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        JOB_LABEL: job,
        JOB_UID_LABEL: uid,
        STAGE_LABEL: stage.value,
        ATTEMPT_LABEL: str(attempt),
    }


def rendezvous_port(uid: str, attempt: int) -> int:
    """Port of rank 0. It differs between jobs and attempts, since pods may share one network (hostNetwork)."""
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    return _FIRST_PORT + int.from_bytes(digest[:4], "big") % _PORTS
