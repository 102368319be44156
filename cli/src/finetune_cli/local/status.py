"""The status of a local run: the same conditions, stages and results that the operator writes. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api import progression
from finetune_api.conditions import Phase, conditions
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, Stage, StageOutcome
from finetune_api.plan import NO_UPSTREAMS
from finetune_api.reports import ProgressReport
from finetune_api.results import Artifact, EvaluationResult, Prepared
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    AttemptStatus,
    FineTuneJobStatus,
    PlanStatus,
    Reason,
    StageStatus,
    State,
)
from finetune_api.upstream import Upstreams

# A manifest on its own is the first generation of its object.
GENERATION = 1
# A local run starts its processes once.
_ATTEMPT = 1
_STAGES = tuple(Stage)
_STATE_OF_STAGE = {
    Stage.PREPARE: State.PREPARING,
    Stage.TRAIN: State.TRAINING,
    Stage.EVALUATE: State.EVALUATING,
    Stage.PUBLISH: State.PUBLISHING,
}


def _entered(status: FineTuneJobStatus, state: State, reason: Reason, message: str, now: datetime) -> FineTuneJobStatus:
    """The status in another state."""
    phase = Phase(state, reason, message, prepared=status.run_id is not None)
    said = conditions(phase, status.conditions, GENERATION, now)
    return status.model_copy(update={"state": state, "conditions": said})


def preparing(now: datetime, plan: PlanStatus, upstreams: Upstreams = NO_UPSTREAMS) -> FineTuneJobStatus:
    """The status at the start of a run; ``upstreams`` is what each ``job://`` stands for."""
    status = FineTuneJobStatus(observed_generation=GENERATION, start_time=now, plan=plan).with_upstreams(upstreams)
    status = progression.with_stage(status, StageStatus(name=Stage.PREPARE, started=now))
    return _entered(status, State.PREPARING, Reason.PREPARING, "checking and preparing the inputs", now)


def prepared(status: FineTuneJobStatus, spec: FineTuneJobSpec, found: Prepared, now: datetime) -> FineTuneJobStatus:
    """The status when prepare has resolved the run; Complete at once if its artifact is there already."""
    started = progression.stage_of(status, Stage.PREPARE).started
    status = progression.with_prepared(status, spec, found, _ATTEMPT, started, now)
    if found.adopted:
        return _complete(status, found.adopted, found.adopted_evaluation, Reason.ADOPTED, now)
    return status


def training(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """The status when the training processes have been started."""
    attempts = (AttemptStatus(number=_ATTEMPT, started=now),)
    return _in_stage(status.model_copy(update={"attempts": attempts}), Stage.TRAIN, now)


def _in_stage(status: FineTuneJobStatus, name: Stage, now: datetime) -> FineTuneJobStatus:
    """The status when a stage of the training processes is under way: those before it are done."""
    status = progression.entered(status, name, now)
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
    status = progression.finished(status, now)
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
    return _entered(status, State.FAILED, reason, failure.words, now)


def stopped(status: FineTuneJobStatus, signal_name: str, now: datetime) -> FineTuneJobStatus:
    """The status when the run was stopped from outside, which is no failure of the job."""
    status = _attempt_ended(status, "Suspended", None, now)
    message = f"stopped by {signal_name}; run it again to go on from its newest checkpoint, if it has one"
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
