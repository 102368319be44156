"""Kubernetes Events, on transitions of conditions only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.status import Condition, ConditionStatus, ConditionType, FineTuneJobStatus, Reason
from finetune_operator.naming import FIELD_MANAGER

Object = dict[str, Any]

_WARNINGS = frozenset(
    {
        Reason.RUN_FAILED,
        Reason.PREPARE_FAILED,
        Reason.SPEC_INVALID,
        Reason.SECRET_NOT_FOUND,
        Reason.CHILD_REFUSED,
        Reason.RETRYING,
        Reason.JOB_NOT_FOUND,
        Reason.JOB_FAILED,
    }
)
# Reasons to wait; the others come with Failed, whose own Event says it.
_WAITS = frozenset(
    {
        Reason.SECRET_NOT_FOUND,
        Reason.CHILD_REFUSED,
        Reason.RETRYING,
        Reason.WAITING_FOR_JOB,
        Reason.JOB_NOT_FOUND,
        Reason.JOB_FAILED,
    }
)
# What is worth telling when a condition takes a status, or keeps it for a new reason.
_TOLD = {
    (ConditionType.PREPARED, ConditionStatus.TRUE),
    (ConditionType.RUNNING, ConditionStatus.TRUE),
    (ConditionType.SUSPENDED, ConditionStatus.TRUE),
    (ConditionType.COMPLETE, ConditionStatus.TRUE),
    (ConditionType.FAILED, ConditionStatus.TRUE),
}
_MAX_NOTE_BYTES = 1024
_ACTIONS = {
    ConditionType.PREPARED: "Prepare",
    ConditionType.RUNNING: "Train",
    ConditionType.SUSPENDED: "Suspend",
    ConditionType.COMPLETE: "Publish",
    ConditionType.FAILED: "Fail",
}


def transitions(before: FineTuneJobStatus, after: FineTuneJobStatus) -> tuple[Condition, ...]:
    """Conditions that came to say something worth an Event."""
    known = {condition.type: condition for condition in before.conditions}
    return tuple(condition for condition in after.conditions if _tells(known.get(condition.type), condition))


def _tells(before: Condition | None, after: Condition) -> bool:
    if (after.type, after.status) in _TOLD:
        return before is None or before.status is not after.status
    if after.type not in (ConditionType.PREPARED, ConditionType.RUNNING) or after.reason not in _WAITS:
        return False
    return before is None or before.reason is not after.reason


def _clipped(text: str) -> str:
    """The API server counts bytes, not characters."""
    return text.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore")


def event(manifest: Object, condition: Condition, instance: str, now: datetime) -> Object:
    """An events.k8s.io/v1 Event about a job."""
    metadata = manifest["metadata"]
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "eventTime": stamp,
        "type": "Warning" if condition.reason in _WARNINGS else "Normal",
        "reason": condition.reason.value,
        "action": _ACTIONS[condition.type],
        "note": _clipped(condition.message or condition.type.value),
        "reportingController": f"finetune.dev/{FIELD_MANAGER}",
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }
