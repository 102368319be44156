"""What is learned: the objectives and the options of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DecimalString, Document, validations, where_written
from finetune_api.spec.model import ReferenceModel

_BELOW_HALF = r"^0(\.[0-4][0-9]*)?$"


class Objective(StrEnum):
    SFT = "sft"
    DPO = "dpo"
    ORPO = "orpo"
    KTO = "kto"
    REWARD = "reward"


class DpoLoss(StrEnum):
    SIGMOID = "sigmoid"
    ROBUST = "robust"
    IPO = "ipo"
    HINGE = "hinge"


class Reference(StrEnum):
    """Where the log-probabilities of the reference, the model before its first step, come from."""

    MODEL = "Model"
    PRECOMPUTED = "Precomputed"
    NONE = "None"


_REFERENCE = (
    "Model disables the adapter for a pass of its own before each batch, which lora and qlora allow; "
    "Precomputed computes every row once before the first step and keeps the numbers, and is what a continued adapter "
    "always uses"
)
_REFERENCE_MODEL = (
    "Another model to compare with, of the same vocabulary. It is loaded before the model that is trained, its "
    "log-probabilities are kept as reference Precomputed keeps them, and it is gone before the first step. Default: "
    "the model before its first step."
)


def _precomputed_from_elsewhere(objective: str) -> tuple[str, str]:
    return (
        where_written("!has(self.referenceModel) || self.reference == 'Precomputed'", "reference"),
        f"method.{objective}.referenceModel is computed before the first step, and gone after it; remove "
        f"spec.method.{objective}.reference or set it to Precomputed",
    )


_REFERENCE_DEFAULT = "Default: Model where that is allowed, else Precomputed."
_POSITIVE_BETA = (
    where_written("double(self.beta) > 0.0 && double(self.beta) <= 1000.0", "beta"),
    "beta must be greater than zero and at most 1000, such as '0.1'",
)


class DpoOptions(Document):
    """Direct preference optimization, https://arxiv.org/abs/2305.18290."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            _POSITIVE_BETA,
            _precomputed_from_elsewhere("dpo"),
            (
                where_written("self.loss == 'robust' || double(self.labelSmoothing) == 0.0", "loss", "labelSmoothing"),
                "labelSmoothing is an option of the loss robust; remove spec.method.dpo.labelSmoothing or set "
                "spec.method.dpo.loss to robust",
            ),
        )
    }

    loss: Annotated[
        DpoLoss,
        Field(
            default=DpoLoss.SIGMOID,
            description="sigmoid: the loss of the paper; robust: the same for data of which a share labelSmoothing is "
            "in the wrong order (arXiv 2403.00409); ipo: a squared distance, per token (arXiv 2310.12036); hinge: "
            "SLiC's (arXiv 2305.10425).",
        ),
    ]
    beta: Annotated[
        DecimalString,
        Field(default="0.1", description="Strength of the tie to the reference, a decimal above 0 in quotes."),
    ]
    label_smoothing: Annotated[
        str,
        Field(
            default="0",
            pattern=_BELOW_HALF,
            max_length=32,
            description="Share of pairs that are thought to be in the wrong order, for the loss robust; a decimal "
            "below 0.5 in quotes.",
        ),
    ]
    reference: Annotated[
        Reference | None,
        Field(
            default=None,
            description="Log-probabilities of the reference, which is the model before its first step. "
            f"{_REFERENCE}; None leaves the reference out of the loss. {_REFERENCE_DEFAULT}",
        ),
    ]
    reference_model: Annotated[ReferenceModel | None, Field(default=None, description=_REFERENCE_MODEL)]


class OrpoOptions(Document):
    """Odds ratio preference optimization, https://arxiv.org/abs/2403.07691."""

    beta: Annotated[
        DecimalString,
        Field(default="0.1", description="Weight of the odds ratio beside the cross-entropy, a decimal in quotes."),
    ]


class KtoOptions(Document):
    """Kahneman-Tversky optimization, https://arxiv.org/abs/2402.01306."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            _POSITIVE_BETA,
            _precomputed_from_elsewhere("kto"),
            (
                "!has(self.reference) || self.reference != 'None'",
                "kto needs a reference; remove spec.method.kto.reference or set it to Model or Precomputed",
            ),
            (
                where_written(
                    "double(self.desirableWeight) > 0.0 || double(self.undesirableWeight) > 0.0",
                    "desirableWeight",
                    "undesirableWeight",
                ),
                "with both weights 0 nothing is learned; set desirableWeight or undesirableWeight of spec.method.kto "
                "above 0",
            ),
        )
    }

    beta: Annotated[
        DecimalString,
        Field(default="0.1", description="Strength of the tie to the reference, a decimal above 0 in quotes."),
    ]
    desirable_weight: Annotated[
        DecimalString, Field(default="1.0", description="Weight of desirable rows, a decimal in quotes.")
    ]
    undesirable_weight: Annotated[
        DecimalString, Field(default="1.0", description="Weight of undesirable rows, a decimal in quotes.")
    ]
    reference: Annotated[
        Reference | None,
        Field(
            default=None,
            description="Log-probabilities of the reference, which is the model before its first step. "
            f"{_REFERENCE}. {_REFERENCE_DEFAULT}",
        ),
    ]
    reference_model: Annotated[ReferenceModel | None, Field(default=None, description=_REFERENCE_MODEL)]


class RewardOptions(Document):
    """Pairwise reward modelling, https://arxiv.org/abs/2203.02155."""

    centering: Annotated[
        DecimalString,
        Field(
            default="0",
            description="Weight of the squared sum of a pair's scores, which keeps scores around zero (arXiv "
            "2312.09244), a decimal in quotes, such as '0.01'.",
        ),
    ]
