"""Conditions of a job: one table from what is known of it to what each condition says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_api.status import Condition, ConditionStatus, ConditionType, Reason, State

_RUNNING_STATES = frozenset({State.TRAINING, State.EVALUATING, State.PUBLISHING})
_TOLD_BY_PREPARED = frozenset(
    {
        Reason.PREPARING,
        Reason.SECRET_NOT_FOUND,
        Reason.CLAIM_NOT_FOUND,
        Reason.SERVICE_ACCOUNT_REFUSED,
        Reason.WAITING_FOR_JOB,
        Reason.JOB_NOT_FOUND,
        Reason.JOB_FAILED,
        Reason.CHILD_REFUSED,
        Reason.PREPARE_FAILED,
        Reason.SPEC_INVALID,
        Reason.OUT_OF_BOUNDS,
        Reason.PROFILE_NOT_FOUND,
        Reason.PROFILE_INVALID,
        Reason.PROFILES_AMBIGUOUS,
    }
)
# Somebody else has to mend something, and then the job goes on.
_STALLED = frozenset({Reason.JOB_FAILED, Reason.PROFILE_NOT_FOUND, Reason.PROFILE_INVALID, Reason.PROFILES_AMBIGUOUS})
_INVALID = frozenset({Reason.SPEC_INVALID, Reason.OUT_OF_BOUNDS})
_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE

Verdict = tuple[ConditionStatus, Reason, str]


@dataclass(frozen=True)
class Phase:
    """Where a job is, in one place, from which every condition follows.

    Attributes:
        state: the word for people.
        reason: why it is there.
        message: the same in words.
        prepared: the inputs of the current attempt are resolved.
        settling: pods of a suspended job are still ending.
    """

    state: State
    reason: Reason
    message: str
    prepared: bool = False
    settling: bool = False


def _validated(phase: Phase) -> Verdict:
    if phase.reason in _INVALID:
        return _FALSE, phase.reason, phase.message
    return _TRUE, Reason.SPEC_VALID, ""


def _prepared(phase: Phase) -> Verdict:
    if phase.prepared:
        return _TRUE, Reason.PREPARED, ""
    if phase.reason in _TOLD_BY_PREPARED:
        return _FALSE, phase.reason, phase.message
    return _FALSE, Reason.PENDING, ""


def _running(phase: Phase) -> Verdict:
    if phase.state in _RUNNING_STATES:
        return _TRUE, Reason.TRAINING, phase.message
    if phase.state in (State.COMPLETE, State.FAILED):
        return _FALSE, Reason.FINISHED, ""
    if phase.state is State.SUSPENDED:
        return _FALSE, Reason.SUSPENDED, ""
    if phase.state in (State.QUEUED, State.STARTING):
        return _FALSE, phase.reason, phase.message
    return _FALSE, Reason.PENDING, ""


def _suspended(phase: Phase) -> Verdict:
    if phase.state is not State.SUSPENDED:
        return _FALSE, Reason.NOT_SUSPENDED, ""
    return (_FALSE, Reason.PENDING, phase.message) if phase.settling else (_TRUE, Reason.SUSPENDED, phase.message)


def _published(phase: Phase) -> Verdict:
    if phase.state is State.COMPLETE:
        return _TRUE, phase.reason, phase.message
    return _FALSE, Reason.NOT_PUBLISHED, ""


def _failed(phase: Phase) -> Verdict:
    if phase.state is State.FAILED:
        return _TRUE, phase.reason, phase.message
    return _FALSE, Reason.NOT_FAILED, ""


def _stalled(phase: Phase) -> Verdict:
    """A job that waits for somebody to mend something else does not get on by itself, and has not failed for good."""
    return (_TRUE, phase.reason, phase.message) if phase.reason in _STALLED else _failed(phase)


def _reconciling(phase: Phase) -> Verdict:
    if phase.reason in _STALLED:
        return _FALSE, phase.reason, phase.message
    if phase.state in (State.PENDING, State.PREPARING, State.QUEUED, State.STARTING) or phase.settling:
        return _TRUE, phase.reason, phase.message
    return _FALSE, Reason.SETTLED, ""


_TABLE = {
    ConditionType.VALIDATED: _validated,
    ConditionType.PREPARED: _prepared,
    ConditionType.RUNNING: _running,
    ConditionType.SUSPENDED: _suspended,
    ConditionType.ARTIFACT_VERIFIED: _published,
    ConditionType.COMPLETE: _published,
    ConditionType.FAILED: _failed,
    ConditionType.RECONCILING: _reconciling,
    ConditionType.STALLED: _stalled,
}


def conditions(phase: Phase, before: tuple[Condition, ...], generation: int, now: datetime) -> tuple[Condition, ...]:
    """All conditions of a job; ``lastTransitionTime`` moves only where the status did."""
    known = {condition.type: condition for condition in before}
    result = []
    for kind, judge in _TABLE.items():
        status, reason, message = judge(phase)
        old = known.get(kind)
        changed = now if old is None or old.status is not status else old.last_transition_time
        result.append(
            Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                last_transition_time=changed,
                observed_generation=generation,
            )
        )
    return tuple(result)


def is_true(before: tuple[Condition, ...], kind: ConditionType) -> bool:
    """Whether a condition is known and True."""
    return any(condition.type is kind and condition.status is _TRUE for condition in before)
