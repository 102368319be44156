"""What each ``job://`` stands for without a cluster: the resources of the finished jobs, from files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.job import FineTuneJob
from finetune_api.references import upstream_of
from finetune_api.upstream import Upstream, conflict
from finetune_api.weights import jobs_needed, weight_sources, weights_field
from finetune_cli.errors import UnsupportedHereError, UsageError


def local_upstreams(job: FineTuneJob, resources: Mapping[str, dict[str, Any]]) -> dict[str, Upstream]:
    """By use, the results that a job starts from.

    Args:
        job: the job to run.
        resources: by the file that it came from, a finished job with its status, as ``--status-file`` or kubectl wrote
            it.

    Raises:
        UsageError: a resource is missing, is no finished job, or there is no use for it.
        UnsupportedHereError: what such a job published cannot be continued as asked.
    """
    finished = {file: _read(file, resource) for file, resource in resources.items()}
    needed = jobs_needed(job.spec)
    for file, found in finished.items():
        if found.metadata.name not in needed.values():
            asked = ", ".join(f"{weights_field(job.spec, use)}.source names {name!r}" for use, name in needed.items())
            raise UsageError(
                f"--upstream {file} is the job {found.metadata.name!r}; {asked or 'no source of the job is a job://'}"
            )
    by_name = {found.metadata.name: (file, found) for file, found in finished.items()}
    upstreams = {use: _result(job, use, name, by_name.get(name)) for use, name in needed.items()}
    problem = conflict(job.spec, upstreams)
    if problem:
        raise UnsupportedHereError(". ".join(problem))
    return upstreams


def _result(job: FineTuneJob, use: str, name: str, known: tuple[str, FineTuneJob] | None) -> Upstream:
    if known is None:
        raise UsageError(
            f"{weights_field(job.spec, use)}.source is the result of the job {name!r}: run that job first with "
            "--status-file FILE, then this one with --upstream FILE"
        )
    file, finished = known
    upstream = upstream_of(finished, weight_sources(job.spec)[use])
    if upstream is None:
        raise UsageError(f"--upstream {file}: the job {name!r} is not Complete")
    return upstream


def _read(file: str, resource: dict[str, Any]) -> FineTuneJob:
    try:
        return FineTuneJob.from_manifest(resource)
    except ValidationError as error:
        raise UsageError(f"--upstream {file} is not the resource of a FineTuneJob: {error}") from error
