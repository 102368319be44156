"""Where the model and the data come from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, FractionString, ResourceName, validations

_MODEL_SOURCE = r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?)$"


_DATA_SOURCE = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.+)$"


class AddressingStyle(StrEnum):
    AUTO = "Auto"
    PATH = "Path"
    VIRTUAL = "Virtual"


class DataFormat(StrEnum):
    CHAT = "chat"


class TooLong(StrEnum):
    TRUNCATE = "Truncate"
    REFUSE = "Refuse"


class SecretReference(Document):
    """A Secret in the job's namespace."""

    name: Annotated[ResourceName, Field(description="Name of the Secret, in the namespace of the job.")]


class SecretKeyReference(Document):
    """One key of a Secret in the job's namespace."""

    name: Annotated[ResourceName, Field(description="Name of the Secret, in the namespace of the job.")]
    key: Annotated[
        str,
        Field(default="token", min_length=1, max_length=253, description="Key inside the Secret that holds the value."),
    ]


class S3Access(Document):
    """How to reach an S3-compatible store. Everything left out comes from the Secret or the AWS default chain."""

    endpoint_url: Annotated[
        str | None,
        Field(
            default=None,
            alias="endpointURL",
            pattern=r"^https?://[^\s/]+(/.*)?$",
            max_length=1024,
            description="URL of the S3 endpoint. Default: AWS_ENDPOINT_URL of the Secret, else AWS itself.",
        ),
    ]
    region: Annotated[
        str | None,
        Field(default=None, min_length=1, max_length=64, description="Region of the bucket. Default: us-east-1."),
    ]
    addressing_style: Annotated[
        AddressingStyle,
        Field(
            default=AddressingStyle.AUTO,
            description="Path puts the bucket in the URL's path, Virtual in its host name. Auto: Path for an own "
            "endpoint, Virtual for AWS.",
        ),
    ]
    credentials_secret_ref: Annotated[
        SecretReference | None,
        Field(
            default=None,
            description="Secret whose keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally "
            "AWS_SESSION_TOKEN, AWS_ENDPOINT_URL and AWS_REGION. Default: the AWS default credential chain of the pod.",
        ),
    ]


class HubAccess(Document):
    """How to reach the Hugging Face hub for an hf:// model."""

    token_secret_ref: Annotated[
        SecretKeyReference | None,
        Field(default=None, description="Secret key that holds the hub token of a gated or private model."),
    ]
    endpoint_url: Annotated[
        str | None,
        Field(
            default=None,
            alias="endpointURL",
            pattern=r"^https?://[^\s/]+(/.*)?$",
            max_length=1024,
            description="URL of a hub mirror. Default: the public hub.",
        ),
    ]
    cache_claim: Annotated[
        ResourceName | None,
        Field(
            default=None,
            description="PersistentVolumeClaim that holds a Hugging Face cache (its root is HF_HOME), read-only.",
        ),
    ]
    offline: Annotated[
        bool,
        Field(default=False, description="Use the cache claim only and never the network. Needs cacheClaim."),
    ]


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
                "self.source.startsWith('s3://') || !has(self.s3)",
                "s3 applies to an s3:// source only; remove spec.model.s3 or use s3://bucket/prefix",
            ),
            (
                "!has(self.huggingFace) || !self.huggingFace.offline || has(self.huggingFace.cacheClaim)",
                "offline needs a cache; set spec.model.huggingFace.cacheClaim",
            ),
        )
    }

    source: Annotated[
        str,
        Field(
            pattern=_MODEL_SOURCE,
            max_length=1024,
            description="Where the model's folder is, in the Hugging Face layout with safetensors: hf://org/name, "
            "s3://bucket/prefix or pvc://claim/path.",
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
            "find it, such as HuggingFaceTB/SmolLM2-135M-Instruct. Default: the hf:// repository, else the source.",
        ),
    ]
    s3: Annotated[
        S3Access | None,
        Field(default=None, description="How to reach an s3:// source. Default: as spec.output.s3."),
    ]
    hugging_face: Annotated[
        HubAccess | None, Field(default=None, description="How to reach the hub for an hf:// source.")
    ]


class DataSource(Document):
    """One JSONL file, or a prefix whose *.jsonl files are read in name order."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.source.startsWith('s3://') || !has(self.s3)",
                "s3 applies to an s3:// source only; remove s3 or use s3://bucket/path",
            )
        )
    }

    source: Annotated[
        str,
        Field(
            pattern=_DATA_SOURCE,
            max_length=1024,
            description="A JSONL file or a folder of them: s3://bucket/path or pvc://claim/path.",
        ),
    ]
    format: Annotated[
        DataFormat,
        Field(
            default=DataFormat.CHAT,
            description='chat: each row is {"messages": [{"role": "user", "content": "..."}, ...]} with at least one '
            "assistant turn; loss is taken on the assistant's turns only.",
        ),
    ]
    s3: Annotated[
        S3Access | None,
        Field(default=None, description="How to reach an s3:// source. Default: as spec.output.s3."),
    ]


class ValidationSpec(Document):
    """The held-out split: a fraction of the training rows, or sources of its own."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "has(self.fraction) != has(self.sources)",
                "set exactly one of spec.dataset.validation.fraction and spec.dataset.validation.sources",
            )
        )
    }

    fraction: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the training rows to hold out, a decimal between 0 and 1 in quotes, such as '0.1'. "
            "Rows are chosen by a hash of their content: the same row is held out again in every run.",
        ),
    ]
    sources: Annotated[
        tuple[DataSource, ...] | None,
        Field(
            default=None,
            min_length=1,
            max_length=16,
            description="Held-out files of their own.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]


class DatasetSpec(Document):
    """Training and held-out data."""

    train: Annotated[
        tuple[DataSource, ...],
        Field(
            min_length=1,
            max_length=16,
            description="Training files, concatenated in this order.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    validation: Annotated[
        ValidationSpec | None,
        Field(default=None, description="The held-out split, evaluated before, during and after training."),
    ]
    too_long: Annotated[
        TooLong,
        Field(
            default=TooLong.TRUNCATE,
            description="What to do with a row longer than hyperparameters.maxSequenceLength tokens: Truncate keeps "
            "its first tokens and counts it in status, Refuse fails the job before training.",
        ),
    ]
