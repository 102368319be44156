"""Which other job a job waits for, and whether it may begin. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.conditions import is_true
from finetune_api.effective import remembered_job
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, FailureClass
from finetune_api.references import upstream_of
from finetune_api.status import ConditionType, FineTuneJobStatus, Reason
from finetune_api.upstream import Upstream, conflict
from finetune_api.uris import job_named

Object = dict[str, Any]
# Jobs that build on one another in a row. Longer chains are taken for a mistake.
MAX_CHAIN = 32


@dataclass(frozen=True)
class Wait:
    """The job cannot begin yet."""

    reason: Reason
    message: str


def needed_name(manifest: Object) -> str | None:
    """Name of the job whose result a manifest asks for, or None."""
    source = ((manifest.get("spec") or {}).get("model") or {}).get("source")
    return job_named(source) if isinstance(source, str) else None


def next_needed(manifest: Object) -> str | None:
    """As :func:`needed_name`; None once the job has published, since what it needed no longer matters."""
    return None if is_true(_status(manifest).conditions, ConditionType.COMPLETE) else needed_name(manifest)


def resolve(job: FineTuneJob, chain: Sequence[Object]) -> Upstream | Wait | Failure:
    """What the ``job://`` source of a job stands for, or why that is not known.

    Args:
        job: its ``spec.model.source`` names a job.
        chain: the job named, the one that it names in turn, and so on, as far as they exist.
    """
    name, needed = job.metadata.name, job_named(job.spec.model.source)
    names = (name, *(manifest["metadata"]["name"] for manifest in chain))
    if name in names[1:] or len(names) > MAX_CHAIN:
        return _cycle(names)
    if not chain or "deletionTimestamp" in chain[0]["metadata"]:
        return Wait(Reason.JOB_NOT_FOUND, f"waiting for the FineTuneJob {needed!r}, which does not exist yet")
    status = _status(chain[0])
    if is_true(status.conditions, ConditionType.FAILED):
        return Wait(Reason.JOB_FAILED, _failed(needed, status))
    if not is_true(status.conditions, ConditionType.COMPLETE):
        return Wait(Reason.WAITING_FOR_JOB, f"waiting for the FineTuneJob {needed!r} to be Complete")
    return _finished(job, chain[0])


def _status(manifest: Object) -> FineTuneJobStatus:
    try:
        return FineTuneJobStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        return FineTuneJobStatus()


def _finished(job: FineTuneJob, manifest: Object) -> Upstream | Wait | Failure:
    name = manifest["metadata"]["name"]
    try:
        upstream = upstream_of(remembered_job(manifest), job.spec.model)
    except ValidationError:
        return Wait(Reason.JOB_FAILED, f"the FineTuneJob {name!r} is of a schema no longer read; create it anew")
    if upstream is None:
        return Wait(Reason.JOB_FAILED, f"the FineTuneJob {name!r} is Complete without an artifact; create it anew")
    problem = conflict(job.spec, upstream)
    return _user_error(*problem) if problem else upstream


def _failed(name: str | None, status: FineTuneJobStatus) -> str:
    why = f" ({status.failure.message})" if status.failure else ""
    return (
        f"the FineTuneJob {name!r} has failed{why[:1024]}. Delete it and create it again, mended, under the same name: "
        "this job then goes on by itself"
    )


def _cycle(names: tuple[str, ...]) -> Failure:
    circle = names[: names.index(names[0], 1) + 1] if names[0] in names[1:] else names
    return _user_error(
        f"spec.model.source: the jobs need one another: {' needs '.join(circle[:8])}",
        "Create this job again with a source that does not build on it.",
    )


def _user_error(message: str, remedy: str) -> Failure:
    return Failure(failure_class=FailureClass.USER_ERROR, message=message, remedy=remedy)
