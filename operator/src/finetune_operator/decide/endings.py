"""How a job ends, and what is left to do about one that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from finetune_api.conditions import Phase
from finetune_api.outcomes import Failure, FailureClass
from finetune_api.results import Artifact, EvaluationResult
from finetune_api.status import FineTuneJobStatus, Reason, State
from finetune_operator.claims import foreign
from finetune_operator.decide.turn import Decision, Turn
from finetune_operator.failures import all_of
from finetune_operator.failures import failure as failure_of
from finetune_operator.observation import Observation
from finetune_operator.run_policy import children_left
from finetune_operator.standing import status_in


def unchanged(seen: Observation, status: FineTuneJobStatus) -> Decision:
    """A finished job stays what it is; only the generation it was seen at moves on. What still runs is ended."""
    generation = seen.manifest["metadata"].get("generation", 0)
    known = tuple(item.model_copy(update={"observed_generation": generation}) for item in status.conditions)
    changed = status.model_copy(update={"conditions": known, "observed_generation": generation})
    return Decision(changed, delete_jobs=seen.unfinished)


def finished(turn: Turn) -> Decision:
    """Deletes what was made for a finished job when its time has come."""
    decision = unchanged(turn.seen, turn.status)
    names = tuple(job.name for job in turn.seen.jobs if not job.deleting)
    left = children_left(turn.job.spec, turn.status, turn.now)
    if left is None or not names:
        return decision
    if left > timedelta(0):
        return replace(decision, requeue_after=left)
    return replace(decision, delete_children=names)


def invalid(
    seen: Observation, status: FineTuneJobStatus, problems: Sequence[str], reason: Reason = Reason.SPEC_INVALID
) -> Decision:
    """A spec that cannot be built, or may not. The job fails, and says everything that is wrong at once."""
    failure = failure_of(FailureClass.USER_ERROR, all_of(problems))
    phase = Phase(State.FAILED, reason, failure.words)
    changed = status_in(seen, status, phase, failure=failure, completion_time=seen.now)
    return Decision(changed, delete_jobs=seen.unfinished)


def fail(turn: Turn, reason: Reason, failure: Failure) -> Decision:
    """The job fails for good."""
    phase = Phase(State.FAILED, reason, failure.words, prepared=reason is Reason.RUN_FAILED)
    status = turn.status.model_copy(update={"failure": failure, "completion_time": turn.now})
    # The next look deletes what still runs.
    again = timedelta(0) if turn.seen.unfinished else None
    return turn.told(status).settle(phase, delete_jobs=(), requeue_after=again)


def complete(turn: Turn, reason: Reason, artifact: Artifact, evaluation: EvaluationResult | None) -> Decision:
    """The job has what it is for, unless another job's artifact lies in its place."""
    if claim := foreign(turn.job, turn.status.run_id, artifact):
        return fail(turn, Reason.RUN_FAILED, claim)
    changes = {"artifact": artifact, "evaluation": evaluation, "completion_time": turn.now}
    phase = Phase(State.COMPLETE, reason, f"verified artifact at {artifact.uri}", prepared=True)
    return turn.told(turn.status.model_copy(update=changes)).settle(phase)
