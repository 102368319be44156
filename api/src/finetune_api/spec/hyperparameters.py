"""How it is learned."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document, FractionString, validations, where_written


class Schedule(StrEnum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    WSD = "wsd"


class Optimizer(StrEnum):
    ADAMW = "adamw"
    ADAMW_8BIT = "adamw8bit"
    ADAFACTOR = "adafactor"


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
            ),
            (
                where_written("self.schedule == 'wsd' || !has(self.decaySteps)", "schedule"),
                "spec.hyperparameters.decaySteps belongs to schedule wsd; remove it or set "
                "spec.hyperparameters.schedule to wsd",
            ),
            (
                where_written(
                    "self.optimizer != 'adafactor' || !(has(self.beta1) || has(self.beta2) || has(self.epsilon))",
                    "optimizer",
                ),
                "beta1, beta2 and epsilon of spec.hyperparameters belong to AdamW; remove them or set "
                "spec.hyperparameters.optimizer to adamw",
            ),
            (
                where_written("double(self.learningRate) > 0.0 && double(self.learningRate) <= 10.0", "learningRate"),
                "spec.hyperparameters.learningRate must be above 0 and at most 10, such as '2e-4'",
            ),
            (
                "(!has(self.beta1) || double(self.beta1) < 1.0) && (!has(self.beta2) || double(self.beta2) < 1.0)",
                "with a decay of 1 a moment of AdamW never moves; set spec.hyperparameters.beta1 and beta2 below 1",
            ),
            (
                "!has(self.epsilon) || double(self.epsilon) > 0.0",
                "weights without a gradient yet would be divided by zero; set spec.hyperparameters.epsilon above 0",
            ),
            (
                "!has(self.maxSteps) || (has(self.warmupSteps) ? self.warmupSteps : 0) + "
                "(has(self.decaySteps) ? self.decaySteps : 0) <= self.maxSteps",
                "warmupSteps and decaySteps of spec.hyperparameters take more steps than its maxSteps; lower them or "
                "raise spec.hyperparameters.maxSteps",
            ),
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
            description="Learning rate after warmup: constant, linear to zero, half a cosine to zero, or wsd: "
            "constant, then linear to zero over the last decaySteps.",
        ),
    ]
    decay_steps: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=100_000_000,
            description="Optimizer steps at the end over which schedule wsd falls to zero. Default: a tenth of "
            "all steps.",
        ),
    ]
    warmup_steps: Annotated[
        int,
        Field(default=0, ge=0, le=1_000_000, description="Optimizer steps of linear warmup from zero to the peak."),
    ]
    optimizer: Annotated[
        Optimizer,
        Field(
            default=Optimizer.ADAMW,
            description="adamw; adamw8bit: AdamW with its two moments in 8 bits, a quarter of the optimizer's memory; "
            "adafactor: one factored moment, with steps relative to the size of each weight matrix.",
        ),
    ]
    beta1: Annotated[
        FractionString | None,
        Field(default=None, description="Decay of AdamW's first moment, a decimal in quotes. Default: '0.9'."),
    ]
    beta2: Annotated[
        FractionString | None,
        Field(default=None, description="Decay of AdamW's second moment, a decimal in quotes. Default: '0.999'."),
    ]
    epsilon: Annotated[
        DecimalString | None,
        Field(default=None, description="Added to AdamW's denominator, a decimal in quotes. Default: '1e-8'."),
    ]
    weight_decay: Annotated[
        DecimalString,
        Field(default="0", description="Decoupled weight decay, a decimal in quotes."),
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
    packing: Annotated[
        bool,
        Field(
            default=False,
            description="Put as many rows of the data together as maxSequenceLength holds: such a packed row counts as "
            "one of globalBatchSize. Rows put together never see each other. Only for objective sft.",
        ),
    ]
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
    compile: Annotated[
        bool,
        Field(
            default=False,
            description="Compile each decoder block with torch.compile during the first steps. The trainer's image "
            "must have a C and a C++ compiler. Not with deepspeed.zeroStage 3 nor with method.tuning qlora.",
        ),
    ]
    seed: Annotated[
        int,
        Field(
            default=42, ge=0, le=2_147_483_647, description="Seed of data order, adapter initialisation and dropout."
        ),
    ]
