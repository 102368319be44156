"""When training is saved, so that a lost pod costs minutes and not the run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, validations

DEFAULT_GRACE_SECONDS = 120


class CheckpointSpec(Document):
    """When training is saved below spec.output.destination, and how long that is kept.

    Without everySteps and everySeconds the interval is chosen from the time that a checkpoint takes.
    """

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "!has(self.everySteps) || !has(self.everySeconds)",
                "checkpoint.everySteps and checkpoint.everySeconds exclude each other; remove one of them",
            ),
        )
    }

    every_steps: Annotated[
        int | None, Field(default=None, ge=1, le=1_000_000_000, description="Optimizer steps between two checkpoints.")
    ]
    every_seconds: Annotated[
        int | None, Field(default=None, ge=1, le=31_536_000, description="Seconds between two checkpoints.")
    ]
    mean_seconds_to_failure: Annotated[
        int,
        Field(
            default=14_400,
            ge=60,
            le=31_536_000,
            description="Expected seconds between two losses of a pod. Where neither everySteps nor everySeconds is "
            "set, the interval is sqrt(2 * this * the seconds that training waits for a checkpoint), which loses the "
            "least time.",
        ),
    ]
    keep: Annotated[
        int,
        Field(
            default=2,
            ge=1,
            le=100,
            description="Checkpoints to keep. With one, training starts over if it turns out to be damaged.",
        ),
    ]
    keep_after_success: Annotated[
        bool, Field(default=False, description="true keeps the checkpoints when the artifact has been published.")
    ]
    grace_period_seconds: Annotated[
        int,
        Field(
            default=DEFAULT_GRACE_SECONDS,
            ge=10,
            le=3600,
            description="Seconds that the pods get to save a checkpoint when they are asked to stop, by a preemption, "
            "a drain or spec.suspend. They end as soon as it is saved.",
        ),
    ]
