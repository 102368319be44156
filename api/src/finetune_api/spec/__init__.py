"""The FineTuneJob's spec. These models are the source of the CRD: docstrings and descriptions become its help."""

from finetune_api.spec.access import AddressingStyle, HubAccess, S3Access, SecretKeyReference, SecretReference
from finetune_api.spec.dataset import (
    ChecksSpec,
    DataFormat,
    DatasetSpec,
    DataSource,
    FieldMapping,
    TooLong,
    ValidationSpec,
    source_settings,
)
from finetune_api.spec.evaluation import DivergenceSpec, EarlyStoppingSpec, EvaluationSpec, Publish
from finetune_api.spec.hyperparameters import HyperparametersSpec, Optimizer, Precision, Schedule
from finetune_api.spec.job import MAX_NAME_LENGTH, FineTuneJobSpec, OutputSpec
from finetune_api.spec.method import LoraOptions, MethodSpec, Objective, Tuning
from finetune_api.spec.model import ModelSpec
from finetune_api.spec.resources import DeepSpeedSpec, ResourcesSpec

__all__ = [
    "MAX_NAME_LENGTH",
    "AddressingStyle",
    "ChecksSpec",
    "DataFormat",
    "DataSource",
    "DatasetSpec",
    "DeepSpeedSpec",
    "DivergenceSpec",
    "EarlyStoppingSpec",
    "EvaluationSpec",
    "FieldMapping",
    "FineTuneJobSpec",
    "HubAccess",
    "HyperparametersSpec",
    "LoraOptions",
    "MethodSpec",
    "ModelSpec",
    "Objective",
    "Optimizer",
    "OutputSpec",
    "Precision",
    "Publish",
    "ResourcesSpec",
    "S3Access",
    "Schedule",
    "SecretKeyReference",
    "SecretReference",
    "TooLong",
    "Tuning",
    "ValidationSpec",
    "source_settings",
]
