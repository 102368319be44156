"""What is learned, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document, FractionString, validations


class Objective(StrEnum):
    SFT = "sft"


class Tuning(StrEnum):
    LORA = "lora"
    FULL = "full"


class Schedule(StrEnum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Precision(StrEnum):
    BF16 = "bf16"
    FP32 = "fp32"


class LoraOptions(Document):
    """Low-rank adaptation, https://arxiv.org/abs/2106.09685."""

    rank: Annotated[int, Field(default=16, ge=1, le=1024, description="Rank of the update matrices.")]
    alpha: Annotated[
        int, Field(default=32, ge=1, le=4096, description="Scale of the update: it is multiplied by alpha / rank.")
    ]
    dropout: Annotated[
        FractionString,
        Field(default="0", description="Dropout on the adapter's input, a decimal between 0 and 1 in quotes."),
    ]
    target_modules: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(
            default=("all-linear",),
            min_length=1,
            max_length=64,
            description="Names of the linear modules to adapt, such as q_proj and v_proj, or all-linear for every "
            "linear layer but the output head.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]


class MethodSpec(Document):
    """What is learned, and in which weights."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.tuning == 'lora' || !has(self.lora)",
                "method.lora is set but method.tuning is not lora: a job has one tuning; remove spec.method.lora or "
                "set spec.method.tuning to lora",
            )
        )
    }

    objective: Annotated[
        Objective,
        Field(
            default=Objective.SFT, description="sft: supervised fine-tuning, cross-entropy on the assistant's turns."
        ),
    ]
    tuning: Annotated[
        Tuning,
        Field(
            default=Tuning.LORA,
            description="lora trains and publishes a low-rank adapter; full trains and publishes all weights.",
        ),
    ]
    lora: Annotated[LoraOptions | None, Field(default=None, description="Options of tuning lora.")]


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
