"""``job://name``: the result of another job, and what a job that starts from it is then asked to do. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, ResourceName
from finetune_api.results import Digest, RunId
from finetune_api.spec import FineTuneJobSpec, LoraOptions, ModelSpec, S3Access, Tuning
from finetune_api.uris import job_named

ADAPTER_KIND = "adapter"
# Of the adapter itself; what is left, such as dropout, may differ from one training of it to the next.
_SHAPING = ("rank", "alpha", "target_modules")


class Upstream(Document):
    """What a finished job published, and where its weights are."""

    job: Annotated[ResourceName, Field(description="Name of the job.")]
    run_id: Annotated[RunId, Field(alias="runID", description="Run whose result is used.")]
    uri: Annotated[str, Field(max_length=2048, description="s3:// folder of its artifact.")]
    kind: Annotated[str, Field(max_length=32, description="adapter or model.")]
    manifest_digest: Annotated[Digest, Field(description="SHA-256 of the artifact's manifest.json.")]
    s3: Annotated[S3Access, Field(description="How the artifact is reached.")]
    model: Annotated[
        ModelSpec,
        Field(description="The model to load: the artifact, or for an adapter its base model. Never job://."),
    ]
    lora: Annotated[LoraOptions | None, Field(default=None, description="Options of an adapter.")]

    @property
    def is_adapter(self) -> bool:
        return self.kind == ADAPTER_KIND


def continues_adapter(spec: FineTuneJobSpec, upstream: Upstream | None) -> bool:
    """Whether a job trains its upstream's adapter on, instead of weights of its own."""
    return upstream is not None and upstream.is_adapter and spec.method.tuning is Tuning.LORA


def conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    """What of ``spec.method.lora`` an adapter that is continued cannot be, and the remedy; None when all fits."""
    given, known = spec.method.lora, upstream.lora
    if given is None or known is None or not continues_adapter(spec, upstream):
        return None
    for name in _SHAPING:
        if getattr(given, name) != getattr(known, name):
            alias = LoraOptions.model_fields[name].alias or name
            return (
                f"spec.method.lora.{alias} is {_text(getattr(given, name))}, and the adapter of the job "
                f"{upstream.job!r}, which is continued, has {_text(getattr(known, name))}",
                f"leave spec.method.lora out or give it the same values; for an adapter of another shape let "
                f"{upstream.job!r} publish a merged model (spec.output.artifact: Merged)",
            )
    return None


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def resolved_spec(spec: FineTuneJobSpec, upstream: Upstream | None) -> FineTuneJobSpec:
    """The spec that is carried out: ``job://`` replaced by the model to load, and the options of an adapter that is
    continued filled in."""
    if upstream is None or job_named(spec.model.source) is None:
        return spec
    method = spec.method
    if continues_adapter(spec, upstream) and method.lora is None:
        method = method.model_copy(update={"lora": upstream.lora})
    return spec.model_copy(update={"model": upstream.model, "method": method})
