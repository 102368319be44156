"""How it is learned."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document, validations


class Schedule(StrEnum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Precision(StrEnum):
    BF16 = "bf16"
    FP32 = "fp32"


class HyperparametersSpec(Document):
    """How it is learned. Decimals are strings, so that no client rounds them."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "!has(self.epochs) || !has(self.maxSteps)",
                "set only one of spec.hyperparameters.epochs and spec.hyperparameters.maxSteps",
            )
        )
    }

    epochs: Annotated[
        int | None,
        Field(default=None, ge=1, le=10_000, description="Passes over the training data. Default: 1 without maxSteps."),
    ]
    max_steps: Annotated[
        int | None,
        Field(default=None, ge=1, le=100_000_000, description="Optimizer steps, as many epochs as it takes."),
    ]
    learning_rate: Annotated[
        DecimalString,
        Field(default="2e-4", description="Peak learning rate, a decimal in quotes, such as '2e-4'."),
    ]
    schedule: Annotated[
        Schedule,
        Field(
            default=Schedule.COSINE,
            description="Learning rate after warmup: constant, linear to zero, or half a cosine to zero.",
        ),
    ]
    warmup_steps: Annotated[
        int,
        Field(default=0, ge=0, le=1_000_000, description="Optimizer steps of linear warmup from zero to the peak."),
    ]
    weight_decay: Annotated[
        DecimalString,
        Field(default="0", description="Decoupled weight decay of AdamW, a decimal in quotes."),
    ]
    max_grad_norm: Annotated[
        DecimalString,
        Field(default="1.0", description="Gradients are clipped to this global L2 norm; '0' turns clipping off."),
    ]
    global_batch_size: Annotated[
        int,
        Field(
            default=8,
            ge=1,
            le=1_000_000,
            description="Rows per optimizer step over all processes. A multiple of processes times "
            "deepspeed.microBatchSize; the rest is gradient accumulation.",
        ),
    ]
    max_sequence_length: Annotated[int, Field(default=1024, ge=8, le=1_048_576, description="Longest row, in tokens.")]
    precision: Annotated[
        Precision,
        Field(
            default=Precision.BF16,
            description="bf16: compute in bfloat16 with fp32 master weights and optimizer state; fp32: all in float32.",
        ),
    ]
    gradient_checkpointing: Annotated[
        bool,
        Field(default=False, description="Recompute activations in the backward pass: less memory, about 30 % slower."),
    ]
    seed: Annotated[
        int,
        Field(
            default=42, ge=0, le=2_147_483_647, description="Seed of data order, adapter initialisation and dropout."
        ),
    ]
