"""What to do about a job whose attempt is under way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from finetune_api import progression
from finetune_api.conditions import Phase
from finetune_api.outcomes import FailureClass, Stage, deadline_exceeded
from finetune_api.status import Reason, State
from finetune_operator.accounting import with_usage
from finetune_operator.attempts import (
    SUCCEEDED,
    SUSPENDED,
    UNREAD,
    adjustment_of,
    counts,
    next_attempt,
    with_adjustment,
)
from finetune_operator.decide.endings import complete, fail
from finetune_operator.decide.turn import Decision, Turn
from finetune_operator.failures import Cause, cause_of_attempt, cause_so_far
from finetune_operator.failures import failure as failure_of
from finetune_operator.lost_pods import abandoned
from finetune_operator.objects import training_resources
from finetune_operator.observation import ChildJob, Pod
from finetune_operator.queueing import LOOK_AGAIN, in_another_queue, partly_done, since_admission, waiting
from finetune_operator.run_policy import deadline_left
from finetune_operator.waiting import blocked, waiting_for

_STATE_OF_STAGE = {
    Stage.PREPARE: State.STARTING,
    Stage.TRAIN: State.TRAINING,
    Stage.EVALUATE: State.EVALUATING,
    Stage.PUBLISH: State.PUBLISHING,
}


def follow(turn: Turn) -> Decision:
    """An attempt is under way."""
    number, nodes = turn.number, turn.job.spec.resources.nodes
    job = turn.seen.job_of(Stage.TRAIN, number)
    pods = turn.seen.pods_of(Stage.TRAIN, number)
    # The last report may have come with the end.
    turn = _reported(turn, None)
    known = progression.open_attempt(turn.status)
    if job is None or (job.finished is None and job.deleting):
        return attempt_failed(turn, cause_of_attempt(None, pods, nodes, known))
    if job.finished is None and job.suspended:
        return _queued(turn, job, pods)
    if job.finished is None:
        pods = since_admission(job, pods)
        cause = cause_so_far(pods, nodes)
        if silence := abandoned(pods, turn.now):
            return attempt_failed(turn, cause or silence)
        return _training(_reported(turn, cause), pods)
    if job.succeeded:
        return _attempt_succeeded(turn, pods)
    return attempt_failed(turn, cause_of_attempt(job, pods, nodes, known))


def _queued(turn: Turn, job: ChildJob, pods: tuple[Pod, ...]) -> Decision:
    """The queue holds the pods back: for the first time, or since it took them away."""
    spec = turn.job.spec
    if in_another_queue(job, spec):
        message = f"moving from queue {job.queue} to {spec.queue_name}"
        phase = Phase(State.QUEUED, Reason.QUEUED, message)
        return turn.ended(SUSPENDED, message).settle(phase, requeue_after=timedelta(0))
    if partly_done(pods):
        message = "the queue took the pods away when some had done their work already"
        return attempt_failed(turn, Cause(failure_of(FailureClass.PREEMPTED, message)))
    used = with_usage(turn.status, spec, turn.report, SUSPENDED, turn.now)
    turn = turn.told(progression.requeued(used))
    return turn.settle(waiting(job, turn.status, turn.seen), requeue_after=LOOK_AGAIN)


def _reported(turn: Turn, cause: Cause | None) -> Turn:
    """Writes into the open attempt what is known of it by now: memory and pods may be gone when it has ended."""
    attempt, report = progression.open_attempt(turn.status), turn.report
    if attempt is None:
        return turn
    found: dict[str, Any] = {}
    if cause:
        found = {
            "outcome": cause.failure.failure_class.value,
            "message": cause.failure.message[:1024],
            "node": cause.node,
        }
    told: dict[str, Any] = {"resumed_from_step": turn.seen.resumed_from(turn.number)}
    if report:
        told |= {"first_step": report.first_step, "damaged_checkpoints": report.damaged or None}
        told |= {"resumed_from_step": report.resumed_from_step} if report.resumed_from_step is not None else {}
    found |= {name: value for name, value in told.items() if value is not None}
    return turn.told(progression.with_attempt(turn.status, attempt.model_copy(update=found)))


def _training(turn: Turn, pods: tuple[Pod, ...]) -> Decision:
    nodes = turn.job.spec.resources.nodes
    running = sum(1 for pod in pods if pod.phase == "Running" or pod.ended)
    if running < nodes:
        return _pending(turn, pods, running)
    turn = turn.told(progression.running(turn.status, turn.now))
    left = deadline_left(turn.job.spec, turn.status, turn.now)
    if left is not None and left <= timedelta(0):
        failure = deadline_exceeded(turn.job.spec.active_deadline_seconds)
        turn = turn.ended(failure.failure_class.value, failure.message)
        return fail(turn, Reason.RUN_FAILED, failure)
    stage = turn.report.stage if turn.report else progression.stage_reached(turn.status)
    turn = turn.told(progression.entered(turn.status, stage, turn.now))
    phase = Phase(_STATE_OF_STAGE[stage], Reason.TRAINING, f"{nodes} of {nodes} pods are running", prepared=True)
    return turn.settle(phase, requeue_after=left)


def _pending(turn: Turn, pods: tuple[Pod, ...], running: int) -> Decision:
    """Some pods do not run yet. They are waited for, but not for ever: those that run may hold GPUs meanwhile."""
    asked, attempt = turn.job.spec.resources, progression.open_attempt(turn.status)
    # Once the gang has run, a pod that is missing was lost.
    fresh = attempt is not None and attempt.running is None
    short = turn.short_of_quota(training_resources(asked), asked.nodes - len(pods)) if fresh else None
    avoiding = bool(adjustment_of(turn.job.spec, turn.status.plan).avoided_nodes)
    waits = turn.policy.waits.staggered(turn.job.metadata.uid)
    block = blocked(pods, waits, turn.now, avoiding, short)
    if block and block.left <= timedelta(0):
        return attempt_failed(turn, Cause(block.failure, block.node))
    message = waiting_for(pods) or short or f"{running} of {asked.nodes} pods are running"
    phase = Phase(State.STARTING, Reason.PODS_PENDING, message, prepared=True)
    return turn.settle(phase, requeue_after=block.left + timedelta(seconds=1) if block else None)


def _attempt_succeeded(turn: Turn, pods: tuple[Pod, ...]) -> Decision:
    outcome = next((pod.outcome for pod in pods if pod.outcome and pod.outcome.artifact), None)
    if outcome is None or outcome.artifact is None:
        message = "the pods were gone before their result was read; looking for it in storage"
        turn = turn.ended(UNREAD, message)
        return turn.settle(Phase(State.PREPARING, Reason.PREPARING, message), requeue_after=timedelta(0))
    stages = progression.finished(turn.status, turn.now).stages
    turn = turn.ended(SUCCEEDED, "")
    turn = turn.told(turn.status.model_copy(update={"stages": stages}))
    return complete(turn, Reason.PUBLISHED, outcome.artifact, outcome.evaluation)


def attempt_failed(turn: Turn, cause: Cause, last: Reason = Reason.RUN_FAILED) -> Decision:
    """What follows the loss of an attempt; ``last`` is the reason of the job's failure when nothing does."""
    failure, kind = cause.failure, cause.failure.failure_class
    turn = _reported(turn, None)
    status = turn.ended(kind.value, failure.message, cause.node).status
    if counts(kind):
        status = status.model_copy(update={"losses": (status.losses or 0) + 1})
    following = next_attempt(turn.job.spec, status, kind)
    if following is None:
        return fail(turn.told(status), last, failure)
    status = with_adjustment(status, turn.job.spec, following.adjustment)
    phase = Phase(State.STARTING, Reason.RETRYING, f"attempt {turn.number} ended: {failure.message}")
    return turn.told(progression.announced(status, following.change)).settle(phase, requeue_after=timedelta(0))
