"""Training and held-out data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import Document, FractionString, effective_validations, validations
from finetune_api.spec.access import (
    HOST_PATTERN,
    OFFLINE_NEEDS_CACHE,
    PLAIN_PATH,
    REVISION_PATTERN,
    HubAccess,
    S3Access,
    plain_path,
)

_DATA_SOURCE = (
    r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+"
    r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.+"
    r"|hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(/.+)?"
    rf"|https://{HOST_PATTERN}/[^\s?#]+)$"
)
# More than zero, below a thousand.
_WEIGHT = r"^(0\.0*[1-9][0-9]*|[1-9][0-9]{0,2}(\.[0-9]+)?)$"


class DataFormat(StrEnum):
    CHAT = "chat"
    INSTRUCTION = "instruction"
    COMPLETION = "completion"
    PREFERENCE = "preference"
    UNPAIRED = "unpaired"


class TooLong(StrEnum):
    TRUNCATE = "Truncate"
    REFUSE = "Refuse"


def _column(description: str) -> Any:
    return Field(default=None, min_length=1, max_length=256, description=description)


class FieldMapping(Document):
    """Columns of the rows, where they have other names than the format gives them."""

    messages: Annotated[str | None, _column("chat: the conversation. Default: messages.")]
    role: Annotated[
        str | None,
        _column(
            "Who speaks, in each message. Default: role. Where it is set, the roles human and gpt are read as user "
            "and assistant."
        ),
    ]
    content: Annotated[str | None, _column("What is said, in each message. Default: content.")]
    tools: Annotated[str | None, _column("Functions that the model may call, as JSON schemas. Default: tools.")]
    system: Annotated[str | None, _column("instruction: a system turn, which may be absent. Default: system.")]
    instruction: Annotated[str | None, _column("instruction: what is asked. Default: instruction.")]
    input: Annotated[
        str | None, _column("instruction: what the instruction is about, which may be absent. Default: input.")
    ]
    output: Annotated[str | None, _column("instruction: the answer. Default: output.")]
    prompt: Annotated[
        str | None, _column("instruction, preference, unpaired: what comes before the answer. Default: prompt.")
    ]
    completion: Annotated[str | None, _column("instruction, unpaired: the answer to the prompt. Default: completion.")]
    text: Annotated[str | None, _column("completion: the text. Default: text.")]
    chosen: Annotated[str | None, _column("preference: the better answer. Default: chosen.")]
    rejected: Annotated[str | None, _column("preference: the worse answer. Default: rejected.")]
    label: Annotated[str | None, _column("unpaired: true for a good answer, false for a bad one. Default: label.")]


_OF_MESSAGES = ("role", "content", "tools")
FIELDS_OF_FORMAT: dict[DataFormat, tuple[str, ...]] = {
    DataFormat.CHAT: ("messages", *_OF_MESSAGES),
    DataFormat.INSTRUCTION: ("instruction", "input", "output", "system", "prompt", "completion", *_OF_MESSAGES),
    DataFormat.COMPLETION: ("text",),
    DataFormat.PREFERENCE: ("prompt", "chosen", "rejected", *_OF_MESSAGES),
    DataFormat.UNPAIRED: ("prompt", "completion", "label", *_OF_MESSAGES),
}


def format_of(source: str) -> str:
    """CEL for the format of a source, which no profile gives."""
    return f"(has({source}.format) ? {source}.format : '{DataFormat.CHAT.value}')"


def _fields_rule(name: DataFormat) -> tuple[str, str]:
    allowed = FIELDS_OF_FORMAT[name]
    others = [field for field in FieldMapping.model_fields if field not in allowed]
    absent = " && ".join(f"!has(self.fields.{field})" for field in others)
    return (
        f"{format_of('self')} != '{name.value}' || !has(self.fields) || ({absent})",
        f"fields of format {name.value} are {', '.join(allowed)}; remove the others or set format",
    )


class DataSource(Document):
    """A file of rows, or a folder of them that is read in name order."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (f"self.source.startsWith('https://') || ({plain_path('self.source')})", f"source {PLAIN_PATH}"),
            (
                "self.source.startsWith('s3://') || !has(self.s3)",
                "s3 applies to an s3:// source only; remove s3 or use s3://bucket/path",
            ),
            (
                "self.source.startsWith('hf://') || !has(self.revision)",
                "revision applies to an hf:// source only; remove revision or use hf://org/name",
            ),
            (
                "self.source.startsWith('https://') == has(self.sha256)",
                "an https:// source needs sha256, the checksum of its file, and no other source takes one",
            ),
            (
                "!self.source.startsWith('https://') || !has(self.files)",
                "an https:// source is one file; remove files",
            ),
            *map(_fields_rule, DataFormat),
            (
                "!has(self.fields) || !has(self.fields.chosen) || !has(self.fields.rejected) || "
                "self.fields.chosen != self.fields.rejected",
                "fields.chosen and fields.rejected are the same column, which is no better than itself; name two",
            ),
        )
    }

    source: Annotated[
        str,
        Field(
            pattern=_DATA_SOURCE,
            max_length=1024,
            description="A file of rows or a folder of them: s3://bucket/path, pvc://claim/path, hf://org/name or "
            "hf://org/name/path for a dataset repository, or https://host/file with sha256. Files end in .jsonl or "
            ".parquet; .jsonl also in .jsonl.gz, .jsonl.bz2, .jsonl.xz or .jsonl.zst.",
        ),
    ]
    files: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=256,
            description="Pattern for the files of a folder, such as train-*.parquet; * matches any text, also across "
            "folders. Default: every file of rows.",
        ),
    ]
    revision: Annotated[
        str | None,
        Field(
            default=None,
            pattern=REVISION_PATTERN,
            max_length=128,
            description="Branch, tag or commit of an hf:// source, resolved to a commit. Default: main.",
        ),
    ]
    sha256: Annotated[
        str | None,
        Field(
            default=None,
            pattern=r"^[0-9a-f]{64}$",
            max_length=64,
            description="SHA-256 of the file of an https:// source, in hexadecimal.",
        ),
    ]
    format: Annotated[
        DataFormat,
        Field(
            default=DataFormat.CHAT,
            description='chat: {"messages": [{"role": "user", "content": "..."}, ...]}, with loss on the assistant\'s '
            'turns. instruction: {"instruction", "input", "output"} or {"prompt", "completion"}, with loss on the '
            'answer. completion: {"text"}, with loss on every token. preference: {"prompt", "chosen", "rejected"}. '
            'unpaired: {"prompt", "completion", "label"}.',
        ),
    ]
    fields: Annotated[
        FieldMapping | None,
        Field(default=None, description="Columns of the rows, where they have other names than the format's."),
    ]
    weight: Annotated[
        str,
        Field(
            default="1",
            pattern=_WEIGHT,
            max_length=16,
            description="How often an epoch sees each training row of this source, a decimal in quotes: '2' twice, "
            "'0.5' half of the rows, '2.5' twice and half of them once more. Which rows are in that half follows from "
            "their content: they are the same in every run.",
        ),
    ]
    limit: Annotated[
        int | None,
        Field(default=None, ge=1, le=1_000_000_000, description="Rows to read, the first of the source. Default: all."),
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
            ),
            (
                "!has(self.fraction) || (double(self.fraction) != 0.0 && double(self.fraction) != 1.0)",
                "spec.dataset.validation.fraction must be above 0 and below 1, or one of the splits has no rows",
            ),
            (
                "!has(self.sources) || self.sources.all(source, !has(source.weight) || source.weight == '1')",
                "held-out rows are evaluated once each; remove weight from spec.dataset.validation.sources",
            ),
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


class ChecksSpec(Document):
    """What the prepared data must hold. The data report has every number, whatever is allowed here."""

    max_refused_rows: Annotated[
        int,
        Field(
            default=0,
            ge=0,
            le=1_000_000_000,
            description="Rows that may be left out because they cannot be used. More of them fail the job.",
        ),
    ]
    max_duplicate_fraction: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the training rows that may equal an earlier one, such as '0.1'. Default: any.",
        ),
    ]
    max_near_duplicate_fraction: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the training rows that may nearly equal an earlier one (MinHash estimate), such as "
            "'0.2'. Default: any.",
        ),
    ]
    max_validation_overlap: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the held-out rows that may equal a training row, such as '0'. Default: any.",
        ),
    ]
    max_truncated_fraction: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the training rows that may be cut to hyperparameters.maxSequenceLength, such as "
            "'0.05'. Default: any.",
        ),
    ]


def _any_source(condition: str) -> str:
    """CEL for: one source of either split fulfils a condition."""
    held_out = "has(self.validation) && has(self.validation.sources) && self.validation.sources"
    return f"self.train.exists(source, {condition}) || ({held_out}.exists(source, {condition}))"


class DatasetSpec(Document):
    """Training and held-out data."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "!has(self.huggingFace) || " + _any_source("source.source.startsWith('hf://')"),
                "no source is on a hub; remove spec.dataset.huggingFace or use hf://org/name",
            ),
            (
                "!has(self.chatTemplate) || " + _any_source(f"{format_of('source')} != 'completion'"),
                "no source is rendered by a chat template; remove spec.dataset.chatTemplate or set format",
            ),
        )
        | effective_validations(
            (OFFLINE_NEEDS_CACHE, "offline needs a cache; set spec.dataset.huggingFace.cacheClaim"),
            (
                "!has(self.checks) || !has(self.checks.maxValidationOverlap) || has(self.validation)",
                "there is no held-out split; remove spec.dataset.checks.maxValidationOverlap or set "
                "spec.dataset.validation",
            ),
        )
    }

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
            "its first tokens and counts it in status, Refuse makes it a row that cannot be used.",
        ),
    ]
    chat_template: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=65536,
            description="Jinja chat template that renders the rows in place of the model's own, and is published with "
            "the artifact.",
        ),
    ]
    checks: Annotated[
        ChecksSpec,
        Field(default_factory=ChecksSpec, description="What the prepared data must hold, else the job fails."),
    ]
    hugging_face: Annotated[
        HubAccess | None,
        Field(default=None, description="How to reach the hub for hf:// data. Default: as spec.model.huggingFace."),
    ]


# Part of no run ID, whatever the defaults become.
_PLAIN = {"format": "chat", "weight": "1"}


def source_settings(source: DataSource) -> dict[str, Any]:
    """What a source says of its rows beside where they are: empty for chat rows that are all read once."""
    said = source.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"format", "fields", "weight", "limit"}
    )
    return {name: value for name, value in said.items() if _PLAIN.get(name) != value}
