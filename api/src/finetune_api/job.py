"""The FineTuneJob resource as a whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api import API_VERSION, KIND
from finetune_api.base import Document
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus


class Metadata(BaseModel):
    """The part of metadata that the project reads; the API server owns the rest."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class FineTuneJob(Document):
    """Fine-tunes one model on one dataset and publishes a verified artifact to S3-compatible storage."""

    api_version: Annotated[Literal["finetune.dev/v1alpha1"], Field(alias="apiVersion", default=API_VERSION)]
    kind: Annotated[Literal["FineTuneJob"], Field(default=KIND)]
    metadata: Metadata
    spec: FineTuneJobSpec
    status: FineTuneJobStatus = FineTuneJobStatus()

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> FineTuneJob:
        """Reads a manifest.

        Raises:
            pydantic.ValidationError: the manifest does not follow the schema.
        """
        return cls.model_validate(manifest)
