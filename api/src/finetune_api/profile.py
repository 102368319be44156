"""The FineTuneProfile: what a platform team gives the jobs of a namespace, and what it bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from finetune_api import API_VERSION
from finetune_api.base import LABEL_KEY_PATTERN, DecimalString, Document, Quantity, validations
from finetune_api.spec import Objective, Tuning

PROFILE_KIND = "FineTuneProfile"
PROFILE_PLURAL = "finetuneprofiles"
# In prefixes and in the default destination: the namespace of the job.
NAMESPACE_PLACEHOLDER = "{namespace}"

_IMAGE = r"^[^\s@]+@sha256:[0-9a-f]{64}$"
_PREFIX = r"^(s3|hf|pvc|job|https)://[!-~]*$"
_ATOMIC = {"x-kubernetes-list-type": "atomic"}

NamePattern = Annotated[str, Field(pattern=r"^[-a-z0-9.*]+$", max_length=253)]
Prefix = Annotated[str, Field(pattern=_PREFIX, max_length=1024)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY_PATTERN, min_length=1, max_length=317)]
Labels = dict[str, Annotated[str, Field(max_length=63)]]


class SelectorRequirement(Document):
    """One requirement of a label selector."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                "In and NotIn need values, Exists and DoesNotExist take none; set or remove values",
            )
        )
    }

    key: Annotated[LabelKey, Field(description="Key of the label.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], Field(description="How the label relates to values.")
    ]
    values: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...] | None,
        Field(default=None, max_length=64, description="Values of In and NotIn.", json_schema_extra=_ATOMIC),
    ]


class NamespaceSelector(Document):
    """A label selector over namespaces."""

    match_labels: Annotated[
        Labels | None, Field(default=None, max_length=32, description="Labels that the namespace must have.")
    ]
    match_expressions: Annotated[
        tuple[SelectorRequirement, ...] | None,
        Field(
            default=None,
            max_length=32,
            description="Requirements that its labels must meet, all of them.",
            json_schema_extra=_ATOMIC,
        ),
    ]


class NodeShape(Document):
    """What one node gives a training pod: the default of spec.resources, and the most that a job may ask for."""

    cpu: Annotated[Quantity | None, Field(default=None, description="CPU of a node that a pod may use, in cores.")]
    memory: Annotated[Quantity | None, Field(default=None, description="Memory of a node that a pod may use.")]
    gpus: Annotated[int | None, Field(default=None, ge=0, le=16, description="GPUs of a node.")]
    gpu_resource_name: Annotated[
        str | None, Field(default=None, max_length=128, description="Extended resource that counts them.")
    ]


class GpuRequirement(Document):
    """Which GPUs the training pods of GPU jobs get, by the labels of GPU feature discovery."""

    type: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=63,
            description="Value of the node label typeLabel, such as NVIDIA-A100-SXM4-80GB. Default: any.",
        ),
    ]
    type_label: Annotated[
        LabelKey, Field(default="nvidia.com/gpu.product", description="Node label that names the type of its GPUs.")
    ]
    memory: Annotated[
        Quantity | None,
        Field(default=None, description="Least memory of each GPU, such as 40Gi. Default: any."),
    ]
    memory_label: Annotated[
        LabelKey,
        Field(default="nvidia.com/gpu.memory", description="Node label that holds the memory of a GPU, in MiB."),
    ]


class Toleration(Document):
    """A taint that training pods tolerate."""

    key: Annotated[LabelKey | None, Field(default=None, description="Key of the taint. Default: every key.")]
    operator: Annotated[
        Literal["Exists", "Equal"] | None, Field(default=None, description="Exists or Equal. Default: Equal.")
    ]
    value: Annotated[str | None, Field(default=None, max_length=63, description="Value of the taint, for Equal.")]
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(default=None, description="Effect of the taint. Default: every effect."),
    ]


class SchedulingSpec(Document):
    """Where training pods may run."""

    node_selector: Annotated[
        Labels | None,
        Field(
            default=None,
            max_length=32,
            description="Labels that a node must have, beside those of the job's spec.resources.nodeSelector. A job "
            "may not ask for another value of one of them.",
        ),
    ]
    tolerations: Annotated[
        tuple[Toleration, ...] | None,
        Field(
            default=None, max_length=32, description="Taints that training pods tolerate.", json_schema_extra=_ATOMIC
        ),
    ]


def _in_order(smaller: str) -> ConfigDict:
    """That the ends of a range are in order; ``smaller`` is CEL for that of two that are there."""
    rule = (f"!has(self.min) || !has(self.max) || {smaller}", "min is above max, which no job can meet; swap them")
    return ConfigDict(**Document.model_config, json_schema_extra=validations(rule))


class IntegerRange(Document):
    """Whole numbers that are allowed."""

    model_config = _in_order("self.min <= self.max")

    min: Annotated[int | None, Field(default=None, ge=0, le=1_000_000_000_000, description="Smallest value.")]
    max: Annotated[int | None, Field(default=None, ge=0, le=1_000_000_000_000, description="Largest value.")]


class DecimalRange(Document):
    """Decimals that are allowed."""

    model_config = _in_order("double(self.min) <= double(self.max)")

    min: Annotated[DecimalString | None, Field(default=None, description="Smallest value, a decimal in quotes.")]
    max: Annotated[DecimalString | None, Field(default=None, description="Largest value, a decimal in quotes.")]


class QuantityRange(Document):
    """Quantities that are allowed."""

    min: Annotated[Quantity | None, Field(default=None, description="Smallest value.")]
    max: Annotated[Quantity | None, Field(default=None, description="Largest value.")]


def _limit(description: str) -> Any:
    return Field(default=None, description=description)


class LimitsSpec(Document):
    """Ranges of what a job may ask for. What is left out is not bounded."""

    rank: Annotated[IntegerRange | None, _limit("method.lora.rank, of lora and qlora.")]
    learning_rate: Annotated[DecimalRange | None, _limit("hyperparameters.learningRate.")]
    epochs: Annotated[IntegerRange | None, _limit("hyperparameters.epochs, of a job without maxSteps.")]
    max_steps: Annotated[
        IntegerRange | None,
        _limit("hyperparameters.maxSteps; with a largest value, a job of epochs is refused that would take more."),
    ]
    global_batch_size: Annotated[IntegerRange | None, _limit("hyperparameters.globalBatchSize.")]
    micro_batch_size: Annotated[IntegerRange | None, _limit("deepspeed.microBatchSize.")]
    max_sequence_length: Annotated[IntegerRange | None, _limit("hyperparameters.maxSequenceLength.")]
    nodes: Annotated[IntegerRange | None, _limit("resources.nodes.")]
    gpus_per_node: Annotated[IntegerRange | None, _limit("resources.gpusPerNode.")]
    gpus: Annotated[IntegerRange | None, _limit("GPUs of all nodes of a job together.")]
    cpu: Annotated[QuantityRange | None, _limit("resources.cpu, of each node.")]
    memory: Annotated[QuantityRange | None, _limit("resources.memory, of each node.")]
    active_deadline_seconds: Annotated[
        IntegerRange | None,
        _limit(
            "activeDeadlineSeconds. With a largest value, a job must have a deadline, and one that is raised later "
            "counts up to this."
        ),
    ]


class ModelRule(Document):
    """Base models that are allowed, and at which revisions."""

    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            description="Pattern for a source, such as hf://HuggingFaceTB/*; * stands for any characters.",
        ),
    ]
    revisions: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] | None,
        Field(
            default=None,
            min_length=1,
            max_length=64,
            description="Patterns for the revision of an hf:// source, one of which must fit. Default: any.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    pinned: Annotated[
        bool,
        Field(default=False, description="true asks that the revision of an hf:// source is a full commit."),
    ]


class BoundsSpec(Document):
    """What jobs may ask for. What is left out is not bounded."""

    models: Annotated[
        tuple[ModelRule, ...] | None,
        Field(
            default=None,
            max_length=256,
            description="Base models, and other weights that a job names; one rule must fit. A job:// source passed "
            "the bounds of its own job.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    data: Annotated[
        tuple[Prefix, ...] | None,
        Field(
            default=None,
            max_length=256,
            description="Prefixes of dataset sources, such as s3://datasets/{namespace}; {namespace} is the job's.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    destinations: Annotated[
        tuple[Prefix, ...] | None,
        Field(
            default=None,
            max_length=256,
            description="Prefixes of what jobs publish, <output.destination>/<namespace>, such as "
            "s3://models/{namespace}; {namespace} is the job's.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    endpoints: Annotated[
        tuple[Annotated[str, Field(pattern=r"^https?://", max_length=1024)], ...] | None,
        Field(
            default=None,
            max_length=64,
            description="URLs of object stores that a job may name in an endpointURL of an s3 group. Each of its s3 "
            "groups must then name one.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    objectives: Annotated[
        tuple[Objective, ...] | None,
        Field(default=None, max_length=16, description="Values of method.objective.", json_schema_extra=_ATOMIC),
    ]
    tunings: Annotated[
        tuple[Tuning, ...] | None,
        Field(default=None, max_length=16, description="Values of method.tuning.", json_schema_extra=_ATOMIC),
    ]
    queues: Annotated[
        tuple[NamePattern, ...] | None,
        Field(
            default=None,
            max_length=64,
            description="Names of queueName, in which * stands for any characters. A job must then be in one of them.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    priority_classes: Annotated[
        tuple[NamePattern, ...] | None,
        Field(
            default=None,
            max_length=64,
            description="Names of priorityClassName, in which * stands for any characters. A job may name none.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    service_accounts: Annotated[
        tuple[NamePattern, ...] | None,
        Field(
            default=None,
            max_length=64,
            description="Names of output.serviceAccountName, in which * stands for any characters. A job may name "
            "none.",
            json_schema_extra=_ATOMIC,
        ),
    ]
    limits: Annotated[LimitsSpec | None, Field(default=None, description="Ranges of numbers.")]


# What the CRD says of the defaults is made from the job's own schema, see finetune_api.crd.
Defaults = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]


class FineTuneProfileSpec(Document):
    """What a platform team gives the jobs that run under this profile, and what it bounds."""

    default: Annotated[
        bool,
        Field(default=False, description="true: for the jobs of the selected namespaces that name no profile."),
    ]
    namespace_selector: Annotated[
        NamespaceSelector | None,
        Field(default=None, description="Namespaces whose jobs may use this profile. Default: all."),
    ]
    trainer_image: Annotated[
        str | None,
        Field(
            default=None,
            pattern=_IMAGE,
            max_length=1024,
            description="Image of the pods, by digest: repository@sha256:.... Default: that of the operator.",
        ),
    ]
    node: Annotated[NodeShape | None, Field(default=None, description="Shape of the nodes that train.")]
    gpu: Annotated[GpuRequirement | None, Field(default=None, description="Which GPUs jobs with GPUs get.")]
    scheduling: Annotated[SchedulingSpec | None, Field(default=None, description="Where training pods may run.")]
    defaults: Annotated[
        Defaults | None,
        Field(
            default=None,
            description="Values of fields that a job leaves out, in the shape of the spec of a FineTuneJob. Those of "
            "another method, source or schedule than the job's are passed over. {namespace} in output.destination is "
            "the namespace of the job.",
        ),
    ]
    bounds: Annotated[BoundsSpec | None, Field(default=None, description="What jobs may ask for.")]


class ProfileMetadata(BaseModel):
    """The part of a profile's metadata that is read."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    generation: int = 0


class FineTuneProfile(Document):
    """Trainer image, node shape, defaults and bounds that a platform team gives the jobs of some namespaces."""

    api_version: Annotated[Literal["finetune.dev/v1alpha1"], Field(alias="apiVersion", default=API_VERSION)]
    kind: Annotated[Literal["FineTuneProfile"], Field(default=PROFILE_KIND)]
    metadata: ProfileMetadata
    spec: FineTuneProfileSpec = FineTuneProfileSpec()


def selects(selector: NamespaceSelector | None, labels: dict[str, str]) -> bool:
    """Whether a selector selects a namespace with these labels, by the rules of Kubernetes."""
    if selector is None:
        return True
    wanted = (selector.match_labels or {}).items()
    return wanted <= labels.items() and all(_meets(item, labels) for item in selector.match_expressions or ())


def _meets(requirement: SelectorRequirement, labels: dict[str, str]) -> bool:
    values, value = requirement.values or (), labels.get(requirement.key)
    return {
        "In": value is not None and value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[requirement.operator]
