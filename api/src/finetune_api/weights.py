"""Where the weights of a job come from, by what they are used for. Pure."""

from __future__ import annotations

from finetune_api.applicable import value_at
from finetune_api.base import Object
from finetune_api.spec import FineTuneJobSpec, WeightsSource
from finetune_api.uris import job_named

MODEL = "model"
ADAPTER = "adapter"
REFERENCE = "reference"
# The adapter of a job that is the reference, on its base model.
REFERENCE_ADAPTER = "reference-adapter"
# Paths of the groups that name weights.
_GROUPS = ("model", "method.lora.initialAdapter", "method.dpo.referenceModel", "method.kto.referenceModel")


def weight_sources(spec: FineTuneJobSpec) -> dict[str, WeightsSource]:
    """By use: the base model, and what the spec names beside it."""
    method = spec.method
    found: dict[str, WeightsSource | None] = {
        MODEL: spec.model,
        ADAPTER: method.initial_adapter,
        REFERENCE: method.reference_model,
    }
    return {use: source for use, source in found.items() if source}


def weights_field(spec: FineTuneJobSpec, use: str) -> str:
    """Path of the group that names the weights of a use."""
    reference = f"spec.method.{spec.method.objective.value}.referenceModel"
    return {MODEL: "spec.model", ADAPTER: "spec.method.lora.initialAdapter"}.get(use, reference)


def jobs_needed(spec: FineTuneJobSpec) -> dict[str, str]:
    """By use, the job whose result is asked for."""
    named = {use: job_named(source.source) for use, source in weight_sources(spec).items()}
    return {use: name for use, name in named.items() if name}


def jobs_named(spec: Object) -> tuple[str, ...]:
    """Jobs whose results a spec asks for, each once, as it was written and read without any judgement."""
    sources = (value_at(spec, f"{group}.source") for group in _GROUPS)
    names = (job_named(source) for source in sources if isinstance(source, str))
    return tuple(dict.fromkeys(name for name in names if name))
