"""What to do about a job before its pods train: what it waits for, its preparation, the start of an attempt."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api import progression
from finetune_api.bounds import outside_run_policy, too_many_steps
from finetune_api.conditions import Phase
from finetune_api.outcomes import Failure, FailureClass, Stage
from finetune_api.results import Prepared
from finetune_api.status import AttemptStatus, Reason, State
from finetune_operator.accounts import refusal
from finetune_operator.attempts import adjusted, adjustment_of, next_start
from finetune_operator.decide.endings import complete, fail
from finetune_operator.decide.training import attempt_failed
from finetune_operator.decide.turn import ASK_AGAIN, Decision, Turn
from finetune_operator.failures import cause_of_attempt
from finetune_operator.failures import failure as failure_of
from finetune_operator.lost_pods import abandoned, is_lost, silenced
from finetune_operator.objects import PREPARE_RESOURCES, prepare_objects, training_objects, training_resources
from finetune_operator.observation import ChildJob, Pod
from finetune_operator.profiles import built_on, fields_of
from finetune_operator.queueing import LOOK_AGAIN, held_back
from finetune_operator.upstreams import Wait, resolve, unresolved
from finetune_operator.waiting import CONFIG_ERROR, missing_claim, waiting_for

CHECKING = "checking and preparing the inputs"


def begin(turn: Turn) -> Decision:
    """Prepares the next attempt, then starts it."""
    if problem := refusal(turn.job.spec.output.service_account_name, turn.job.metadata.namespace, turn.seen.account):
        return _awaited(turn, Reason.SERVICE_ACCOUNT_REFUSED, problem, turn.status.start_time)
    if outside := outside_run_policy(turn.job.spec, turn.profile) if turn.profile else ():
        return fail(turn, Reason.OUT_OF_BOUNDS, failure_of(FailureClass.USER_ERROR, "; ".join(map(str, outside))))
    prepared = progression.prepared_from(turn.status, turn.number)
    if prepared:
        return _start(turn, prepared)
    start = next_start(turn.status, turn.now)
    if start:
        phase = Phase(State.STARTING, Reason.RETRYING, f"attempt {turn.number} starts at {start.isoformat()}")
        return turn.settle(phase, requeue_after=start - turn.now)
    if unresolved(turn.job.model_copy(update={"status": turn.status})):
        return _find_upstreams(turn)
    job = turn.seen.job_of(Stage.PREPARE, turn.number)
    if job is None:
        phase = Phase(State.PREPARING, Reason.PREPARING, CHECKING)
        return turn.settle(phase, create=prepare_objects(turn.job, turn.policy.platform, turn.number, turn.status))
    return _prepare_ended(turn, job) if job.finished else _preparing(turn, job)


def _find_upstreams(turn: Turn) -> Decision:
    """Writes down what each ``job://`` stands for before anything is built on it, so that a crash or a change of
    the other job cannot mix two of its results."""
    found = resolve(turn.job, turn.seen.needed)
    if isinstance(found, Failure):
        return fail(turn, Reason.SPEC_INVALID, found)
    if isinstance(found, Wait):
        return turn.settle(Phase(State.PENDING, found.reason, found.message))
    turn = turn.told(built_on(turn.seen.manifest, turn.job, turn.profile, turn.status.with_upstreams(found)))
    names = " and ".join(dict.fromkeys(repr(upstream.job) for upstream in found.values()))
    phase = Phase(State.PREPARING, Reason.PREPARING, f"using the result of the FineTuneJob {names}")
    return turn.settle(phase, requeue_after=timedelta(0))


def _preparing(turn: Turn, job: ChildJob) -> Decision:
    pods = turn.seen.pods_of(Stage.PREPARE, turn.number)
    if lost := abandoned(pods, turn.now) or silenced(pods, turn.seen.silence):
        return attempt_failed(turn, lost, Reason.PREPARE_FAILED)
    stage = progression.stage_of(turn.status, Stage.PREPARE)
    if stage.started is None or stage.finished:
        fresh = stage.model_copy(update={"started": job.created, "finished": None, "message": None})
        turn = turn.told(progression.with_stage(turn.status, fresh))
    stuck = next((pod for pod in pods if pod.waiting and pod.waiting[0] == CONFIG_ERROR), None)
    if stuck:
        return _secret_missing(turn, stuck)
    if absent := missing_claim(pods, turn.job.metadata.namespace):
        return turn.settle(Phase(State.PREPARING, Reason.CLAIM_NOT_FOUND, absent))
    held = held_back(job, turn.seen.workload) if job.suspended else None
    held = held or (None if pods else turn.short_of_quota(PREPARE_RESOURCES, 1))
    message = held or waiting_for(pods) or CHECKING
    phase = Phase(State.PREPARING, Reason.PREPARING, message)
    return turn.settle(phase, requeue_after=LOOK_AGAIN if held else None)


def _secret_missing(turn: Turn, pod: Pod) -> Decision:
    """A Secret may arrive a moment after the job when both come from one commit: wait a little before failing."""
    problem = pod.waiting[1][:1024] if pod.waiting else ""
    failure = failure_of(FailureClass.SECRET_MISSING, f"{problem} in namespace {turn.job.metadata.namespace}")
    return _awaited(turn, Reason.SECRET_NOT_FOUND, failure, pod.created)


def _awaited(turn: Turn, reason: Reason, failure: Failure, since: datetime | None) -> Decision:
    """Fails once something that others have to make was waited for long enough."""
    until = (since or turn.now) + turn.policy.secret_grace
    left = until - turn.now
    if left <= timedelta(0):
        return fail(turn, reason, failure)
    message = f"{failure.words} It is waited for until {until:%Y-%m-%d %H:%M:%S} UTC."
    again = min(left + timedelta(seconds=1), ASK_AGAIN)
    return turn.settle(Phase(State.PREPARING, reason, message), requeue_after=again)


def _prepare_ended(turn: Turn, job: ChildJob) -> Decision:
    pods = turn.seen.pods_of(Stage.PREPARE, turn.number)
    prepared = next((pod.outcome.prepared for pod in pods if pod.outcome and pod.outcome.prepared), None)
    if job.succeeded and prepared:
        return _resolved(turn, job, prepared)
    if job.succeeded and any(pod.ended for pod in pods):
        failure = Failure(
            failure_class=FailureClass.INTERNAL,
            message="the prepare pod succeeded and left no result that can be read",
            remedy="See that --trainer-image is of the operator's version, and look at the pod's log.",
        )
        return fail(turn, Reason.PREPARE_FAILED, failure)
    if job.succeeded:
        # Its pod was removed before its result was read. Preparing again costs seconds and no GPU.
        phase = Phase(State.PREPARING, Reason.PREPARING, "the prepare pod is gone; preparing again")
        return turn.settle(phase, delete_jobs=() if job.deleting else (job.name,))
    return fail(turn, Reason.PREPARE_FAILED, cause_of_attempt(job, [pod for pod in pods if pod.ended], 1).failure)


def _resolved(turn: Turn, job: ChildJob, prepared: Prepared) -> Decision:
    if turn.status.run_id not in (None, prepared.run_id):
        failure = Failure(
            failure_class=FailureClass.USER_ERROR,
            message=f"the model or the data changed while the job ran: {turn.status.run_id} is now {prepared.run_id}",
            remedy="Create a FineTuneJob of another name for the new inputs, or restore the old ones.",
        )
        return fail(turn, Reason.PREPARE_FAILED, failure)
    spec = adjusted(turn.job.spec, adjustment_of(turn.job.spec, turn.status.plan))
    status = progression.with_prepared(turn.status, spec, prepared, turn.number, job.created, job.finished or turn.now)
    trained = turn.job.model_copy(update={"spec": spec})
    fields = fields_of(turn.seen.manifest, turn.job, trained, turn.profile)
    turn = turn.told(progression.with_fields(status, fields))
    longer = too_many_steps(turn.profile, prepared.steps) if turn.profile and not prepared.adopted else None
    if longer:
        return fail(turn, Reason.OUT_OF_BOUNDS, failure_of(FailureClass.USER_ERROR, str(longer)))
    if prepared.adopted:
        return complete(turn, Reason.ADOPTED, prepared.adopted, prepared.adopted_evaluation)
    return _start(turn, prepared)


def _start(turn: Turn, prepared: Prepared) -> Decision:
    # The Job of this very attempt may have been created, and deleted by a suspension, before the status knew of it.
    ours = turn.seen.job_of(Stage.TRAIN, turn.number)
    living = [pod for pod in turn.seen.pods if not pod.ended and not is_lost(pod, turn.now)]
    if any(not (ours and pod.attempt == turn.number) for pod in living):
        phase = Phase(
            State.STARTING, Reason.PODS_PENDING, "waiting for pods of the attempt before to end", prepared=True
        )
        return turn.settle(phase, requeue_after=timedelta(seconds=5))
    asked = turn.job.spec.resources
    short = turn.short_of_quota(training_resources(asked), asked.nodes)
    if short and turn.job.spec.queue_name is None:
        phase = Phase(State.QUEUED, Reason.QUEUED, short, prepared=True)
        return turn.settle(phase, requeue_after=LOOK_AGAIN)
    attempt = AttemptStatus(number=turn.number, started=turn.now)
    adjustment = adjustment_of(turn.job.spec, turn.status.plan)
    create = training_objects(turn.job, turn.policy.platform, turn.number, prepared, adjustment, turn.status)
    turn = turn.told(progression.with_attempt(turn.status, attempt))
    phase = Phase(State.STARTING, Reason.STARTING, f"starting attempt {attempt.number}", prepared=True)
    return turn.settle(phase, create=create)
