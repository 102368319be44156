"""When what was learned is measured, and what follows from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document, effective_validations, validations, where_written

# Most prompts that a job may have answered.
MAX_SAMPLES = 8


class Publish(StrEnum):
    LAST = "Last"
    BEST = "Best"


class EarlyStoppingSpec(Document):
    """Ends training when the held-out loss no longer falls."""

    patience: Annotated[
        int,
        Field(
            default=3,
            ge=1,
            le=1000,
            description="Evaluations in a row without an improvement after which training ends.",
        ),
    ]
    min_improvement: Annotated[
        DecimalString,
        Field(
            default="0",
            description="How far below the lowest held-out loss so far, that of the base model included, a loss must "
            "be to count as an improvement; a decimal in quotes, in the unit of the loss.",
        ),
    ]


class DivergenceSpec(Document):
    """Ends training when its loss stays too high. A loss that is NaN or infinite always ends it."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                where_written("double(self.maxLoss) > 0.0", "maxLoss"),
                "every loss is above 0; set spec.evaluation.divergence.maxLoss to one that is too high",
            )
        )
    }

    max_loss: Annotated[
        DecimalString,
        Field(description="Highest training loss that is taken for healthy, a decimal in quotes, in its unit."),
    ]
    steps: Annotated[
        int,
        Field(default=1, ge=1, le=1_000_000, description="Steps in a row above maxLoss after which the job fails."),
    ]


class EvaluationSpec(Document):
    """When the held-out split is evaluated, and what follows from it. Before and after training it always is."""

    model_config = Document.model_config | {
        "json_schema_extra": effective_validations(
            (
                "!has(self.earlyStopping) || has(self.everySteps)",
                "early stopping looks at evaluations during training; set spec.evaluation.everySteps",
            ),
            (
                "!has(self.publish) || self.publish != 'Best' || has(self.everySteps)",
                "publish: Best chooses among evaluations during training; set spec.evaluation.everySteps",
            ),
        )
    }

    every_steps: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=1_000_000,
            description="Also evaluate each time this many optimizer steps are done. Default: only before and after.",
        ),
    ]
    early_stopping: Annotated[
        EarlyStoppingSpec | None,
        Field(default=None, description="When to end training before its last step. Default: never."),
    ]
    publish: Annotated[
        Publish,
        Field(
            default=Publish.LAST,
            description="Weights to publish: Last, those after the last step, or Best, those of the evaluation with "
            "the lowest held-out loss.",
        ),
    ]
    divergence: Annotated[
        DivergenceSpec | None,
        Field(default=None, description="Which losses are taken for a divergence. Default: NaN and infinity only."),
    ]
    samples: Annotated[
        int,
        Field(
            default=0,
            ge=0,
            le=MAX_SAMPLES,
            description="Held-out prompts that the model answers before training and with the weights that are "
            "published, shown side by side in report.html. At most 64 tokens each, always the likeliest one, and at "
            "most 30 seconds of all processes each time. It does not change the result.",
        ),
    ]
