"""Decides about one job: the order of the questions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from pydantic import ValidationError

from finetune_api import progression
from finetune_api.conditions import Phase
from finetune_api.outcomes import Stage
from finetune_api.status import FineTuneJobStatus, ProfileSnapshot, Reason, State
from finetune_operator.attempts import SUSPENDED
from finetune_operator.decide.endings import finished, invalid, unchanged
from finetune_operator.decide.preparing import CHECKING, begin
from finetune_operator.decide.training import follow
from finetune_operator.decide.turn import ASK_AGAIN, Decision, Turn
from finetune_operator.failures import problems_of
from finetune_operator.observation import Observation
from finetune_operator.policy import Policy
from finetune_operator.profiles import Stall, adopted, governed, platform_under
from finetune_operator.queueing import left_to_others
from finetune_operator.standing import is_final, status_in


def decide(seen: Observation, policy: Policy) -> Decision:
    """Decides about one job. Nothing but its arguments counts, so that any crash is followed by the same decision."""
    if seen.manifest["metadata"].get("deletionTimestamp") or left_to_others(seen.manifest):
        return Decision(status=None)
    status = seen.status
    final = is_final(status)
    try:
        found = governed(seen, status)
    except ValidationError as error:
        return unchanged(seen, status) if final else invalid(seen, status, problems_of(error))
    if isinstance(found, Stall):
        return _stalled(seen, status, found)
    platform = platform_under(policy.platform, found.profile, found.job)
    turn = Turn(found.job, seen, replace(policy, platform=platform), status, found.profile)
    if final:
        return finished(turn)
    if found.refusals:
        return invalid(seen, status, found.refusals, found.reason)
    if not found.begun:
        return _adopt(turn.told(adopted(seen.manifest, found, status)), found.snapshot)
    if found.job.spec.suspend:
        return _suspend(turn)
    if progression.open_attempt(status):
        return follow(turn)
    return begin(turn)


def refused(seen: Observation, problem: str) -> FineTuneJobStatus:
    """The status of a job one of whose children the API server refused to create. It is tried again."""
    status = seen.status
    prepared = progression.prepared_from(status, progression.attempt_number(status)) is not None
    state = State.STARTING if prepared else State.PREPARING
    phase = Phase(state, Reason.CHILD_REFUSED, f"{problem}. It is tried again", prepared=prepared)
    return status_in(seen, status, phase)


def _stalled(seen: Observation, status: FineTuneJobStatus, stall: Stall) -> Decision:
    """Nothing can be decided before somebody has mended a profile, which is looked at again and again."""
    phase = Phase(State.PENDING, stall.reason, stall.message)
    return Decision(status_in(seen, status, phase), requeue_after=ASK_AGAIN)


def _adopt(turn: Turn, snapshot: ProfileSnapshot | None) -> Decision:
    """Writes down profile and defaults before anything is built on them: a crash, a change of the profile or another
    version of the operator cannot mix two of them."""
    message = f"running under the FineTuneProfile {snapshot.name!r}" if snapshot else CHECKING
    return turn.settle(Phase(State.PREPARING, Reason.PREPARING, message), requeue_after=timedelta(0))


def _suspend(turn: Turn) -> Decision:
    """Ends every pod. What ran goes on from its newest checkpoint on resume."""
    attempt = progression.open_attempt(turn.status)
    if attempt:
        job = turn.seen.job_of(Stage.TRAIN, attempt.number)
        if job and job.finished:
            # It ended before it could be suspended: its result counts.
            return follow(turn)
        turn = turn.ended(SUSPENDED, "spec.suspend is true")
    living = [pod for pod in turn.seen.pods if not pod.ended]
    prepared = progression.prepared_from(turn.status, turn.number) is not None
    message = f"waiting for {len(living)} pods to end" if living else "spec.suspend is true; set it to false to start"
    phase = Phase(State.SUSPENDED, Reason.SUSPENDED, message, prepared=prepared, settling=bool(living))
    return turn.settle(phase, delete_jobs=turn.seen.unfinished)
