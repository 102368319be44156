"""Events: on transitions only, in the shape that events.k8s.io wants."""

from __future__ import annotations

import pytest

from finetune_api.conditions import Phase, conditions
from finetune_api.status import (
    AttemptStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    FineTuneJobStatus,
    Reason,
    State,
)
from finetune_operator.events import damage_event, damages, event, transitions
from support.builders import NAME, NAMESPACE, NOW, UID, at, stored

PREPARING = Phase(State.PREPARING, Reason.PREPARING, "m")
NO_SECRET = Phase(State.PREPARING, Reason.SECRET_NOT_FOUND, "m")
STARTING = Phase(State.STARTING, Reason.STARTING, "m", prepared=True)
PENDING = Phase(State.STARTING, Reason.PODS_PENDING, "m", prepared=True)
TRAINING = Phase(State.TRAINING, Reason.TRAINING, "m", prepared=True)
PUBLISHING = Phase(State.PUBLISHING, Reason.TRAINING, "m", prepared=True)
RETRYING = Phase(State.STARTING, Reason.RETRYING, "m")
SUSPENDING = Phase(State.SUSPENDED, Reason.SUSPENDED, "m", settling=True)
SUSPENDED = Phase(State.SUSPENDED, Reason.SUSPENDED, "m")
COMPLETE = Phase(State.COMPLETE, Reason.PUBLISHED, "m", prepared=True)
FAILED = Phase(State.FAILED, Reason.RUN_FAILED, "m", prepared=True)


def _status(phase: Phase | None, moment: float = 0) -> FineTuneJobStatus:
    if phase is None:
        return FineTuneJobStatus()
    return FineTuneJobStatus(conditions=conditions(phase, (), 1, at(moment)))


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (None, PREPARING, []),
        (PREPARING, PREPARING, []),
        (PREPARING, NO_SECRET, ["SecretNotFound"]),
        (NO_SECRET, NO_SECRET, []),
        (NO_SECRET, PREPARING, []),
        (PREPARING, STARTING, ["Prepared"]),
        (STARTING, PENDING, []),
        (PENDING, TRAINING, ["Training"]),
        (TRAINING, PUBLISHING, []),
        (TRAINING, RETRYING, ["Retrying"]),
        (RETRYING, RETRYING, []),
        (TRAINING, SUSPENDING, []),
        (SUSPENDING, SUSPENDED, ["Suspended"]),
        (PUBLISHING, COMPLETE, ["Published"]),
        (TRAINING, FAILED, ["RunFailed"]),
        (FAILED, FAILED, []),
    ],
)
def test_transitions(before: Phase | None, after: Phase, reasons: list[str]) -> None:
    told = transitions(_status(before), _status(after, 60))
    assert [condition.reason.value for condition in told] == reasons


def _condition(kind: ConditionType, reason: Reason, message: str = "in words") -> Condition:
    return Condition(
        type=kind,
        status=ConditionStatus.TRUE,
        reason=reason,
        message=message,
        last_transition_time=NOW,
        observed_generation=1,
    )


def test_event_as_a_whole() -> None:
    made = event(stored(), _condition(ConditionType.COMPLETE, Reason.PUBLISHED), "operator-0", at(1.25))
    assert made == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{NAME}-", "namespace": NAMESPACE},
        "eventTime": "2026-03-01T12:00:01.250000Z",
        "type": "Normal",
        "reason": "Published",
        "action": "Publish",
        "note": "in words",
        "reportingController": "finetune.dev/finetune-operator",
        "reportingInstance": "operator-0",
        "regarding": {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": UID,
        },
    }


@pytest.mark.parametrize(
    ("kind", "reason", "expected"),
    [
        (ConditionType.RUNNING, Reason.TRAINING, "Normal"),
        (ConditionType.SUSPENDED, Reason.SUSPENDED, "Normal"),
        (ConditionType.COMPLETE, Reason.ADOPTED, "Normal"),
        (ConditionType.FAILED, Reason.RUN_FAILED, "Warning"),
        (ConditionType.FAILED, Reason.SPEC_INVALID, "Warning"),
        (ConditionType.PREPARED, Reason.SECRET_NOT_FOUND, "Warning"),
        (ConditionType.PREPARED, Reason.CLAIM_NOT_FOUND, "Warning"),
        (ConditionType.RUNNING, Reason.RETRYING, "Warning"),
    ],
)
def test_trouble_is_a_warning(kind: ConditionType, reason: Reason, expected: str) -> None:
    assert event(stored(), _condition(kind, reason), "i", NOW)["type"] == expected


def test_damaged_checkpoints_are_told_once() -> None:
    before = FineTuneJobStatus(attempts=(AttemptStatus(number=1, damaged_checkpoints=("step-1",)),))
    fresh = AttemptStatus(number=2, resumed_from_step=40, damaged_checkpoints=("step-60", "step-50"))
    after = before.model_copy(update={"attempts": (*before.attempts, fresh)})
    (note,) = damages(before, after)
    assert note == "attempt 2 passed over damaged checkpoints and began after step 40: step-60, step-50"
    told = damage_event(stored(), note, "i", NOW)
    assert (told["type"], told["reason"], told["note"]) == ("Warning", "CheckpointDamaged", note)
    assert damages(after, after) == ()


def test_event_without_words_has_a_note() -> None:
    assert event(stored(), _condition(ConditionType.PREPARED, Reason.PREPARED, ""), "i", NOW)["note"] == "Prepared"


@pytest.mark.parametrize("character", ["x", "é", "語", "😀"])
def test_note_is_bounded_in_bytes(character: str) -> None:
    note = event(stored(), _condition(ConditionType.FAILED, Reason.RUN_FAILED, character * 2000), "i", NOW)["note"]
    assert 1020 < len(note.encode()) <= 1024
    assert set(note) == {character}
