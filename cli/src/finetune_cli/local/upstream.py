"""What a ``job://`` model stands for without a cluster: the resource of the finished job, from a file."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from finetune_api.job import FineTuneJob
from finetune_api.references import upstream_of
from finetune_api.upstream import Upstream, conflict
from finetune_api.uris import job_named
from finetune_cli.errors import UnsupportedHereError, UsageError


def local_upstream(job: FineTuneJob, resource: dict[str, Any] | None, origin: str) -> Upstream | None:
    """The result that a job starts from; None when its model is not another job's.

    Args:
        job: the job to run.
        resource: the finished job with its status, as ``--status-file`` or kubectl wrote it; None when none was given.
        origin: where the resource came from, for messages.

    Raises:
        UsageError: there is no such resource, it is of another job, or there is no use for it.
        UnsupportedHereError: what that job published cannot be continued as asked.
    """
    needed = job_named(job.spec.model.source)
    if needed is None:
        if resource is not None:
            raise UsageError(f"--upstream {origin}: spec.model.source is {job.spec.model.source}, no job:// source")
        return None
    if resource is None:
        raise UsageError(
            f"spec.model.source is the result of the job {needed!r}: run that job first with --status-file FILE, then "
            "this one with --upstream FILE"
        )
    upstream = upstream_of(_finished(needed, resource, origin), job.spec.model)
    if upstream is None:
        raise UsageError(f"--upstream {origin}: the job {needed!r} is not Complete")
    problem = conflict(job.spec, upstream)
    if problem:
        raise UnsupportedHereError(". ".join(problem))
    return upstream


def _finished(needed: str, resource: dict[str, Any], origin: str) -> FineTuneJob:
    try:
        found = FineTuneJob.from_manifest(resource)
    except ValidationError as error:
        raise UsageError(f"--upstream {origin} is not the resource of a FineTuneJob: {error}") from error
    if found.metadata.name != needed:
        raise UsageError(f"--upstream {origin} is the job {found.metadata.name!r}; spec.model.source names {needed!r}")
    return found
