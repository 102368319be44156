"""The base model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, effective_validations, validations
from finetune_api.spec.access import OFFLINE_NEEDS_CACHE, HubAccess, S3Access

_MODEL_SOURCE = r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?|job://[a-z]([-a-z0-9]*[a-z0-9])?)$"


class ModelSpec(Document):
    """The base model."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.source.startsWith('hf://') || !has(self.revision)",
                "revision applies to an hf:// source only; remove spec.model.revision or use hf://org/name",
            ),
            (
                "self.source.startsWith('hf://') || !has(self.huggingFace)",
                "huggingFace applies to an hf:// source only; remove spec.model.huggingFace or use hf://org/name",
            ),
            (
                "self.source.startsWith('s3://') || self.source.startsWith('job://') || !has(self.s3)",
                "s3 applies to an s3:// or job:// source only; remove spec.model.s3 or use s3://bucket/prefix",
            ),
        )
        | effective_validations(
            (OFFLINE_NEEDS_CACHE, "offline needs a cache; set spec.model.huggingFace.cacheClaim"),
        )
    }

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
    revision: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=128,
            description="Branch, tag or commit of an hf:// model, resolved to a commit before training. Default: main.",
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
