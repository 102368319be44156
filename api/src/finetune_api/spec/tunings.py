"""In which weights it is learned: the tunings and the options of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, FractionString, effective_validations, validations, where_written
from finetune_api.spec.model import AdapterSource

_ATOMIC = {"x-kubernetes-list-type": "atomic"}


class Tuning(StrEnum):
    LORA = "lora"
    QLORA = "qlora"
    PARTIAL = "partial"
    FULL = "full"

    @property
    def adapts(self) -> bool:
        """Whether the base model stays as it is and an adapter is trained."""
        return self in (Tuning.LORA, Tuning.QLORA)


class LoraShape(Document):
    """What makes the form of an adapter, https://arxiv.org/abs/2106.09685."""

    rank: Annotated[int, Field(default=16, ge=1, le=1024, description="Rank of the update matrices.")]
    alpha: Annotated[
        int,
        Field(
            default=32,
            ge=1,
            le=4096,
            description="Scale of the update: it is multiplied by alpha / rank, or with rankStabilized by alpha / "
            "sqrt(rank).",
        ),
    ]
    dropout: Annotated[
        FractionString,
        Field(default="0", description="Dropout on the adapter's input, a decimal between 0 and 1 in quotes."),
    ]
    target_modules: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[!-~]+$", max_length=128)], ...],
        Field(
            default=("all-linear",),
            min_length=1,
            max_length=64,
            description="Names of the linear modules to adapt, such as q_proj and v_proj, or all-linear for every "
            "linear layer but the output head.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    rank_stabilized: Annotated[
        bool,
        Field(default=False, description="rsLoRA (arXiv 2312.03732): scale by alpha / sqrt(rank), for high ranks."),
    ]
    dora: Annotated[
        bool,
        Field(
            default=False,
            description="DoRA (arXiv 2402.09353): learn the length of each weight column beside its direction. vLLM "
            "does not serve such adapters.",
        ),
    ]


class LoraOptions(LoraShape):
    """Low-rank adaptation, https://arxiv.org/abs/2106.09685."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                where_written("double(self.dropout) < 1.0", "dropout"),
                "a dropout of 1 leaves nothing to learn from; set spec.method.lora.dropout below 1",
            ),
            (
                where_written(
                    "!('all-linear' in self.targetModules) || size(self.targetModules) == 1", "targetModules"
                ),
                "all-linear is every linear module already; in spec.method.lora.targetModules name it alone, or "
                "remove it",
            ),
        )
    }

    initial_adapter: Annotated[
        AdapterSource | None,
        Field(
            default=None,
            description="An adapter to go on from, on the model of spec.model. It must have the rank, alpha, "
            "targetModules, rankStabilized and dora of this group, and fit the model's shapes. Default: a new one.",
        ),
    ]


class QuantizationOptions(Document):
    """The base model in 4-bit NormalFloat, https://arxiv.org/abs/2305.14314."""

    double_quantization: Annotated[
        bool,
        Field(
            default=True, description="Quantize the scales of the 4-bit blocks too, which saves 0.4 bits per weight."
        ),
    ]


class PartialOptions(Document):
    """Which weights a partial tuning trains; all others stay as they are."""

    model_config = Document.model_config | {
        "json_schema_extra": effective_validations(
            (
                "has(self.lastBlocks) || has(self.parameters) || self.embeddings || self.head",
                "method.partial names nothing to train; set lastBlocks, parameters, embeddings or head of "
                "spec.method.partial",
            )
        )
    }

    last_blocks: Annotated[
        int | None,
        Field(default=None, ge=1, le=1024, description="How many of the last transformer blocks to train."),
    ]
    parameters: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] | None,
        Field(
            default=None,
            min_length=1,
            max_length=64,
            description="Patterns of names of parameters to train, such as 'model.layers.*.mlp.*' or '*norm.weight': * "
            "stands for any characters.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    embeddings: Annotated[
        bool,
        Field(default=False, description="Train the input embeddings; with tied weights that is the output head too."),
    ]
    head: Annotated[
        bool,
        Field(default=False, description="Train the output head; with tied weights that is the input embeddings too."),
    ]
