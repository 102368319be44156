"""Progress reports: what a training pod POSTs to the operator while it works."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document
from finetune_api.outcomes import Stage
from finetune_api.progress import Progress
from finetune_api.results import Checkpoint

MAX_REPORT_BYTES = 64 * 1024
TOKEN_FILE_NAME = "token"


def audience(namespace: str, name: str, uid: str) -> str:
    """Audience of the token that one job's pods report with; no other job's token carries it."""
    return f"finetune.dev/{namespace}/{name}/{uid}"


def report_path(namespace: str, name: str) -> str:
    """Path of the report endpoint of one job."""
    return f"/v1/namespaces/{namespace}/finetunejobs/{name}/progress"


class ProgressReport(Document):
    """One report. Of several, the one with the highest attempt and then sequence number counts."""

    uid: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$", max_length=63)]
    attempt: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=0)]
    stage: Stage
    message: Annotated[str | None, Field(default=None, max_length=256)]
    resumed_from_step: Annotated[
        int | None, Field(default=None, ge=0, description="Optimizer steps that the attempt found done when it began.")
    ]
    first_step: Annotated[
        datetime | None, Field(default=None, description="When the attempt's first optimizer step began.")
    ]
    progress: Progress | None = None
    checkpoint: Annotated[Checkpoint | None, Field(default=None, description="The newest of this attempt.")]
    damaged: Annotated[
        tuple[Annotated[str, Field(max_length=256)], ...] | None,
        Field(default=None, max_length=16, description="Checkpoints that were passed over, since they are not intact."),
    ]
