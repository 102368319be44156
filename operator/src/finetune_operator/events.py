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
        Reason.CLAIM_NOT_FOUND,
        Reason.SERVICE_ACCOUNT_REFUSED,
        Reason.CHILD_REFUSED,
        Reason.RETRYING,
        Reason.CHECKPOINT_DAMAGED,
        Reason.JOB_NOT_FOUND,
        Reason.JOB_FAILED,
    }
)
# Reasons to wait; the others come with Failed, whose own Event says it.
_WAITS = frozenset(
    {
        Reason.SECRET_NOT_FOUND,
        Reason.CLAIM_NOT_FOUND,
        Reason.SERVICE_ACCOUNT_REFUSED,
        Reason.CHILD_REFUSED,
        Reason.RETRYING,
        Reason.WAITING_FOR_JOB,
        Reason.JOB_NOT_FOUND,
        Reason.JOB_FAILED,
        Reason.QUEUED,
        Reason.REQUEUED,
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
    """An events.k8s.io/v1 Event about a transition of a job."""
    note = condition.message or condition.type.value
    return _event(manifest, condition.reason, _ACTIONS[condition.type], note, instance, now)


def damages(before: FineTuneJobStatus, after: FineTuneJobStatus) -> tuple[str, ...]:
    """What to tell of checkpoints that an attempt has found damaged since."""
    told = {attempt.number for attempt in before.attempts if attempt.damaged_checkpoints}
    return tuple(
        f"attempt {attempt.number} passed over damaged checkpoints and began after step "
        f"{attempt.resumed_from_step or 0}: {', '.join(attempt.damaged_checkpoints)}"
        for attempt in after.attempts
        if attempt.damaged_checkpoints and attempt.number not in told
    )


def damage_event(manifest: Object, note: str, instance: str, now: datetime) -> Object:
    """An Event about damaged checkpoints."""
    return _event(manifest, Reason.CHECKPOINT_DAMAGED, "Resume", note, instance, now)


def _event(manifest: Object, reason: Reason, action: str, note: str, instance: str, now: datetime) -> Object:
    metadata = manifest["metadata"]
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "eventTime": stamp,
        "type": "Warning" if reason in _WARNINGS else "Normal",
        "reason": reason.value,
        "action": action,
        "note": _clipped(note),
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
