"""``job://name``: the result of another job, and what a job that starts from it is then asked to do. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, ResourceName
from finetune_api.results import Digest, RunId
from finetune_api.spec import FineTuneJobSpec, LoraOptions, ModelSpec, Objective, S3Access
from finetune_api.uris import job_named

ADAPTER_KIND = "adapter"
# Of the adapter itself; what is left, such as dropout, may differ from one training of it to the next.
_SHAPING = ("rank", "alpha", "target_modules", "rank_stabilized", "dora")


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
    objective: Annotated[
        Objective, Field(default=Objective.SFT, description="What the job taught; reward models are not built upon.")
    ]

    @property
    def is_adapter(self) -> bool:
        return self.kind == ADAPTER_KIND


def continues_adapter(spec: FineTuneJobSpec, upstream: Upstream | None) -> bool:
    """Whether a job trains its upstream's adapter on, instead of weights of its own."""
    return upstream is not None and upstream.is_adapter and spec.method.tuning.adapts


def conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    """What of a spec its upstream cannot serve, and the remedy; None when all fits."""
    return _reward_conflict(spec, upstream) or _shape_conflict(spec, upstream)


def _reward_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    if upstream.objective is Objective.REWARD:
        return (
            f"the job {upstream.job!r} publishes a reward model, which gives scores and no text to learn from",
            "name a job of another objective in spec.model.source",
        )
    if spec.method.objective is Objective.REWARD and continues_adapter(spec, upstream):
        return (
            f"the adapter of the job {upstream.job!r} would be continued, and has no head that gives a score",
            f"let {upstream.job!r} publish a merged model (spec.output.artifact: Merged), or set spec.method.tuning to "
            "full",
        )
    return None


def _shape_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
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
