"""Values for tests: manifests, children as the API server shows them, and what stages report. No behaviour."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, FailureClass, Stage, StageOutcome
from finetune_api.progress import Progress
from finetune_api.reports import ProgressReport
from finetune_api.results import Artifact, EvaluationResult, Prepared, SplitSummary
from finetune_operator.naming import QUEUE_LABEL, labels, stage_name
from finetune_operator.objects import Platform
from finetune_operator.policy import Policy

Object = dict[str, Any]

NAME, NAMESPACE, UID = "haiku", "team-a", "6f0c2b1e-0000-4000-8000-000000000001"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
RUN_ID = "r-0123456789abcdef0123"
PLATFORM = Platform("registry.example/trainer@sha256:aa", "https://operator.example:8443", "PEM OF THE CA\n")
POLICY = Policy(PLATFORM, secret_grace=timedelta(seconds=30))


def at(seconds: float) -> datetime:
    """A moment some seconds after the tests' beginning of time."""
    return NOW + timedelta(seconds=seconds)


def stamp(moment: datetime) -> str:
    """A time as the API server writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def merged(base: Object, changes: Object) -> Object:
    """A deep copy of ``base`` with ``changes`` laid over it; None removes a field."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def spec(**changes: Any) -> Object:
    """The smallest spec that the CRD accepts, with changes laid over it."""
    base = {
        "model": {"source": "s3://models/tiny"},
        "dataset": {"train": [{"source": "s3://data/train.jsonl"}]},
        "output": {"destination": "s3://results/team"},
    }
    return merged(base, changes)


def manifest(name: str = NAME, namespace: str = NAMESPACE, **changes: Any) -> Object:
    """A manifest as a user writes it."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec(**changes)}


def stored(generation: int = 1, status: Object | None = None, uid: str = UID, **changes: Any) -> Object:
    """A FineTuneJob as the API server gives it back."""
    document = manifest(**changes)
    document["metadata"] |= {"uid": uid, "generation": generation, "creationTimestamp": stamp(NOW)}
    return document | ({"status": copy.deepcopy(status)} if status is not None else {})


def job(**changes: Any) -> FineTuneJob:
    return FineTuneJob.from_manifest(stored(**changes))


def child_labels(stage: Stage, attempt: int, uid: str = UID) -> dict[str, str]:
    return labels(NAME, uid, stage, attempt)


def batch_job(
    stage: Stage = Stage.TRAIN,
    attempt: int = 1,
    *,
    ended: str | None = None,
    finished: float = 60,
    message: str = "",
    deleting: bool = False,
    queue: str | None = None,
    suspended: bool = False,
    admitted: float | None = None,
) -> Object:
    """A batch Job; ``ended`` is Complete, Failed or None, ``finished`` and ``admitted`` (when its queue let it go) in
    seconds after the beginning."""
    metadata: Object = {
        "name": stage_name(NAME, stage, attempt),
        "namespace": NAMESPACE,
        "labels": child_labels(stage, attempt),
        "creationTimestamp": stamp(NOW),
    }
    if deleting:
        metadata["deletionTimestamp"] = stamp(at(30))
    if queue:
        metadata["labels"][QUEUE_LABEL] = queue
    status: Object = {}
    if admitted is not None:
        resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": stamp(at(admitted))}
        status["conditions"] = [resumed]
    if ended:
        condition = {"type": ended, "status": "True", "message": message, "lastTransitionTime": stamp(at(finished))}
        # The Job controller writes the condition that announces the end before the final one.
        status["conditions"] = [{"type": "SuccessCriteriaMet", "status": "True"}, condition]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "status": status}
    return job | ({"spec": {"suspend": True}} if suspended else {})


def pod(
    stage: Stage = Stage.TRAIN,
    attempt: int = 1,
    index: int = 0,
    *,
    phase: str = "Running",
    exit_code: int | None = None,
    finished: float = 60,
    reason: str = "Error",
    outcome: StageOutcome | str | None = None,
    waiting: tuple[str, str] | None = None,
    deleted: float | None = None,
    conditions: tuple[Object, ...] = (),
    created: float = 0,
    pod_reason: str | None = None,
    node: str | None = None,
    scheduled: float | None = None,
) -> Object:
    """A pod; times are in seconds after the beginning, ``deleted`` is when its deletion was asked for."""
    name = f"{stage_name(NAME, stage, attempt)}-{index}-abcde"
    metadata: Object = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": child_labels(stage, attempt),
        "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        "creationTimestamp": stamp(at(created)),
    }
    if deleted is not None:
        metadata |= {"deletionTimestamp": stamp(at(deleted + 30)), "deletionGracePeriodSeconds": 30}
    status: Object = {"phase": phase, "conditions": list(conditions)}
    if scheduled is not None:
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(at(scheduled))}
        status["conditions"].append(placed)
    if pod_reason:
        status["reason"] = pod_reason
    state = _container_state(exit_code, finished, reason, outcome, waiting)
    if state:
        status["containerStatuses"] = [{"name": "trainer", "state": state}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": status}


def resource_quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> Object:
    """A ResourceQuota that has been counted."""
    return {
        "metadata": {"name": "gpus", "namespace": NAMESPACE},
        "spec": {"hard": hard} | spec,
        "status": {"hard": hard, "used": used},
    }


def _container_state(
    exit_code: int | None,
    finished: float,
    reason: str,
    outcome: StageOutcome | str | None,
    waiting: tuple[str, str] | None,
) -> Object:
    if waiting:
        return {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    if exit_code is None:
        return {}
    terminated: Object = {"exitCode": exit_code, "reason": reason, "finishedAt": stamp(at(finished))}
    if outcome is not None:
        terminated["message"] = outcome if isinstance(outcome, str) else outcome.to_termination_message()
    return {"terminated": terminated}


def disrupted(reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting") -> Object:
    """The pod condition that the cluster sets when it ends a pod."""
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def unschedulable(message: str = "0/4 nodes are available: 4 Insufficient cpu.") -> Object:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def failure(kind: FailureClass, message: str = "what happened", remedy: str = "what to do") -> Failure:
    return Failure(failure_class=kind, message=message, remedy=remedy)


def failed(stage: Stage, kind: FailureClass, message: str = "what happened") -> StageOutcome:
    return StageOutcome(stage=stage, failure=failure(kind, message))


def split(letter: str = "b", rows: int = 40, truncated: int = 0) -> SplitSummary:
    return SplitSummary(digest=digest(letter), rows=rows, tokens=1000, loss_tokens=400, truncated=truncated)


def artifact() -> Artifact:
    return Artifact(
        uri=f"s3://results/team/{NAMESPACE}/{NAME}/{RUN_ID}",
        kind="adapter",
        manifest_digest=digest("c"),
        content_digest=digest("d"),
        files=7,
        total_bytes=12345,
    )


def evaluation() -> EvaluationResult:
    return EvaluationResult(loss_before="2.5", loss_after="1.25")


def prepared(run_id: str = RUN_ID, adopted: bool = False, held_out: bool = True) -> Prepared:
    return Prepared(
        run_id=run_id,
        model_digest=digest("a"),
        data_uri=f"s3://results/team/{NAMESPACE}/_data/{'e' * 64}",
        train=split(truncated=2),
        validation=split("f", rows=4) if held_out else None,
        steps=5,
        adopted=artifact() if adopted else None,
        adopted_evaluation=evaluation() if adopted else None,
    )


def prepare_outcome(run_id: str = RUN_ID, adopted: bool = False) -> StageOutcome:
    return StageOutcome(stage=Stage.PREPARE, prepared=prepared(run_id, adopted))


def published_outcome() -> StageOutcome:
    return StageOutcome(stage=Stage.PUBLISH, artifact=artifact(), evaluation=evaluation())


def progress(step: int = 1, total: int = 100, **changes: Any) -> Progress:
    values = {"step": step, "total_steps": total, "percent": 100 * step // total, "epoch": "0.2", "updated": at(step)}
    return Progress.model_validate(values | changes)


def report(
    attempt: int = 1,
    sequence: int = 0,
    stage: Stage = Stage.TRAIN,
    step: int | None = 1,
    uid: str = UID,
) -> ProgressReport:
    """A progress report; ``step`` None leaves the progress out."""
    measured = None if step is None else progress(step)
    return ProgressReport(uid=uid, attempt=attempt, sequence=sequence, stage=stage, progress=measured)
