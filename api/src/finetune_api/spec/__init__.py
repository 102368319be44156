"""The FineTuneJob's spec. These models are the source of the CRD: docstrings and descriptions become its help."""

from finetune_api.spec.inputs import (
    AddressingStyle,
    DataFormat,
    DatasetSpec,
    DataSource,
    HubAccess,
    ModelSpec,
    S3Access,
    SecretKeyReference,
    SecretReference,
    TooLong,
    ValidationSpec,
)
from finetune_api.spec.job import MAX_NAME_LENGTH, FineTuneJobSpec, OutputSpec
from finetune_api.spec.resources import DeepSpeedSpec, ResourcesSpec
from finetune_api.spec.training import (
    EvaluationSpec,
    HyperparametersSpec,
    LoraOptions,
    MethodSpec,
    Objective,
    Precision,
    Schedule,
    Tuning,
)

__all__ = [
    "MAX_NAME_LENGTH",
    "AddressingStyle",
    "DataFormat",
    "DataSource",
    "DatasetSpec",
    "DeepSpeedSpec",
    "EvaluationSpec",
    "FineTuneJobSpec",
    "HubAccess",
    "HyperparametersSpec",
    "LoraOptions",
    "MethodSpec",
    "ModelSpec",
    "Objective",
    "OutputSpec",
    "Precision",
    "ResourcesSpec",
    "S3Access",
    "Schedule",
    "SecretKeyReference",
    "SecretReference",
    "TooLong",
    "Tuning",
    "ValidationSpec",
]
