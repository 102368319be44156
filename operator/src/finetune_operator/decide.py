"""What to do about one job: a pure function from what is seen to what is created, deleted and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api import progression
from finetune_api.bounds import outside_run_policy, too_many_steps
from finetune_api.conditions import Phase
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, FailureClass, Stage, deadline_exceeded
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.reports import ProgressReport
from finetune_api.results import Artifact, EvaluationResult, Prepared
from finetune_api.status import AttemptStatus, FineTuneJobStatus, ProfileSnapshot, Reason, State
from finetune_operator.accounting import with_usage
from finetune_operator.accounts import refusal
from finetune_operator.attempts import (
    SUCCEEDED,
    SUSPENDED,
    UNREAD,
    adjusted,
    adjustment_of,
    counts,
    next_attempt,
    next_start,
    with_adjustment,
)
from finetune_operator.claims import foreign
from finetune_operator.failures import Cause, all_of, cause_of_attempt, cause_so_far, problems_of
from finetune_operator.failures import failure as failure_of
from finetune_operator.lost_pods import abandoned, is_lost, silenced
from finetune_operator.objects import PREPARE_RESOURCES, prepare_objects, training_objects, training_resources
from finetune_operator.observation import ChildJob, Observation, Pod
from finetune_operator.policy import Policy
from finetune_operator.profiles import Stall, adopted, built_on, fields_of, governed, platform_under
from finetune_operator.queueing import (
    LOOK_AGAIN,
    held_back,
    in_another_queue,
    left_to_others,
    partly_done,
    since_admission,
    waiting,
)
from finetune_operator.quotas import demand_of, shortage
from finetune_operator.run_policy import children_left, deadline_left
from finetune_operator.standing import is_final, status_in
from finetune_operator.upstreams import Wait, resolve, unresolved
from finetune_operator.waiting import CONFIG_ERROR, blocked, missing_claim, waiting_for

Object = dict[str, Any]

# How soon to look again for a profile that is missing or has to be mended.
_PROFILE_WAIT = timedelta(seconds=3)
_CHECKING = "checking and preparing the inputs"
_STATE_OF_STAGE = {
    Stage.PREPARE: State.STARTING,
    Stage.TRAIN: State.TRAINING,
    Stage.EVALUATE: State.EVALUATING,
    Stage.PUBLISH: State.PUBLISHING,
}


@dataclass(frozen=True)
class Decision:
    """What to do, in this order: create, delete, write the status; then look again after a while.

    Attributes:
        delete_jobs: names of Jobs whose pods are to end.
        delete_children: names of Jobs that are to go with everything that was made for them.
    """

    status: FineTuneJobStatus | None
    create: tuple[Object, ...] = ()
    delete_jobs: tuple[str, ...] = ()
    delete_children: tuple[str, ...] = ()
    requeue_after: timedelta | None = None


@dataclass(frozen=True)
class _Turn:
    """One look at one job, with the status as it is being changed."""

    job: FineTuneJob
    seen: Observation
    policy: Policy
    status: FineTuneJobStatus
    profile: FineTuneProfileSpec | None = None

    @property
    def number(self) -> int:
        return progression.attempt_number(self.status)

    @property
    def now(self) -> datetime:
        return self.seen.now

    def told(self, status: FineTuneJobStatus) -> _Turn:
        return replace(self, status=status)

    def ended(self, outcome: str, message: str, node: str | None = None) -> _Turn:
        """The turn once its attempt is over."""
        used = with_usage(self.status, self.job.spec, self.report, outcome, self.now)
        return self.told(progression.ended_attempt(used, self.number, outcome, message, self.now, node))

    @property
    def report(self) -> ProgressReport | None:
        """The newest report, if it is of this very attempt."""
        report = self.seen.report
        current = report and report.uid == self.job.metadata.uid and report.attempt == self.number
        return report if current else None

    @property
    def strays(self) -> tuple[str, ...]:
        """Jobs that live on beyond their attempt: one that failed before its pods ran, or what an operator made that
        acted on an old sight. Only what is written already counts: were the Job gone before the status says why, nobody
        would know."""
        written = progression.attempt_number(self.seen.status)
        unfinished = (job for job in self.seen.jobs if job.finished is None and not job.deleting)
        return tuple(job.name for job in unfinished if job.attempt != written)

    def settle(self, phase: Phase, **rest: Any) -> Decision:
        """The decision that leaves the job in a phase."""
        return Decision(status=status_in(self.seen, self.status, phase), **({"delete_jobs": self.strays} | rest))


def decide(seen: Observation, policy: Policy) -> Decision:
    """Decides about one job. Nothing but its arguments counts, so that any crash is followed by the same decision."""
    if seen.manifest["metadata"].get("deletionTimestamp") or left_to_others(seen.manifest):
        return Decision(status=None)
    status = seen.status
    final = is_final(status)
    try:
        found = governed(seen, status)
    except ValidationError as error:
        return _unchanged(seen, status) if final else _invalid(seen, status, problems_of(error))
    if isinstance(found, Stall):
        return _stalled(seen, status, found)
    platform = platform_under(policy.platform, found.profile, found.job)
    turn = _Turn(found.job, seen, replace(policy, platform=platform), status, found.profile)
    if final:
        return _finished(turn)
    if found.refusals:
        return _invalid(seen, status, found.refusals, found.reason)
    if not found.begun:
        return _adopt(turn.told(adopted(seen.manifest, found, status)), found.snapshot)
    if found.job.spec.suspend:
        return _suspend(turn)
    if progression.open_attempt(status):
        return _follow(turn)
    return _begin(turn)


def refused(seen: Observation, problem: str) -> FineTuneJobStatus:
    """The status of a job one of whose children the API server refused to create. It is tried again."""
    status = seen.status
    prepared = progression.prepared_from(status, progression.attempt_number(status)) is not None
    state = State.STARTING if prepared else State.PREPARING
    phase = Phase(state, Reason.CHILD_REFUSED, f"{problem}. It is tried again", prepared=prepared)
    return status_in(seen, status, phase)


def _unchanged(seen: Observation, status: FineTuneJobStatus) -> Decision:
    """A finished job stays what it is; only the generation it was seen at moves on. What still runs is ended."""
    generation = seen.manifest["metadata"].get("generation", 0)
    known = tuple(item.model_copy(update={"observed_generation": generation}) for item in status.conditions)
    changed = status.model_copy(update={"conditions": known, "observed_generation": generation})
    return Decision(changed, delete_jobs=seen.unfinished)


def _finished(turn: _Turn) -> Decision:
    """Deletes what was made for a finished job when its time has come."""
    decision = _unchanged(turn.seen, turn.status)
    names = tuple(job.name for job in turn.seen.jobs if not job.deleting)
    left = children_left(turn.job.spec, turn.status, turn.now)
    if left is None or not names:
        return decision
    if left > timedelta(0):
        return replace(decision, requeue_after=left)
    return replace(decision, delete_children=names)


def _invalid(
    seen: Observation, status: FineTuneJobStatus, problems: Sequence[str], reason: Reason = Reason.SPEC_INVALID
) -> Decision:
    """A spec that cannot be built, or may not. The job fails, and says everything that is wrong at once."""
    failure = failure_of(FailureClass.USER_ERROR, all_of(problems))
    phase = Phase(State.FAILED, reason, failure.words)
    changed = status_in(seen, status, phase, failure=failure, completion_time=seen.now)
    return Decision(changed, delete_jobs=seen.unfinished)


def _stalled(seen: Observation, status: FineTuneJobStatus, stall: Stall) -> Decision:
    """Nothing can be decided before somebody has mended a profile, which is looked at again and again."""
    phase = Phase(State.PENDING, stall.reason, stall.message)
    return Decision(status_in(seen, status, phase), requeue_after=_PROFILE_WAIT)


def _adopt(turn: _Turn, snapshot: ProfileSnapshot | None) -> Decision:
    """Writes down profile and defaults before anything is built on them: a crash, a change of the profile or another
    version of the operator cannot mix two of them."""
    message = f"running under the FineTuneProfile {snapshot.name!r}" if snapshot else _CHECKING
    return turn.settle(Phase(State.PREPARING, Reason.PREPARING, message), requeue_after=timedelta(0))


def _fail(turn: _Turn, reason: Reason, failure: Failure) -> Decision:
    phase = Phase(State.FAILED, reason, failure.words, prepared=reason is Reason.RUN_FAILED)
    status = turn.status.model_copy(update={"failure": failure, "completion_time": turn.now})
    # The next look deletes what still runs.
    again = timedelta(0) if turn.seen.unfinished else None
    return turn.told(status).settle(phase, delete_jobs=(), requeue_after=again)


def _complete(turn: _Turn, reason: Reason, artifact: Artifact, evaluation: EvaluationResult | None) -> Decision:
    if claim := foreign(turn.job, turn.status.run_id, artifact):
        return _fail(turn, Reason.RUN_FAILED, claim)
    changes = {"artifact": artifact, "evaluation": evaluation, "completion_time": turn.now}
    phase = Phase(State.COMPLETE, reason, f"verified artifact at {artifact.uri}", prepared=True)
    return turn.told(turn.status.model_copy(update=changes)).settle(phase)


def _suspend(turn: _Turn) -> Decision:
    """Ends every pod. What ran goes on from its newest checkpoint on resume."""
    attempt = progression.open_attempt(turn.status)
    if attempt:
        job = turn.seen.job_of(Stage.TRAIN, attempt.number)
        if job and job.finished:
            # It ended before it could be suspended: its result counts.
            return _follow(turn)
        turn = turn.ended(SUSPENDED, "spec.suspend is true")
    living = [pod for pod in turn.seen.pods if not pod.ended]
    prepared = progression.prepared_from(turn.status, turn.number) is not None
    message = f"waiting for {len(living)} pods to end" if living else "spec.suspend is true; set it to false to start"
    phase = Phase(State.SUSPENDED, Reason.SUSPENDED, message, prepared=prepared, settling=bool(living))
    return turn.settle(phase, delete_jobs=turn.seen.unfinished)


def _begin(turn: _Turn) -> Decision:
    """Prepares the next attempt, then starts it."""
    if problem := refusal(turn.job.spec.output.service_account_name, turn.job.metadata.namespace, turn.seen.account):
        return _awaited(turn, Reason.SERVICE_ACCOUNT_REFUSED, problem, turn.status.start_time)
    if outside := outside_run_policy(turn.job.spec, turn.profile) if turn.profile else ():
        return _fail(turn, Reason.OUT_OF_BOUNDS, failure_of(FailureClass.USER_ERROR, "; ".join(map(str, outside))))
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
        phase = Phase(State.PREPARING, Reason.PREPARING, _CHECKING)
        return turn.settle(phase, create=prepare_objects(turn.job, turn.policy.platform, turn.number, turn.status))
    return _prepare_ended(turn, job) if job.finished else _preparing(turn, job)


def _find_upstreams(turn: _Turn) -> Decision:
    """Writes down what each ``job://`` stands for before anything is built on it, so that a crash or a change of
    the other job cannot mix two of its results."""
    found = resolve(turn.job, turn.seen.needed)
    if isinstance(found, Failure):
        return _fail(turn, Reason.SPEC_INVALID, found)
    if isinstance(found, Wait):
        return turn.settle(Phase(State.PENDING, found.reason, found.message))
    turn = turn.told(built_on(turn.seen.manifest, turn.job, turn.profile, turn.status.with_upstreams(found)))
    names = " and ".join(dict.fromkeys(repr(upstream.job) for upstream in found.values()))
    phase = Phase(State.PREPARING, Reason.PREPARING, f"using the result of the FineTuneJob {names}")
    return turn.settle(phase, requeue_after=timedelta(0))


def _preparing(turn: _Turn, job: ChildJob) -> Decision:
    pods = turn.seen.pods_of(Stage.PREPARE, turn.number)
    if lost := abandoned(pods, turn.now) or silenced(pods, turn.seen.silence):
        return _attempt_failed(turn, lost, Reason.PREPARE_FAILED)
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
    held = held or (None if pods else _short_of_quota(turn, PREPARE_RESOURCES, 1))
    message = held or waiting_for(pods) or _CHECKING
    phase = Phase(State.PREPARING, Reason.PREPARING, message)
    return turn.settle(phase, requeue_after=LOOK_AGAIN if held else None)


def _secret_missing(turn: _Turn, pod: Pod) -> Decision:
    """A Secret may arrive a moment after the job when both come from one commit: wait a little before failing."""
    problem = pod.waiting[1][:1024] if pod.waiting else ""
    failure = failure_of(FailureClass.SECRET_MISSING, f"{problem} in namespace {turn.job.metadata.namespace}")
    return _awaited(turn, Reason.SECRET_NOT_FOUND, failure, pod.created)


def _awaited(turn: _Turn, reason: Reason, failure: Failure, since: datetime | None) -> Decision:
    """Fails once something that others have to make was waited for long enough."""
    until = (since or turn.now) + turn.policy.secret_grace
    if until <= turn.now:
        return _fail(turn, reason, failure)
    message = f"{failure.words} It is waited for until {until:%Y-%m-%d %H:%M:%S} UTC."
    return turn.settle(Phase(State.PREPARING, reason, message), requeue_after=until - turn.now + timedelta(seconds=1))


def _prepare_ended(turn: _Turn, job: ChildJob) -> Decision:
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
        return _fail(turn, Reason.PREPARE_FAILED, failure)
    if job.succeeded:
        # Its pod was removed before its result was read. Preparing again costs seconds and no GPU.
        phase = Phase(State.PREPARING, Reason.PREPARING, "the prepare pod is gone; preparing again")
        return turn.settle(phase, delete_jobs=() if job.deleting else (job.name,))
    return _fail(turn, Reason.PREPARE_FAILED, cause_of_attempt(job, [pod for pod in pods if pod.ended], 1).failure)


def _resolved(turn: _Turn, job: ChildJob, prepared: Prepared) -> Decision:
    if turn.status.run_id not in (None, prepared.run_id):
        failure = Failure(
            failure_class=FailureClass.USER_ERROR,
            message=f"the model or the data changed while the job ran: {turn.status.run_id} is now {prepared.run_id}",
            remedy="Create a FineTuneJob of another name for the new inputs, or restore the old ones.",
        )
        return _fail(turn, Reason.PREPARE_FAILED, failure)
    spec = adjusted(turn.job.spec, adjustment_of(turn.job.spec, turn.status.plan))
    status = progression.with_prepared(turn.status, spec, prepared, turn.number, job.created, job.finished or turn.now)
    trained = turn.job.model_copy(update={"spec": spec})
    fields = fields_of(turn.seen.manifest, turn.job, trained, turn.profile)
    turn = turn.told(progression.with_fields(status, fields))
    longer = too_many_steps(turn.profile, prepared.steps) if turn.profile and not prepared.adopted else None
    if longer:
        return _fail(turn, Reason.OUT_OF_BOUNDS, failure_of(FailureClass.USER_ERROR, str(longer)))
    if prepared.adopted:
        return _complete(turn, Reason.ADOPTED, prepared.adopted, prepared.adopted_evaluation)
    return _start(turn, prepared)


def _start(turn: _Turn, prepared: Prepared) -> Decision:
    # The Job of this very attempt may have been created, and deleted by a suspension, before the status knew of it.
    ours = turn.seen.job_of(Stage.TRAIN, turn.number)
    living = [pod for pod in turn.seen.pods if not pod.ended and not is_lost(pod, turn.now)]
    if any(not (ours and pod.attempt == turn.number) for pod in living):
        phase = Phase(
            State.STARTING, Reason.PODS_PENDING, "waiting for pods of the attempt before to end", prepared=True
        )
        return turn.settle(phase, requeue_after=timedelta(seconds=5))
    asked = turn.job.spec.resources
    short = _short_of_quota(turn, training_resources(asked), asked.nodes)
    if short and turn.job.spec.queue_name is None:
        phase = Phase(State.QUEUED, Reason.QUEUED, short, prepared=True)
        return turn.settle(phase, requeue_after=LOOK_AGAIN)
    attempt = AttemptStatus(number=turn.number, started=turn.now)
    adjustment = adjustment_of(turn.job.spec, turn.status.plan)
    create = training_objects(turn.job, turn.policy.platform, turn.number, prepared, adjustment, turn.status)
    turn = turn.told(progression.with_attempt(turn.status, attempt))
    phase = Phase(State.STARTING, Reason.STARTING, f"starting attempt {attempt.number}", prepared=True)
    return turn.settle(phase, create=create)


def _short_of_quota(turn: _Turn, resources: Object, pods: int) -> str | None:
    """Which quota of the namespace has no room for so many pods."""
    return shortage(turn.seen.quotas, demand_of(resources, pods), turn.job.spec.priority_class_name)


def _follow(turn: _Turn) -> Decision:
    """An attempt is under way."""
    number, nodes = turn.number, turn.job.spec.resources.nodes
    job = turn.seen.job_of(Stage.TRAIN, number)
    pods = turn.seen.pods_of(Stage.TRAIN, number)
    # The last report may have come with the end.
    turn = _reported(turn, None)
    known = progression.open_attempt(turn.status)
    if job is None or (job.finished is None and job.deleting):
        return _attempt_failed(turn, cause_of_attempt(None, pods, nodes, known))
    if job.finished is None and job.suspended:
        return _queued(turn, job, pods)
    if job.finished is None:
        pods = since_admission(job, pods)
        cause = cause_so_far(pods, nodes)
        if silence := abandoned(pods, turn.now):
            return _attempt_failed(turn, cause or silence)
        return _training(_reported(turn, cause), pods)
    if job.succeeded:
        return _attempt_succeeded(turn, pods)
    return _attempt_failed(turn, cause_of_attempt(job, pods, nodes, known))


def _queued(turn: _Turn, job: ChildJob, pods: tuple[Pod, ...]) -> Decision:
    """The queue holds the pods back: for the first time, or since it took them away."""
    spec = turn.job.spec
    if in_another_queue(job, spec):
        message = f"moving from queue {job.queue} to {spec.queue_name}"
        phase = Phase(State.QUEUED, Reason.QUEUED, message)
        return turn.ended(SUSPENDED, message).settle(phase, requeue_after=timedelta(0))
    if partly_done(pods):
        message = "the queue took the pods away when some had done their work already"
        return _attempt_failed(turn, Cause(failure_of(FailureClass.PREEMPTED, message)))
    used = with_usage(turn.status, spec, turn.report, SUSPENDED, turn.now)
    turn = turn.told(progression.requeued(used))
    return turn.settle(waiting(job, turn.status, turn.seen), requeue_after=LOOK_AGAIN)


def _reported(turn: _Turn, cause: Cause | None) -> _Turn:
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


def _training(turn: _Turn, pods: tuple[Pod, ...]) -> Decision:
    nodes = turn.job.spec.resources.nodes
    running = sum(1 for pod in pods if pod.phase == "Running" or pod.ended)
    if running < nodes:
        return _pending(turn, pods, running)
    turn = turn.told(progression.running(turn.status, turn.now))
    left = deadline_left(turn.job.spec, turn.status, turn.now)
    if left is not None and left <= timedelta(0):
        failure = deadline_exceeded(turn.job.spec.active_deadline_seconds)
        turn = turn.ended(failure.failure_class.value, failure.message)
        return _fail(turn, Reason.RUN_FAILED, failure)
    stage = turn.report.stage if turn.report else progression.stage_reached(turn.status)
    turn = turn.told(progression.entered(turn.status, stage, turn.now))
    phase = Phase(_STATE_OF_STAGE[stage], Reason.TRAINING, f"{nodes} of {nodes} pods are running", prepared=True)
    return turn.settle(phase, requeue_after=left)


def _pending(turn: _Turn, pods: tuple[Pod, ...], running: int) -> Decision:
    """Some pods do not run yet. They are waited for, but not for ever: those that run may hold GPUs meanwhile."""
    asked, attempt = turn.job.spec.resources, progression.open_attempt(turn.status)
    # Once the gang has run, a pod that is missing was lost.
    fresh = attempt is not None and attempt.running is None
    short = _short_of_quota(turn, training_resources(asked), asked.nodes - len(pods)) if fresh else None
    avoiding = bool(adjustment_of(turn.job.spec, turn.status.plan).avoided_nodes)
    waits = turn.policy.waits.staggered(turn.job.metadata.uid)
    block = blocked(pods, waits, turn.now, avoiding, short)
    if block and block.left <= timedelta(0):
        return _attempt_failed(turn, Cause(block.failure, block.node))
    message = waiting_for(pods) or short or f"{running} of {asked.nodes} pods are running"
    phase = Phase(State.STARTING, Reason.PODS_PENDING, message, prepared=True)
    return turn.settle(phase, requeue_after=block.left + timedelta(seconds=1) if block else None)


def _attempt_succeeded(turn: _Turn, pods: tuple[Pod, ...]) -> Decision:
    outcome = next((pod.outcome for pod in pods if pod.outcome and pod.outcome.artifact), None)
    if outcome is None or outcome.artifact is None:
        message = "the pods were gone before their result was read; looking for it in storage"
        turn = turn.ended(UNREAD, message)
        return turn.settle(Phase(State.PREPARING, Reason.PREPARING, message), requeue_after=timedelta(0))
    stages = progression.finished(turn.status, turn.now).stages
    turn = turn.ended(SUCCEEDED, "")
    turn = turn.told(turn.status.model_copy(update={"stages": stages}))
    return _complete(turn, Reason.PUBLISHED, outcome.artifact, outcome.evaluation)


def _attempt_failed(turn: _Turn, cause: Cause, last: Reason = Reason.RUN_FAILED) -> Decision:
    """What follows the loss of an attempt; ``last`` is the reason of the job's failure when nothing does."""
    failure, kind = cause.failure, cause.failure.failure_class
    turn = _reported(turn, None)
    status = turn.ended(kind.value, failure.message, cause.node).status
    if counts(kind):
        status = status.model_copy(update={"losses": (status.losses or 0) + 1})
    following = next_attempt(turn.job.spec, status, kind)
    if following is None:
        return _fail(turn.told(status), last, failure)
    status = with_adjustment(status, turn.job.spec, following.adjustment)
    phase = Phase(State.STARTING, Reason.RETRYING, f"attempt {turn.number} ended: {failure.message}")
    return turn.told(progression.announced(status, following.change)).settle(phase, requeue_after=timedelta(0))
