"""The status of a local run: the same conditions, stages and results that the operator writes. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, Stage, StageOutcome
from finetune_api.plan import gradient_accumulation_steps
from finetune_api.reports import ProgressReport
from finetune_api.results import Artifact, EvaluationResult, Prepared
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    AttemptStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    FineTuneJobStatus,
    PlanStatus,
    Reason,
    StageStatus,
    State,
)

# A manifest on its own is the first generation of its object.
GENERATION = 1
_STAGES = tuple(Stage)
_STATE_OF_STAGE = {
    Stage.PREPARE: State.PREPARING,
    Stage.TRAIN: State.TRAINING,
    Stage.EVALUATE: State.EVALUATING,
    Stage.PUBLISH: State.PUBLISHING,
}
_POD_STATES = frozenset({State.TRAINING, State.EVALUATING, State.PUBLISHING})
_Verdict = tuple[bool, Reason, str]


def _verdicts(state: State, reason: Reason, message: str, prepared: bool) -> dict[ConditionType, _Verdict]:
    """What each condition says in a state."""
    ended = state in (State.COMPLETE, State.FAILED)
    complete: _Verdict = (True, reason, message) if state is State.COMPLETE else (False, Reason.NOT_PUBLISHED, "")
    failed: _Verdict = (True, reason, message) if state is State.FAILED else (False, Reason.NOT_FAILED, "")
    running: _Verdict = (False, Reason.FINISHED if ended else Reason.PENDING, "")
    suspended: _Verdict = (False, Reason.NOT_SUSPENDED, "")
    if state in _POD_STATES:
        running = (True, Reason.TRAINING, message)
    if state is State.SUSPENDED:
        running, suspended = (False, Reason.SUSPENDED, ""), (True, Reason.SUSPENDED, message)
    unready: _Verdict = (False, reason if state in (State.PREPARING, State.FAILED) else Reason.PENDING, message)
    preparing = state is State.PREPARING
    return {
        ConditionType.VALIDATED: (True, Reason.SPEC_VALID, ""),
        ConditionType.PREPARED: (True, Reason.PREPARED, "") if prepared else unready,
        ConditionType.RUNNING: running,
        ConditionType.SUSPENDED: suspended,
        ConditionType.ARTIFACT_VERIFIED: complete,
        ConditionType.COMPLETE: complete,
        ConditionType.FAILED: failed,
        ConditionType.RECONCILING: (True, reason, message) if preparing else (False, Reason.SETTLED, ""),
        ConditionType.STALLED: failed,
    }


def _entered(status: FineTuneJobStatus, state: State, reason: Reason, message: str, now: datetime) -> FineTuneJobStatus:
    """The status in another state; ``lastTransitionTime`` moves only where a condition did."""
    known = {condition.type: condition for condition in status.conditions}
    conditions = []
    for kind, (holds, why, text) in _verdicts(state, reason, message, status.run_id is not None).items():
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        before = known.get(kind)
        since = before.last_transition_time if before and before.status is value else now
        conditions.append(
            Condition(
                type=kind,
                status=value,
                reason=why,
                message=text,
                last_transition_time=since,
                observed_generation=GENERATION,
            )
        )
    return status.model_copy(update={"state": state, "conditions": tuple(conditions)})


def _with_stage(status: FineTuneJobStatus, stage: StageStatus) -> FineTuneJobStatus:
    others = [entry for entry in status.stages if entry.name is not stage.name]
    ordered = sorted((*others, stage), key=lambda entry: _STAGES.index(entry.name))
    return status.model_copy(update={"stages": tuple(ordered)})


def _stage(status: FineTuneJobStatus, name: Stage) -> StageStatus:
    return next((entry for entry in status.stages if entry.name is name), StageStatus(name=name))


def preparing(now: datetime) -> FineTuneJobStatus:
    """The status at the start of a run."""
    status = FineTuneJobStatus(observed_generation=GENERATION, start_time=now)
    status = _with_stage(status, StageStatus(name=Stage.PREPARE, started=now))
    return _entered(status, State.PREPARING, Reason.PREPARING, "checking and preparing the inputs", now)


def prepared(status: FineTuneJobStatus, spec: FineTuneJobSpec, found: Prepared, now: datetime) -> FineTuneJobStatus:
    """The status when prepare has resolved the run; Complete at once if its artifact is there already."""
    plan = PlanStatus(
        attempt=1,
        world_size=spec.resources.world_size,
        gradient_accumulation_steps=gradient_accumulation_steps(spec),
        total_steps=found.steps,
        model_digest=found.model_digest,
        model_revision=found.model_revision,
        data_uri=found.data_uri,
        train=found.train,
        validation=found.validation,
    )
    stage = _stage(status, Stage.PREPARE).model_copy(update={"finished": now, "message": _summary(found)})
    status = _with_stage(status.model_copy(update={"run_id": found.run_id, "plan": plan}), stage)
    if found.adopted:
        return _complete(status, found.adopted, found.adopted_evaluation, Reason.ADOPTED, now)
    return status


def _summary(found: Prepared) -> str:
    held_out = f", {found.validation.rows} held out" if found.validation else ""
    truncated = f", {found.train.truncated} truncated" if found.train.truncated else ""
    return f"{found.train.rows} rows, {found.train.tokens} tokens{truncated}{held_out}"


def training(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status when the training processes have been started."""
    attempts = (AttemptStatus(number=1, started=now),)
    return _in_stage(status.model_copy(update={"attempts": attempts}), Stage.TRAIN, now)


def _in_stage(status: FineTuneJobStatus, name: Stage, now: datetime) -> FineTuneJobStatus:
    """The status when a stage of the training processes is under way: those before it are done."""
    for earlier in _STAGES[: _STAGES.index(name)]:
        entry = _stage(status, earlier)
        if entry.finished is None:
            done = {"started": entry.started or now, "finished": now}
            status = _with_stage(status, entry.model_copy(update=done))
    entry = _stage(status, name)
    if entry.started is None:
        status = _with_stage(status, entry.model_copy(update={"started": now}))
    return _entered(status, _STATE_OF_STAGE[name], Reason.TRAINING, "all processes are running", now)


def reported(status: FineTuneJobStatus, report: ProgressReport, now: datetime) -> FineTuneJobStatus:
    """The status after a progress report. Reports come in order: one process sends them, one at a time."""
    if report.progress:
        status = status.model_copy(update={"progress": report.progress})
    at = _STAGES.index(report.stage)
    if any(entry.started and _STAGES.index(entry.name) > at for entry in status.stages):
        return status
    return _in_stage(status, report.stage, now)


def trained(status: FineTuneJobStatus, outcome: StageOutcome, artifact: Artifact, now: datetime) -> FineTuneJobStatus:
    """The status when the training processes have published a verified artifact."""
    status = _in_stage(status, Stage.PUBLISH, now)
    published = _stage(status, Stage.PUBLISH).model_copy(update={"finished": now})
    status = _with_stage(status, published)
    status = _attempt_ended(status, "Succeeded", None, now)
    return _complete(status, artifact, outcome.evaluation, Reason.PUBLISHED, now)


def _complete(
    status: FineTuneJobStatus,
    artifact: Artifact,
    evaluation: EvaluationResult | None,
    reason: Reason,
    now: datetime,
) -> FineTuneJobStatus:
    result = {"artifact": artifact, "evaluation": evaluation, "completion_time": now}
    message = f"verified artifact at {artifact.uri}"
    return _entered(status.model_copy(update=result), State.COMPLETE, reason, message, now)


def failed(status: FineTuneJobStatus, failure: Failure, now: datetime) -> FineTuneJobStatus:
    """The status when a stage has failed."""
    status = _attempt_ended(status, failure.failure_class.value, failure.message, now)
    status = status.model_copy(update={"failure": failure, "completion_time": now})
    reason = Reason.RUN_FAILED if status.run_id else Reason.PREPARE_FAILED
    return _entered(status, State.FAILED, reason, f"{failure.message}. {failure.remedy}", now)


def stopped(status: FineTuneJobStatus, signal_name: str, now: datetime) -> FineTuneJobStatus:
    """The status when the run was stopped from outside, which is no failure of the job."""
    status = _attempt_ended(status, "Suspended", None, now)
    message = f"stopped by {signal_name}; run it again to start from the first step"
    return _entered(status, State.SUSPENDED, Reason.SUSPENDED, message, now)


def _attempt_ended(status: FineTuneJobStatus, outcome: str, message: str | None, now: datetime) -> FineTuneJobStatus:
    ended = {"finished": now, "outcome": outcome, "message": message[:1024] if message else None}
    return status.model_copy(
        update={"attempts": tuple(attempt.model_copy(update=ended) for attempt in status.attempts)}
    )


def resource(job: FineTuneJob, status: FineTuneJobStatus) -> dict[str, Any]:
    """The whole resource as ``kubectl get -o yaml`` would show it."""
    metadata = {"name": job.metadata.name, "namespace": job.metadata.namespace, "generation": GENERATION}
    return {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "metadata": metadata,
        "spec": job.spec.to_wire(),
        "status": status.to_wire(),
    }
