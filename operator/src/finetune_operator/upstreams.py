"""Which other job a job waits for, and whether it may begin. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.conditions import is_true
from finetune_api.effective import remembered_job
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Failure, FailureClass
from finetune_api.references import upstream_of
from finetune_api.status import ConditionType, FineTuneJobStatus, Reason
from finetune_api.upstream import Upstream, Upstreams, conflict
from finetune_api.weights import jobs_named, jobs_needed, weight_sources, weights_field
from finetune_operator.observation import known_status

Object = dict[str, Any]
# Jobs that one job builds on, directly or not, itself counted. More are taken for a mistake.
MAX_CHAIN = 32


@dataclass(frozen=True)
class Wait:
    """The job cannot begin yet."""

    reason: Reason
    message: str


def needed_names(manifest: Object) -> tuple[str, ...]:
    """Names of the jobs whose results a manifest asks for."""
    return jobs_named(manifest.get("spec") or {})


def next_needed(manifest: Object) -> tuple[str, ...]:
    """As :func:`needed_names`; none once the job has published, since what it needed no longer matters."""
    names = needed_names(manifest)
    return () if names and is_true(known_status(manifest).conditions, ConditionType.COMPLETE) else names


def unresolved(job: FineTuneJob) -> bool:
    """Whether some ``job://`` of a job is not yet known to stand for anything."""
    return not jobs_needed(job.spec).keys() <= job.status.upstreams.keys()


def resolve(job: FineTuneJob, seen: Sequence[Object]) -> Upstreams | Wait | Failure:
    """What each ``job://`` of a job stands for, or why that is not known.

    Args:
        job: some source of its spec names a job.
        seen: the jobs named, those that they name in turn, and so on, as far as they exist.
    """
    known = {manifest["metadata"]["name"]: manifest for manifest in seen}
    needed = jobs_needed(job.spec)
    if circle := next(_circles(job.metadata.name, tuple(needed.values()), known), None) or _endless(job, seen):
        uses = [use for use, name in needed.items() if name == circle[1]] or list(needed)
        return _user_error(
            f"{weights_field(job.spec, uses[0])}.source: the jobs need one another: {' needs '.join(circle[:8])}",
            "Create this job again with a source that does not build on it.",
        )
    found: dict[str, Upstream] = {}
    for use, name in needed.items():
        upstream = _result(job, use, name, known.get(name))
        if not isinstance(upstream, Upstream):
            return upstream
        found[use] = upstream
    problem = conflict(job.spec, found)
    return _user_error(*problem) if problem else found


def _circles(name: str, needed: Sequence[str], known: Mapping[str, Object]) -> Iterator[tuple[str, ...]]:
    """Ways from a job over those that it needs back to it."""
    ways: list[tuple[str, ...]] = [(name, other) for other in needed]
    been: set[str] = set()
    while ways:
        way = ways.pop()
        if way[-1] == name:
            yield way
        elif way[-1] in known and way[-1] not in been:
            been.add(way[-1])
            ways += [(*way, other) for other in next_needed(known[way[-1]])]


def _endless(job: FineTuneJob, seen: Sequence[Object]) -> tuple[str, ...]:
    names = (job.metadata.name, *(manifest["metadata"]["name"] for manifest in seen))
    return names if len(names) > MAX_CHAIN else ()


def _result(job: FineTuneJob, use: str, name: str, manifest: Object | None) -> Upstream | Wait:
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return Wait(Reason.JOB_NOT_FOUND, f"waiting for the FineTuneJob {name!r}, which does not exist yet")
    status = known_status(manifest)
    if is_true(status.conditions, ConditionType.FAILED):
        return Wait(Reason.JOB_FAILED, _failed(name, status))
    if not is_true(status.conditions, ConditionType.COMPLETE):
        return Wait(Reason.WAITING_FOR_JOB, f"waiting for the FineTuneJob {name!r} to be Complete")
    return _finished(job, use, manifest)


def _finished(job: FineTuneJob, use: str, manifest: Object) -> Upstream | Wait:
    name = manifest["metadata"]["name"]
    try:
        upstream = upstream_of(remembered_job(manifest), weight_sources(job.spec)[use])
    except ValidationError:
        return Wait(Reason.JOB_FAILED, f"the FineTuneJob {name!r} is of a schema no longer read; create it anew")
    return upstream or Wait(
        Reason.JOB_FAILED, f"the FineTuneJob {name!r} is Complete without an artifact; create it anew"
    )


def _failed(name: str, status: FineTuneJobStatus) -> str:
    why = f" ({status.failure.message})" if status.failure else ""
    return (
        f"the FineTuneJob {name!r} has failed{why[:1024]}. Delete it and create it again, mended, under the same name: "
        "this job then goes on by itself"
    )


def _user_error(message: str, remedy: str) -> Failure:
    return Failure(failure_class=FailureClass.USER_ERROR, message=message, remedy=remedy)
