"""The spec as a whole, and where its result goes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import (
    DNS_SUBDOMAIN_PATTERN,
    Document,
    ResourceName,
    effective_validations,
    is_written,
    validations,
    where_written,
)
from finetune_api.spec.access import S3Access, named_bucket
from finetune_api.spec.checkpoint import CheckpointSpec
from finetune_api.spec.dataset import DataFormat, DatasetSpec, format_of
from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.hyperparameters import HyperparametersSpec
from finetune_api.spec.method import MethodSpec
from finetune_api.spec.model import ModelSpec
from finetune_api.spec.objectives import Objective
from finetune_api.spec.resources import DeepSpeedSpec, ResourcesSpec

MAX_NAME_LENGTH = 48
# The controller of a job that names no other one in spec.managedBy.
OPERATOR = "finetune.dev/operator"
# Of spec.managedBy, as of a batch Job's: a DNS subdomain, a slash and a path.
_MANAGER = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9._~/]*[A-Za-z0-9])?$"
# Names of queues become the value of a label.
_LABEL_LENGTH = 63

_DESTINATION = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[!-.0-~][!-~]*)?$"
# Below the bucket no empty, "." or ".." segment, and nothing that a store or proxy may decode to a slash or a dot.
_INSIDE = (
    r"!self.matches('^s3://[^/]+/(.*/)?/') && !self.matches('/[.]{1,2}(/|$)') && !self.contains('%') && "
    r"!self.contains('\\')"
)


class ArtifactForm(StrEnum):
    ADAPTER = "Adapter"
    MERGED = "Merged"


class OutputSpec(Document):
    """Where the result goes."""

    destination: Annotated[
        str,
        Field(
            pattern=_DESTINATION,
            max_length=1024,
            json_schema_extra=validations(
                (
                    _INSIDE,
                    "spec.output.destination must not lead elsewhere: it holds no empty, '.' or '..' segment, no '%' "
                    "and no backslash",
                ),
                (
                    named_bucket("self"),
                    "spec.output.destination names no bucket: an address and '..' cannot be its name; set "
                    "s3://bucket/prefix, and the address as spec.output.s3.endpointURL",
                ),
            ),
            description="s3://bucket/prefix. The artifact is published under <prefix>/<namespace>/<name>/<run ID>/.",
        ),
    ]
    artifact: Annotated[
        ArtifactForm | None,
        Field(
            default=None,
            description="What a tuning with an adapter publishes: Adapter (the default), or Merged, the whole model "
            "with the adapter's changes in its weights. Other tunings publish the whole model.",
        ),
    ]
    service_account_name: Annotated[
        ResourceName | None,
        Field(
            default=None,
            description="ServiceAccount of the job's pods, whose workload identity opens the stores that name no "
            "Secret. The namespace's owner allows it by the annotation finetune.dev/training-pods=allowed. Its token "
            "for the API server is not mounted. Default: the namespace's default one.",
        ),
    ]
    s3: Annotated[
        S3Access,
        Field(
            default_factory=S3Access,
            description="How to reach the store, also for s3:// model and data that say nothing of their own.",
        ),
    ]


# The formats whose rows an objective learns from.
FORMATS_OF_OBJECTIVE: dict[Objective, tuple[DataFormat, ...]] = {
    Objective.SFT: (DataFormat.CHAT, DataFormat.INSTRUCTION, DataFormat.COMPLETION),
    Objective.DPO: (DataFormat.PREFERENCE,),
    Objective.ORPO: (DataFormat.PREFERENCE,),
    Objective.KTO: (DataFormat.UNPAIRED,),
    Objective.REWARD: (DataFormat.PREFERENCE,),
}


def _formats_rule(objective: Objective) -> tuple[str, str]:
    names = [name.value for name in FORMATS_OF_OBJECTIVE[objective]]
    fits = f"{format_of('source')} in [{', '.join(map(repr, names))}]"
    held_out = "!has(self.dataset.validation) || !has(self.dataset.validation.sources)"
    return (
        where_written(
            f"self.method.objective != '{objective.value}' || (self.dataset.train.all(source, {fits}) && "
            f"({held_out} || self.dataset.validation.sources.all(source, {fits})))",
            "method.objective",
        ),
        f"objective {objective.value} learns from rows of the format {' or '.join(names)}; set format of every source "
        "of spec.dataset, or spec.method.objective",
    )


def _or_one(field: str) -> str:
    """CEL for a number that is left out of the written spec: whatever it comes to is a multiple of one."""
    return f"({is_written(field)} ? self.{field} : 1)"


def _is_immutable(field: str) -> str:
    return f"spec.{field} is immutable, since it defines the run; create a FineTuneJob of another name"


def _unchanged(field: str) -> str:
    """Whether an optional field is what it was, also where it is left out."""
    return f"(has(self.{field}) ? self.{field} : '') == (has(oldSelf.{field}) ? oldSelf.{field} : '')"


def _immutable(field: str) -> dict[str, object]:
    return validations(("self == oldSelf", _is_immutable(field)))


# Groups that a profile, or the defaults, can give whole. The rule of such a group says nothing when it comes or goes.
_MAY_BE_LEFT_OUT = (
    "profileRef",
    "method",
    "hyperparameters",
    "resources",
    "deepspeed",
    "evaluation",
    "checkpoint",
    "output",
)


def _stays(field: str) -> tuple[str, str]:
    return f"has(self.{field}) == has(oldSelf.{field})", _is_immutable(field)


class ProfileReference(Document):
    """A FineTuneProfile, which has no namespace."""

    name: Annotated[ResourceName, Field(description="Name of the FineTuneProfile.")]


class FineTuneJobSpec(Document):
    """The run that is asked for. What defines the run is immutable; the run policy at the end may change."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                where_written(
                    "self.hyperparameters.precision != 'bf16' || self.deepspeed.zeroStage != 0",
                    "hyperparameters.precision",
                    "deepspeed.zeroStage",
                ),
                "bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed; set spec.deepspeed.zeroStage to 1 or higher "
                "or spec.hyperparameters.precision to fp32",
            ),
            (
                where_written(
                    f"self.hyperparameters.globalBatchSize % ({_or_one('deepspeed.microBatchSize')} * "
                    f"{_or_one('resources.nodes')} * "
                    f"({is_written('resources.gpusPerNode')} && self.resources.gpusPerNode > 0 ? "
                    f"self.resources.gpusPerNode : {_or_one('resources.processesPerNode')})) == 0",
                    "hyperparameters.globalBatchSize",
                ),
                "spec.hyperparameters.globalBatchSize must be a multiple of spec.deepspeed.microBatchSize times the "
                "number of processes (nodes times GPUs or processes per node)",
            ),
            *map(_formats_rule, FORMATS_OF_OBJECTIVE),
            (
                where_written(
                    "self.hyperparameters.optimizer != 'adafactor' || self.deepspeed.zeroStage == 0",
                    "hyperparameters.optimizer",
                    "deepspeed.zeroStage",
                ),
                "adafactor factors the second moment of whole weight matrices, which ZeRO cuts into flat pieces; set "
                "spec.deepspeed.zeroStage to 0 and spec.hyperparameters.precision to fp32, or "
                "spec.hyperparameters.optimizer to adamw8bit",
            ),
            (
                where_written(
                    "!self.hyperparameters.packing || self.method.objective == 'sft'",
                    "hyperparameters.packing",
                    "method.objective",
                ),
                "spec.hyperparameters.packing is for objective sft; set it to false",
            ),
            (
                where_written(
                    "self.method.tuning != 'qlora' || self.deepspeed.zeroStage != 3",
                    "method.tuning",
                    "deepspeed.zeroStage",
                ),
                "ZeRO stage 3 cannot partition 4-bit weights, which have no place for their quantization state; set "
                "spec.deepspeed.zeroStage to 2 or lower or spec.method.tuning to lora",
            ),
            (
                where_written(
                    "!self.hyperparameters.compile || self.deepspeed.zeroStage != 3",
                    "hyperparameters.compile",
                    "deepspeed.zeroStage",
                ),
                "ZeRO stage 3 gathers weights from within the blocks, where compiled code does not look; set "
                "spec.hyperparameters.compile to false or spec.deepspeed.zeroStage to 2 or lower",
            ),
            (
                where_written(
                    "!self.hyperparameters.compile || self.method.tuning != 'qlora'",
                    "hyperparameters.compile",
                    "method.tuning",
                ),
                "nothing proves that compiled blocks dequantize 4-bit weights right; set spec.hyperparameters.compile "
                "to false or spec.method.tuning to lora",
            ),
            (
                where_written(
                    "self.method.objective != 'kto' || self.hyperparameters.globalBatchSize > 1",
                    "method.objective",
                    "hyperparameters.globalBatchSize",
                ),
                "kto compares the rows of a batch with each other; set spec.hyperparameters.globalBatchSize to 2 or "
                "more",
            ),
            (
                where_written(
                    "self.method.objective != 'reward' || self.evaluation.samples == 0",
                    "method.objective",
                    "evaluation.samples",
                ),
                "a reward model answers with a score and not with text; remove spec.evaluation.samples",
            ),
            (
                where_written("self.method.tuning in ['lora', 'qlora']", "output.artifact", "method.tuning"),
                "spec.output.artifact chooses what becomes of an adapter, and spec.method.tuning trains none; remove "
                "spec.output.artifact or set spec.method.tuning to lora",
            ),
            (
                where_written("!self.output.destination.contains('{namespace}')", "output.destination"),
                "{namespace} stands for a namespace in profiles only; remove it from spec.output.destination, below "
                "which results have a folder for each namespace anyway",
            ),
            (
                _unchanged("managedBy"),
                "spec.managedBy is immutable, since two controllers would follow one job; create a FineTuneJob of "
                "another name",
            ),
            (
                f"{_unchanged('queueName')} || (has(self.suspend) && self.suspend) || "
                "(has(oldSelf.suspend) && oldSelf.suspend)",
                "spec.queueName changes only while the job is suspended, since the place in the queue is lost; set "
                "spec.suspend to true in the same change, and to false afterwards",
            ),
            *map(_stays, _MAY_BE_LEFT_OUT),
        )
        | effective_validations(
            (
                "!has(self.evaluation.everySteps) || has(self.dataset.validation)",
                "evaluation.everySteps needs a held-out split; set spec.dataset.validation",
            ),
            (
                f"!({is_written('evaluation.samples')}) || self.evaluation.samples == 0 || "
                "has(self.dataset.validation)",
                "evaluation.samples are prompts of a held-out split; set spec.dataset.validation",
            ),
            (
                "!has(self.hyperparameters.maxSteps) || !has(self.evaluation.everySteps) || "
                "self.evaluation.everySteps <= self.hyperparameters.maxSteps || "
                "(!has(self.evaluation.earlyStopping) && self.evaluation.publish != 'Best')",
                "early stopping and publish: Best look at evaluations during training, and there would be none; set "
                "spec.evaluation.everySteps to at most spec.hyperparameters.maxSteps",
            ),
        )
    }

    profile_ref: Annotated[
        ProfileReference | None,
        Field(
            default=None,
            description="The platform team's FineTuneProfile to run under. Default: the default profile of the "
            "namespace, if there is one.",
            json_schema_extra=_immutable("profileRef"),
        ),
    ]
    model: Annotated[ModelSpec, Field(description="The base model.", json_schema_extra=_immutable("model"))]
    dataset: Annotated[
        DatasetSpec, Field(description="Training and held-out data.", json_schema_extra=_immutable("dataset"))
    ]
    method: Annotated[
        MethodSpec,
        Field(
            default_factory=MethodSpec,
            description="What is learned, and in which weights.",
            json_schema_extra=_immutable("method"),
        ),
    ]
    hyperparameters: Annotated[
        HyperparametersSpec,
        Field(
            default_factory=HyperparametersSpec,
            description="How it is learned.",
            json_schema_extra=_immutable("hyperparameters"),
        ),
    ]
    resources: Annotated[
        ResourcesSpec,
        Field(
            default_factory=ResourcesSpec,
            description="What each training pod gets.",
            json_schema_extra=_immutable("resources"),
        ),
    ]
    deepspeed: Annotated[
        DeepSpeedSpec,
        Field(
            default_factory=DeepSpeedSpec,
            description="How DeepSpeed spreads model and optimizer over the processes.",
            json_schema_extra=_immutable("deepspeed"),
        ),
    ]
    evaluation: Annotated[
        EvaluationSpec,
        Field(
            default_factory=EvaluationSpec,
            description="When the held-out split is evaluated, and what follows from it.",
            json_schema_extra=_immutable("evaluation"),
        ),
    ]
    checkpoint: Annotated[
        CheckpointSpec,
        Field(
            default_factory=CheckpointSpec,
            description="When training is saved. It does not change the result.",
            json_schema_extra=_immutable("checkpoint"),
        ),
    ]
    output: Annotated[OutputSpec, Field(description="Where the result goes.", json_schema_extra=_immutable("output"))]
    suspend: Annotated[
        bool,
        Field(
            default=False,
            description="true saves a checkpoint, ends the pods and frees their resources; false goes on from that "
            "checkpoint.",
        ),
    ]
    backoff_limit: Annotated[
        int,
        Field(
            default=3,
            ge=0,
            le=1000,
            description="How often training is started again after a loss that is not the manifest's fault, such as a "
            "deleted pod. Errors in the manifest or the data are never retried.",
        ),
    ]
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=315_360_000,
            description="Longest time that training may take in all, in seconds: what all attempts ran together. "
            "Queueing and preparing do not count, and suspending does not start it anew. The job fails when it is "
            "over. Default: no limit.",
        ),
    ]
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=315_360_000,
            description="Seconds after which pods, Jobs, ConfigMaps and Services of a finished job are deleted. The "
            "FineTuneJob and its artifact stay. Default: they stay as long as the FineTuneJob.",
        ),
    ]
    priority_class_name: Annotated[
        ResourceName | None,
        Field(
            default=None,
            description="PriorityClass of the pods, by which Kueue orders its queues too. A change applies to pods "
            "that are created later.",
        ),
    ]
    queue_name: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=_LABEL_LENGTH,
            pattern=DNS_SUBDOMAIN_PATTERN,
            description="LocalQueue of Kueue, in the job's namespace, that the training pods wait in. They start when "
            "Kueue admits them, all at once, and go on from the newest checkpoint when it has taken them away. It may "
            "change while the job is suspended. Default: no queue.",
        ),
    ]
    managed_by: Annotated[
        str | None,
        Field(
            default=None,
            max_length=_LABEL_LENGTH,
            pattern=_MANAGER,
            description=f"Controller that follows the job. The operator leaves a job alone that names another one than "
            f"{OPERATOR}, which is the default.",
        ),
    ]
