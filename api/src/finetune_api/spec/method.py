"""What is learned, and in which weights."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, FractionString, validations


class Objective(StrEnum):
    SFT = "sft"


class Tuning(StrEnum):
    LORA = "lora"
    FULL = "full"


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
