"""The sides of a comparison, from jobs and artifacts. Pure."""

from __future__ import annotations

from finetune_cli import jobview
from finetune_cli.documents import Object, leaves, number_at, object_at, scalar_text, text_at, time_at
from finetune_cli.render.curves import Point
from finetune_cli.render.results import Side
from finetune_cli.render.words import loss, size, spelled, took
from finetune_cli.store.artifact import PublishedArtifact

# Told on their own, or the same for every job.
_APART = frozenset(("suspend", "output"))


def side_of_job(job: Object, losses: tuple[Point, ...]) -> Side:
    """A job as it is now, whether it has published anything or not."""
    spec = {name: value for name, value in object_at(jobview.with_defaults(job), "spec").items() if name not in _APART}
    status, progress = object_at(job, "status"), jobview.progress_of(job)
    results = {
        "State": jobview.state_of(job),
        "Run": text_at(status, "runID"),
        "Step": text_at(progress, "step"),
        "Training loss": loss(number_at(progress, "loss")),
        **_evaluated(object_at(status, "evaluation")),
        "Tokens/s": text_at(progress, "tokensPerSecond"),
        "Attempts": str(jobview.attempt_of(job)),
        "Took": _took(job),
        "Artifact": text_at(status, "artifact", "uri"),
        "Size": _size(number_at(status, "artifact", "bytes")),
    }
    return Side(jobview.name_of(job), spec, _known(results), losses)


def side_of_artifact(title: str, artifact: PublishedArtifact, losses: tuple[Point, ...]) -> Side:
    """A published artifact, whose job may be gone."""
    results = {
        "Run": text_at(artifact.manifest, "runID"),
        "Training loss": loss(losses[-1][1] if losses else None),
        **_evaluated(object_at(artifact.manifest, "evaluation")),
        "Created": text_at(artifact.manifest, "created"),
        "Artifact": str(artifact.location),
        "Size": _size(float(artifact.total_bytes)),
    }
    return Side(title, object_at(artifact.manifest, "definition"), _known(results), losses)


def _evaluated(evaluation: Object) -> dict[str, str]:
    return {spelled(f"held-out.{path}"): scalar_text(value) for path, value in leaves(evaluation) if path}


def _took(job: Object) -> str:
    start, end = time_at(job, "status", "startTime"), time_at(job, "status", "completionTime")
    return took(start, end, end) if end else ""


def _size(count: float | None) -> str:
    return "" if count is None else size(count)


def _known(results: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in results.items() if value and value != "-"}
