"""How stores and hubs are reached."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, ResourceName

# A rule of whatever holds a huggingFace.
OFFLINE_NEEDS_CACHE = "!has(self.huggingFace) || !self.huggingFace.offline || has(self.huggingFace.cacheClaim)"
# No user, password, query or fragment: a manifest is read by many, and is no place for a secret.
HOST_PATTERN = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?)(:[0-9]{1,5})?"
ENDPOINT_PATTERN = rf"^https?://{HOST_PATTERN}(/[^\s?#]*)?$"


class AddressingStyle(StrEnum):
    AUTO = "Auto"
    PATH = "Path"
    VIRTUAL = "Virtual"


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


class Checksum(StrEnum):
    """What an S3-compatible store verifies of each upload."""

    CRC64NVME = "CRC64NVME"
    NONE = "None"


class S3Access(Document):
    """How to reach an S3-compatible store. Everything left out comes from the Secret or the AWS default chain."""

    endpoint_url: Annotated[
        str | None,
        Field(
            default=None,
            alias="endpointURL",
            pattern=ENDPOINT_PATTERN,
            max_length=1024,
            description="URL of the S3 endpoint, without credentials. Default: AWS_ENDPOINT_URL of the Secret, "
            "else AWS itself.",
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
    checksum: Annotated[
        Checksum,
        Field(
            default=Checksum.CRC64NVME,
            description="What the store verifies of each upload and keeps beside the object. None for a store that "
            "does not know CRC64NVME: what is read back is then compared by the trainer's own sums only.",
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
            pattern=ENDPOINT_PATTERN,
            max_length=1024,
            description="URL of a hub mirror, without credentials. Default: the public hub.",
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
