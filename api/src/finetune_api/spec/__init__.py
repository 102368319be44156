"""The FineTuneJob's spec. These models are the source of the CRD: docstrings and descriptions become its help."""

from finetune_api.spec.access import AddressingStyle, Checksum, HubAccess, S3Access, SecretKeyReference, SecretReference
from finetune_api.spec.checkpoint import CheckpointSpec
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
from finetune_api.spec.job import MAX_NAME_LENGTH, OPERATOR, ArtifactForm, FineTuneJobSpec, OutputSpec, ProfileReference
from finetune_api.spec.method import MethodSpec
from finetune_api.spec.model import AdapterSource, ModelSpec, ReferenceModel, WeightsSource
from finetune_api.spec.objectives import (
    DpoLoss,
    DpoOptions,
    KtoOptions,
    Objective,
    OrpoOptions,
    Reference,
    RewardOptions,
)
from finetune_api.spec.resources import DeepSpeedSpec, ResourcesSpec
from finetune_api.spec.tunings import LoraOptions, LoraShape, PartialOptions, QuantizationOptions, Tuning

__all__ = [
    "MAX_NAME_LENGTH",
    "OPERATOR",
    "AdapterSource",
    "AddressingStyle",
    "ArtifactForm",
    "CheckpointSpec",
    "ChecksSpec",
    "Checksum",
    "DataFormat",
    "DataSource",
    "DatasetSpec",
    "DeepSpeedSpec",
    "DivergenceSpec",
    "DpoLoss",
    "DpoOptions",
    "EarlyStoppingSpec",
    "EvaluationSpec",
    "FieldMapping",
    "FineTuneJobSpec",
    "HubAccess",
    "HyperparametersSpec",
    "KtoOptions",
    "LoraOptions",
    "LoraShape",
    "MethodSpec",
    "ModelSpec",
    "Objective",
    "Optimizer",
    "OrpoOptions",
    "OutputSpec",
    "PartialOptions",
    "Precision",
    "ProfileReference",
    "Publish",
    "QuantizationOptions",
    "Reference",
    "ReferenceModel",
    "ResourcesSpec",
    "RewardOptions",
    "S3Access",
    "Schedule",
    "SecretKeyReference",
    "SecretReference",
    "TooLong",
    "Tuning",
    "ValidationSpec",
    "WeightsSource",
    "source_settings",
]
