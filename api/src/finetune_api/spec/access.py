"""How stores and hubs are reached."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, ResourceName

# A rule of whatever holds a huggingFace.
OFFLINE_NEEDS_CACHE = "!has(self.huggingFace) || !self.huggingFace.offline || has(self.huggingFace.cacheClaim)"
# No user, password, query or fragment: a manifest is read by many, and is no place for a secret.
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
HOST_PATTERN = rf"(\[[0-9a-fA-F:.]+\]|{_NAME}([.]{_NAME})*)(:{_PORT})?"
ENDPOINT_PATTERN = rf"^https?://{HOST_PATTERN}(/[^\s?#]*)?$"

# A branch, tag, commit or reference of a hub's repository, such as refs/pr/1, by the rules of git.
REVISION_PATTERN = r"^[A-Za-z0-9][^\s~^:?*\[\\]*$"

PLAIN_PATH = (
    "holds no empty, '.' or '..' segment, ends in no space, and its bucket is no address and has no '..'; correct it"
)


def plain_path(source: str) -> str:
    """CEL for: a source leads where it says, on every store; see :data:`PLAIN_PATH`."""
    return (
        f"!{source}.matches('/[.]{{1,2}}(/|$)') && !{source}.matches('^[a-z0-9]+://[^/]+/(.*/)?/') && "
        f"!{source}.matches('[[:space:]]$') && {named_bucket(source)}"
    )


def named_bucket(uri: str) -> str:
    """CEL for: the bucket of an s3:// URI may be one's name, https://docs.aws.amazon.com/AmazonS3/latest/userguide/
    bucketnamingrules.html; its characters and length are left to the pattern of the field."""
    return f"!{uri}.matches('^s3://([^/]*[.][.]|[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+(/|$))')"


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
        Field(
            default="token",
            pattern=r"^[-._a-zA-Z0-9]+$",
            max_length=253,
            description="Key inside the Secret that holds the value.",
        ),
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
        Field(
            default=None,
            pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.:]*$",
            max_length=64,
            description="Region of the bucket. Default: us-east-1.",
        ),
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
