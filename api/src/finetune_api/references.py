"""Finds out what ``job://name`` stands for, from the job of that name. Pure."""

from __future__ import annotations

from finetune_api.job import FineTuneJob
from finetune_api.spec import LoraOptions, LoraShape, ModelSpec, WeightsSource
from finetune_api.upstream import ADAPTER_KIND, Upstream


def upstream_of(finished: FineTuneJob, asked: WeightsSource) -> Upstream | None:
    """What a ``job://`` source stands for; None while that job has published nothing.

    Args:
        finished: the job that is named, with its status.
        asked: the group of the job that needs it; its access, and the name of a model, have precedence.
    """
    status = finished.status
    if status.artifact is None or status.run_id is None:
        return None
    access = asked.s3 or finished.spec.output.s3
    adapter = status.artifact.kind == ADAPTER_KIND
    model = _base_model(finished) if adapter else ModelSpec(source=status.artifact.uri, s3=access)
    return Upstream(
        job=finished.metadata.name,
        run_id=status.run_id,
        uri=status.artifact.uri,
        kind=status.artifact.kind,
        manifest_digest=status.artifact.manifest_digest,
        s3=access,
        model=model.model_copy(update={"name": (asked.name if isinstance(asked, ModelSpec) else None) or model.name}),
        lora=_lora(finished) if adapter else None,
        objective=finished.spec.method.objective,
    )


def _base_model(finished: FineTuneJob) -> ModelSpec:
    """The model that a job's adapter belongs to, at the revision that was trained on."""
    status, model = finished.status, finished.spec.model
    if status.upstream:
        return status.upstream.model
    access = (model.s3 or finished.spec.output.s3) if model.source.startswith("s3://") else None
    revision = (status.plan.model_revision if status.plan else None) or model.revision
    return model.model_copy(update={"revision": revision, "s3": access})


def _lora(finished: FineTuneJob) -> LoraShape:
    continued = finished.status.upstream.lora if finished.status.upstream else None
    known = finished.spec.method.lora or continued or LoraOptions()
    return LoraShape.model_validate(known.model_dump(include=set(LoraShape.model_fields)))
