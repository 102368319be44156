"""The base model, and other weights that a job starts from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import Document, effective_validations, validations
from finetune_api.spec.access import (
    OFFLINE_NEEDS_CACHE,
    PLAIN_PATH,
    REVISION_PATTERN,
    HubAccess,
    S3Access,
    plain_path,
)

_MODEL_SOURCE = r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?|job://[a-z]([-a-z0-9]{0,46}[a-z0-9])?)$"


def _access_rules(field: str) -> dict[str, Any]:
    """That each way of access goes with a source that is reached by it; ``field`` is the path of the group."""
    return validations(
        (plain_path("self.source"), f"{field}.source {PLAIN_PATH}"),
        (
            "self.source.startsWith('hf://') || !has(self.revision)",
            f"revision applies to an hf:// source only; remove {field}.revision or use hf://org/name",
        ),
        (
            "self.source.startsWith('hf://') || !has(self.huggingFace)",
            f"huggingFace applies to an hf:// source only; remove {field}.huggingFace or use hf://org/name",
        ),
        (
            "self.source.startsWith('s3://') || self.source.startsWith('job://') || !has(self.s3)",
            f"s3 applies to an s3:// or job:// source only; remove {field}.s3 or use s3://bucket/prefix",
        ),
    ) | effective_validations(
        (OFFLINE_NEEDS_CACHE, f"offline needs a cache; set {field}.huggingFace.cacheClaim"),
    )


class WeightsSource(Document):
    """Where weights are, and how they are reached."""

    source: Annotated[str, Field(pattern=_MODEL_SOURCE, max_length=1024)]
    revision: Annotated[
        str | None,
        Field(
            default=None,
            pattern=REVISION_PATTERN,
            max_length=128,
            description="Branch, tag or commit of an hf:// source, resolved to a commit before training. Default: "
            "main.",
        ),
    ]
    s3: Annotated[
        S3Access | None,
        Field(
            default=None,
            description="How to reach an s3:// or job:// source. Default: as spec.output.s3, for job:// that of the "
            "other job.",
        ),
    ]
    hugging_face: Annotated[
        HubAccess | None, Field(default=None, description="How to reach the hub for an hf:// source.")
    ]


class ModelSpec(WeightsSource):
    """The base model."""

    model_config = Document.model_config | {"json_schema_extra": _access_rules("spec.model")}

    source: Annotated[
        str,
        Field(
            pattern=_MODEL_SOURCE,
            max_length=1024,
            description="Where the model's folder is, in the Hugging Face layout with safetensors: hf://org/name, "
            "s3://bucket/prefix or pvc://claim/path; or job://name for the result of another FineTuneJob of the "
            "namespace, which is waited for. An adapter is continued by tuning lora, and merged into its base model "
            "before any other tuning.",
        ),
    ]
    name: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=256,
            description="Public id of the base model, written into the adapter and the model card so that servers "
            "find it, such as HuggingFaceTB/SmolLM2-135M-Instruct. Default: the hf:// repository, else the source; for "
            "the adapter of a job:// source that of its own base model.",
        ),
    ]


class AdapterSource(WeightsSource):
    """A LoRA adapter on the model of spec.model, which training goes on from."""

    model_config = Document.model_config | {"json_schema_extra": _access_rules("spec.method.lora.initialAdapter")}

    source: Annotated[
        str,
        Field(
            pattern=_MODEL_SOURCE,
            max_length=1024,
            description="Where the adapter's folder is, in PEFT's layout with safetensors: hf://org/name, "
            "s3://bucket/prefix or pvc://claim/path; or job://name for the adapter of another FineTuneJob of the "
            "namespace, which is waited for.",
        ),
    ]
    hugging_face: Annotated[
        HubAccess | None,
        Field(
            default=None, description="How to reach the hub for an hf:// source. Default: as spec.model.huggingFace."
        ),
    ]


class ReferenceModel(WeightsSource):
    """Another model that the one under training is compared with."""

    model_config = Document.model_config | {"json_schema_extra": _access_rules("referenceModel")}

    source: Annotated[
        str,
        Field(
            pattern=_MODEL_SOURCE,
            max_length=1024,
            description="Where the model's folder is, as of spec.model.source; or job://name for the result of another "
            "FineTuneJob of the namespace, which is waited for: its model, or its adapter on its base model.",
        ),
    ]
    hugging_face: Annotated[
        HubAccess | None,
        Field(
            default=None, description="How to reach the hub for an hf:// source. Default: as spec.model.huggingFace."
        ),
    ]
