"""From one phase to all conditions."""

from __future__ import annotations

import pytest

from finetune_api.conditions import Phase, conditions, is_true
from finetune_api.status import Condition, ConditionStatus, ConditionType, Reason, State
from support.builders import NOW, at

ORDER = [kind.value for kind in ConditionType]

# Status and reason of each condition that a phase says nothing else about.
USUAL = {
    "Validated": "True SpecValid",
    "Suspended": "False NotSuspended",
    "ArtifactVerified": "False NotPublished",
    "Complete": "False NotPublished",
    "Failed": "False NotFailed",
    "Reconciling": "False Settled",
    "Stalled": "False NotFailed",
}


def _row(prepared: str, running: str, **others: str) -> dict[str, str]:
    return USUAL | {"Prepared": prepared, "Running": running} | others


TABLE: dict[str, tuple[Phase, dict[str, str]]] = {
    "preparing": (
        Phase(State.PREPARING, Reason.PREPARING, "m"),
        _row("False Preparing", "False Pending", Reconciling="True Preparing"),
    ),
    "waiting for a Secret": (
        Phase(State.PREPARING, Reason.SECRET_NOT_FOUND, "m"),
        _row("False SecretNotFound", "False Pending", Reconciling="True SecretNotFound"),
    ),
    "waiting for a claim": (
        Phase(State.PREPARING, Reason.CLAIM_NOT_FOUND, "m"),
        _row("False ClaimNotFound", "False Pending", Reconciling="True ClaimNotFound"),
    ),
    "starting": (
        Phase(State.STARTING, Reason.STARTING, "m", prepared=True),
        _row("True Prepared", "False Starting", Reconciling="True Starting"),
    ),
    "pods pending": (
        Phase(State.STARTING, Reason.PODS_PENDING, "m", prepared=True),
        _row("True Prepared", "False PodsPending", Reconciling="True PodsPending"),
    ),
    "queued": (
        Phase(State.QUEUED, Reason.QUEUED, "m", prepared=True),
        _row("True Prepared", "False Queued", Reconciling="True Queued"),
    ),
    "taken back by the queue": (
        Phase(State.QUEUED, Reason.REQUEUED, "m", prepared=True),
        _row("True Prepared", "False Requeued", Reconciling="True Requeued"),
    ),
    "retrying": (
        Phase(State.STARTING, Reason.RETRYING, "m"),
        _row("False Pending", "False Retrying", Reconciling="True Retrying"),
    ),
    "training": (
        Phase(State.TRAINING, Reason.TRAINING, "m", prepared=True),
        _row("True Prepared", "True Training"),
    ),
    "evaluating": (
        Phase(State.EVALUATING, Reason.TRAINING, "m", prepared=True),
        _row("True Prepared", "True Training"),
    ),
    "publishing": (
        Phase(State.PUBLISHING, Reason.TRAINING, "m", prepared=True),
        _row("True Prepared", "True Training"),
    ),
    "suspending": (
        Phase(State.SUSPENDED, Reason.SUSPENDED, "m", settling=True),
        _row("False Pending", "False Suspended", Suspended="False Pending", Reconciling="True Suspended"),
    ),
    "suspended": (
        Phase(State.SUSPENDED, Reason.SUSPENDED, "m", prepared=True),
        _row("True Prepared", "False Suspended", Suspended="True Suspended"),
    ),
    "complete": (
        Phase(State.COMPLETE, Reason.PUBLISHED, "m", prepared=True),
        _row("True Prepared", "False Finished", ArtifactVerified="True Published", Complete="True Published"),
    ),
    "adopted": (
        Phase(State.COMPLETE, Reason.ADOPTED, "m", prepared=True),
        _row("True Prepared", "False Finished", ArtifactVerified="True Adopted", Complete="True Adopted"),
    ),
    "run failed": (
        Phase(State.FAILED, Reason.RUN_FAILED, "m", prepared=True),
        _row("True Prepared", "False Finished", Failed="True RunFailed", Stalled="True RunFailed"),
    ),
    "prepare failed": (
        Phase(State.FAILED, Reason.PREPARE_FAILED, "m"),
        _row("False PrepareFailed", "False Finished", Failed="True PrepareFailed", Stalled="True PrepareFailed"),
    ),
    "invalid": (
        Phase(State.FAILED, Reason.SPEC_INVALID, "m"),
        _row("False SpecInvalid", "False Finished", Failed="True SpecInvalid", Stalled="True SpecInvalid")
        | {"Validated": "False SpecInvalid"},
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_conditions_of_a_phase(case: str) -> None:
    phase, expected = TABLE[case]
    found = conditions(phase, (), 3, NOW)
    assert [condition.type.value for condition in found] == ORDER
    assert {item.type.value: f"{item.status.value} {item.reason.value}" for item in found} == expected
    assert {condition.observed_generation for condition in found} == {3}


@pytest.mark.parametrize("case", TABLE)
def test_complete_and_failed_exclude_each_other(case: str) -> None:
    found = conditions(TABLE[case][0], (), 1, NOW)
    assert not (is_true(found, ConditionType.COMPLETE) and is_true(found, ConditionType.FAILED))
    assert is_true(found, ConditionType.FAILED) == is_true(found, ConditionType.STALLED)


@pytest.mark.parametrize("case", TABLE)
def test_phase_tells_its_message_somewhere(case: str) -> None:
    assert "m" in {condition.message for condition in conditions(TABLE[case][0], (), 1, NOW)}


def _times(found: tuple[Condition, ...]) -> dict[str, object]:
    return {condition.type.value: condition.last_transition_time for condition in found}


def test_transition_time_moves_only_where_the_status_did() -> None:
    before = conditions(TABLE["starting"][0], (), 1, NOW)
    after = conditions(TABLE["training"][0], before, 2, at(9))
    assert {kind for kind, moment in _times(after).items() if moment == at(9)} == {"Running", "Reconciling"}
    assert {kind for kind, moment in _times(after).items() if moment == NOW} == set(ORDER) - {"Running", "Reconciling"}
    assert {condition.observed_generation for condition in after} == {2}


def test_another_reason_with_the_same_status_is_no_transition() -> None:
    before = conditions(TABLE["starting"][0], (), 1, NOW)
    after = conditions(TABLE["pods pending"][0], before, 1, at(9))
    assert set(_times(after).values()) == {NOW}
    running = next(condition for condition in after if condition.type is ConditionType.RUNNING)
    assert running.reason is Reason.PODS_PENDING


def test_same_phase_again_changes_nothing() -> None:
    before = conditions(TABLE["training"][0], (), 1, NOW)
    assert conditions(TABLE["training"][0], before, 1, at(9)) == before


def test_unknown_condition_is_not_true() -> None:
    found = conditions(TABLE["complete"][0], (), 1, NOW)
    assert not is_true((), ConditionType.COMPLETE)
    doubtful = tuple(item.model_copy(update={"status": ConditionStatus.UNKNOWN}) for item in found)
    assert not is_true(doubtful, ConditionType.COMPLETE)
