"""``job://name``: the result of another job, and what a job that starts from it is then asked to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, ResourceName
from finetune_api.results import Digest, RunId
from finetune_api.spec import (
    AdapterSource,
    FineTuneJobSpec,
    LoraOptions,
    LoraShape,
    MethodSpec,
    ModelSpec,
    Objective,
    ReferenceModel,
    S3Access,
)
from finetune_api.weights import ADAPTER, MODEL, REFERENCE, jobs_needed, weights_field

ADAPTER_KIND = "adapter"
# Of the adapter itself; what is left, such as dropout, may differ from one training of it to the next.
_SHAPING = frozenset({"rank", "alpha", "target_modules", "rank_stabilized", "dora"})


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
    lora: Annotated[LoraShape | None, Field(default=None, description="Options of an adapter.")]
    objective: Annotated[
        Objective, Field(default=Objective.SFT, description="What the job taught; reward models are not built upon.")
    ]

    @property
    def is_adapter(self) -> bool:
        return self.kind == ADAPTER_KIND


# By use, see finetune_api.weights.
Upstreams = Mapping[str, Upstream]


def continues_adapter(spec: FineTuneJobSpec, upstream: Upstream | None) -> bool:
    """Whether a job trains its upstream's adapter on, instead of weights of its own."""
    return upstream is not None and upstream.is_adapter and spec.method.tuning.adapts


def conflict(spec: FineTuneJobSpec, upstreams: Upstreams) -> tuple[str, str] | None:
    """What of a spec its upstreams cannot serve, and the remedy; None when all fits."""
    problems = (_CONFLICTS[use](spec, upstream) for use, upstream in upstreams.items())
    return next(filter(None, problems), None)


def _model_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    if continues_adapter(spec, upstream) and spec.method.initial_adapter:
        return (
            f"the adapter of the job {upstream.job!r} would be continued, and spec.method.lora.initialAdapter names "
            "another one",
            f"remove spec.method.lora.initialAdapter, or let {upstream.job!r} publish a merged model "
            "(spec.output.artifact: Merged)",
        )
    return _reward_conflict(spec, upstream) or _shape_conflict(spec, upstream)


def _adapter_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    if not upstream.is_adapter:
        return (
            f"the job {upstream.job!r} of spec.method.lora.initialAdapter publishes a whole model",
            f"name {upstream.job!r} in spec.model.source and remove spec.method.lora.initialAdapter",
        )
    if (spec.method.objective is Objective.REWARD) != (upstream.objective is Objective.REWARD):
        return (
            f"the job {upstream.job!r} of spec.method.lora.initialAdapter taught {upstream.objective.value}, and only "
            "adapters of reward models have a head that gives a score",
            "name a job of the objective reward for the objective reward, and of another one for any other",
        )
    differing = _differing(spec.method.lora, upstream.lora, _SHAPING - {"target_modules"})
    if differing:
        field, asked, known = differing
        return (
            f"spec.method.lora.{field} is {asked}, and the initial adapter, of the job {upstream.job!r}, has {known}",
            f"set spec.method.lora.{field} to {known}",
        )
    return None


def _reward_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    if problem := _scores_only(spec, upstream, MODEL):
        return problem
    if spec.method.objective is Objective.REWARD and continues_adapter(spec, upstream):
        return (
            f"the adapter of the job {upstream.job!r} would be continued, and has no head that gives a score",
            f"let {upstream.job!r} publish a merged model (spec.output.artifact: Merged), or set spec.method.tuning to "
            "full",
        )
    return None


def _scores_only(spec: FineTuneJobSpec, upstream: Upstream, use: str = REFERENCE) -> tuple[str, str] | None:
    if upstream.objective is not Objective.REWARD:
        return None
    return (
        f"the job {upstream.job!r} publishes a reward model, which gives scores and no text to learn from",
        f"name a job of another objective in {weights_field(spec, use)}.source",
    )


def _shape_conflict(spec: FineTuneJobSpec, upstream: Upstream) -> tuple[str, str] | None:
    differing = _differing(spec.method.lora, upstream.lora, _SHAPING) if continues_adapter(spec, upstream) else None
    if differing is None:
        return None
    field, asked, known = differing
    return (
        f"spec.method.lora.{field} is {asked}, and the adapter of the job {upstream.job!r}, which is continued, has "
        f"{known}",
        f"leave spec.method.lora out or give it the same values; for an adapter of another shape let {upstream.job!r} "
        "publish a merged model (spec.output.artifact: Merged)",
    )


def _differing(asked: LoraShape | None, known: LoraShape | None, names: Collection[str]) -> tuple[str, str, str] | None:
    """The first field that two shapes do not share, and the value of each."""
    if asked is None or known is None:
        return None
    for name, field in LoraShape.model_fields.items():
        if name in names and getattr(asked, name) != getattr(known, name):
            return field.alias or name, _text(getattr(asked, name)), _text(getattr(known, name))
    return None


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_Conflict = Callable[[FineTuneJobSpec, Upstream], tuple[str, str] | None]
_CONFLICTS: dict[str, _Conflict] = {MODEL: _model_conflict, ADAPTER: _adapter_conflict, REFERENCE: _scores_only}


def resolved_spec(spec: FineTuneJobSpec, upstreams: Upstreams) -> FineTuneJobSpec:
    """The spec that is carried out: each ``job://`` replaced by what is loaded, and the options of an adapter that is
    continued filled in."""
    known = {use: upstreams[use] for use in jobs_needed(spec) if use in upstreams}
    if not known:
        return spec
    model = known[MODEL].model if MODEL in known else spec.model
    return spec.model_copy(update={"model": model, "method": _resolved_method(spec, known)})


def _resolved_method(spec: FineTuneJobSpec, known: Upstreams) -> MethodSpec:
    method, upstream, adapter = spec.method, known.get(MODEL), known.get(ADAPTER)
    if upstream and upstream.lora and continues_adapter(spec, upstream) and method.lora is None:
        method = method.model_copy(update={"lora": LoraOptions.model_validate(upstream.lora.model_dump())})
    if adapter and method.lora:
        place = AdapterSource(source=adapter.uri, s3=adapter.s3)
        method = method.model_copy(update={"lora": method.lora.model_copy(update={"initial_adapter": place})})
    if reference := known.get(REFERENCE):
        method = _with_reference(method, reference.model)
    return method


def _with_reference(method: MethodSpec, model: ModelSpec) -> MethodSpec:
    place = ReferenceModel(source=model.source, revision=model.revision, s3=model.s3, hugging_face=model.hugging_face)
    options = method.objective_options
    assert options is not None
    return method.model_copy(update={method.objective.value: options.model_copy(update={"reference_model": place})})
