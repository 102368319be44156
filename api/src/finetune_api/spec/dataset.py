"""Training and held-out data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, FractionString, validations
from finetune_api.spec.access import S3Access

_DATA_SOURCE = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.+)$"


class DataFormat(StrEnum):
    CHAT = "chat"


class TooLong(StrEnum):
    TRUNCATE = "Truncate"
    REFUSE = "Refuse"


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
