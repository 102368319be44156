"""When what was learned is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document


class EvaluationSpec(Document):
    """When the held-out split is evaluated. Before and after training it always is."""

    every_steps: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=1_000_000,
            description="Also evaluate each time this many optimizer steps are done. Default: only before and after.",
        ),
    ]
