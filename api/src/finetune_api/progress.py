"""Where training is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document

MAX_STRAGGLERS = 8


class Straggler(Document):
    """A rank that the others wait for."""

    rank: Annotated[int, Field(ge=0, description="Global rank of the process.")]
    ratio: Annotated[DecimalString, Field(description="Time of its own work in a step, over the median of all ranks.")]


class Progress(Document):
    """Where training is. Metrics are decimal strings."""

    step: Annotated[int, Field(ge=0, description="Optimizer steps done.")]
    total_steps: Annotated[int, Field(ge=1, description="Optimizer steps of the whole run.")]
    percent: Annotated[int, Field(ge=0, le=100, description="Share of the steps done, in percent.")]
    epoch: Annotated[DecimalString, Field(description="Passes over the training data done.")]
    loss: Annotated[
        DecimalString | None, Field(default=None, description="Training loss of the last step, nats per token.")
    ]
    eval_loss: Annotated[DecimalString | None, Field(default=None, description="Last held-out loss, nats per token.")]
    learning_rate: Annotated[DecimalString | None, Field(default=None, description="Learning rate of the last step.")]
    grad_norm: Annotated[
        DecimalString | None, Field(default=None, description="Global L2 norm of the gradients before clipping.")
    ]
    tokens_per_second: Annotated[
        DecimalString | None, Field(default=None, description="Training tokens per second over all processes.")
    ]
    eta: Annotated[
        str | None,
        Field(default=None, max_length=32, description="Expected time to the end of training, such as 1h05m or 42s."),
    ]
    stragglers: Annotated[
        tuple[Straggler, ...],
        Field(
            default=(),
            max_length=MAX_STRAGGLERS,
            description="Ranks that took more than 1.5 times the median over the last 20 steps, slowest first.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["rank"]},
        ),
    ]
    trainable_parameters: Annotated[
        int | None, Field(default=None, ge=0, description="Weights that are trained, over all processes.")
    ]
    total_parameters: Annotated[
        int | None, Field(default=None, ge=0, description="All weights of the model, those of an adapter included.")
    ]
    updated: Annotated[datetime, Field(description="When the trainer measured this.")]
