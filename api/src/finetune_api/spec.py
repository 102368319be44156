"""The FineTuneJob's spec. These models are the source of the CRD: docstrings and descriptions become its help."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import (
    DecimalString,
    Document,
    FractionString,
    Quantity,
    ResourceName,
    validations,
)

MAX_NAME_LENGTH = 48

_MODEL_SOURCE = r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?)$"
_DATA_SOURCE = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.+)$"
_DESTINATION = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/].*)?$"


class AddressingStyle(StrEnum):
    AUTO = "Auto"
    PATH = "Path"
    VIRTUAL = "Virtual"


class Objective(StrEnum):
    SFT = "sft"


class Tuning(StrEnum):
    LORA = "lora"
    FULL = "full"


class DataFormat(StrEnum):
    CHAT = "chat"


class TooLong(StrEnum):
    TRUNCATE = "Truncate"
    REFUSE = "Refuse"


class Schedule(StrEnum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Precision(StrEnum):
    BF16 = "bf16"
    FP32 = "fp32"


class SecretReference(Document):
    """A Secret in the job's namespace."""

    name: Annotated[ResourceName, Field(description="Name of the Secret, in the namespace of the job.")]


class SecretKeyReference(Document):
    """One key of a Secret in the job's namespace."""

    name: Annotated[ResourceName, Field(description="Name of the Secret, in the namespace of the job.")]
    key: Annotated[
        str,
        Field(default="token", min_length=1, max_length=253, description="Key inside the Secret that holds the value."),
    ]


class S3Access(Document):
    """How to reach an S3-compatible store. Everything left out comes from the Secret or the AWS default chain."""

    endpoint_url: Annotated[
        str | None,
        Field(
            default=None,
            alias="endpointURL",
            pattern=r"^https?://[^\s/]+(/.*)?$",
            max_length=1024,
            description="URL of the S3 endpoint. Default: AWS_ENDPOINT_URL of the Secret, else AWS itself.",
        ),
    ]
    region: Annotated[
        str | None,
        Field(default=None, min_length=1, max_length=64, description="Region of the bucket. Default: us-east-1."),
    ]
    addressing_style: Annotated[
        AddressingStyle,
        Field(
            default=AddressingStyle.AUTO,
            description="Path puts the bucket in the URL's path, Virtual in its host name. Auto: Path for an own "
            "endpoint, Virtual for AWS.",
        ),
    ]
    credentials_secret_ref: Annotated[
        SecretReference | None,
        Field(
            default=None,
            description="Secret whose keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally "
            "AWS_SESSION_TOKEN, AWS_ENDPOINT_URL and AWS_REGION. Default: the AWS default credential chain of the pod.",
        ),
    ]


class HubAccess(Document):
    """How to reach the Hugging Face hub for an hf:// model."""

    token_secret_ref: Annotated[
        SecretKeyReference | None,
        Field(default=None, description="Secret key that holds the hub token of a gated or private model."),
    ]
    endpoint_url: Annotated[
        str | None,
        Field(
            default=None,
            alias="endpointURL",
            pattern=r"^https?://[^\s/]+(/.*)?$",
            max_length=1024,
            description="URL of a hub mirror. Default: the public hub.",
        ),
    ]
    cache_claim: Annotated[
        ResourceName | None,
        Field(
            default=None,
            description="PersistentVolumeClaim that holds a Hugging Face cache (its root is HF_HOME), read-only.",
        ),
    ]
    offline: Annotated[
        bool,
        Field(default=False, description="Use the cache claim only and never the network. Needs cacheClaim."),
    ]


class ModelSpec(Document):
    """The base model."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.source.startsWith('hf://') || !has(self.revision)",
                "revision applies to an hf:// source only; remove spec.model.revision or use hf://org/name",
            ),
            (
                "self.source.startsWith('hf://') || !has(self.huggingFace)",
                "huggingFace applies to an hf:// source only; remove spec.model.huggingFace or use hf://org/name",
            ),
            (
                "self.source.startsWith('s3://') || !has(self.s3)",
                "s3 applies to an s3:// source only; remove spec.model.s3 or use s3://bucket/prefix",
            ),
            (
                "!has(self.huggingFace) || !self.huggingFace.offline || has(self.huggingFace.cacheClaim)",
                "offline needs a cache; set spec.model.huggingFace.cacheClaim",
            ),
        )
    }

    source: Annotated[
        str,
        Field(
            pattern=_MODEL_SOURCE,
            max_length=1024,
            description="Where the model's folder is, in the Hugging Face layout with safetensors: hf://org/name, "
            "s3://bucket/prefix or pvc://claim/path.",
        ),
    ]
    revision: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=128,
            description="Branch, tag or commit of an hf:// model, resolved to a commit before training. Default: main.",
        ),
    ]
    name: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=256,
            description="Public id of the base model, written into the adapter and the model card so that servers "
            "find it, such as HuggingFaceTB/SmolLM2-135M-Instruct. Default: the hf:// repository, else the source.",
        ),
    ]
    s3: Annotated[
        S3Access | None,
        Field(default=None, description="How to reach an s3:// source. Default: as spec.output.s3."),
    ]
    hugging_face: Annotated[
        HubAccess | None, Field(default=None, description="How to reach the hub for an hf:// source.")
    ]


class DataSource(Document):
    """One JSONL file, or a prefix whose *.jsonl files are read in name order."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.source.startsWith('s3://') || !has(self.s3)",
                "s3 applies to an s3:// source only; remove s3 or use s3://bucket/path",
            )
        )
    }

    source: Annotated[
        str,
        Field(
            pattern=_DATA_SOURCE,
            max_length=1024,
            description="A JSONL file or a folder of them: s3://bucket/path or pvc://claim/path.",
        ),
    ]
    format: Annotated[
        DataFormat,
        Field(
            default=DataFormat.CHAT,
            description='chat: each row is {"messages": [{"role": "user", "content": "..."}, ...]} with at least one '
            "assistant turn; loss is taken on the assistant's turns only.",
        ),
    ]
    s3: Annotated[
        S3Access | None,
        Field(default=None, description="How to reach an s3:// source. Default: as spec.output.s3."),
    ]


class ValidationSpec(Document):
    """The held-out split: a fraction of the training rows, or sources of its own."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "has(self.fraction) != has(self.sources)",
                "set exactly one of spec.dataset.validation.fraction and spec.dataset.validation.sources",
            )
        )
    }

    fraction: Annotated[
        FractionString | None,
        Field(
            default=None,
            description="Share of the training rows to hold out, a decimal between 0 and 1 in quotes, such as '0.1'. "
            "Rows are chosen by a hash of their content: the same row is held out again in every run.",
        ),
    ]
    sources: Annotated[
        tuple[DataSource, ...] | None,
        Field(
            default=None,
            min_length=1,
            max_length=16,
            description="Held-out files of their own.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]


class DatasetSpec(Document):
    """Training and held-out data."""

    train: Annotated[
        tuple[DataSource, ...],
        Field(
            min_length=1,
            max_length=16,
            description="Training files, concatenated in this order.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    validation: Annotated[
        ValidationSpec | None,
        Field(default=None, description="The held-out split, evaluated before, during and after training."),
    ]
    too_long: Annotated[
        TooLong,
        Field(
            default=TooLong.TRUNCATE,
            description="What to do with a row longer than hyperparameters.maxSequenceLength tokens: Truncate keeps "
            "its first tokens and counts it in status, Refuse fails the job before training.",
        ),
    ]


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


class ResourcesSpec(Document):
    """What each training pod gets. One pod runs per node, all or none."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.gpusPerNode == 0 || !has(self.processesPerNode)",
                "with GPUs there is one process per GPU; remove spec.resources.processesPerNode",
            )
        )
    }

    nodes: Annotated[int, Field(default=1, ge=1, le=1024, description="Training pods, each on a node's worth of GPUs.")]
    gpus_per_node: Annotated[
        int,
        Field(default=0, ge=0, le=16, description="GPUs of each pod, one process per GPU. 0 trains on the CPU (gloo)."),
    ]
    processes_per_node: Annotated[
        int | None,
        Field(default=None, ge=1, le=64, description="Processes of each pod in CPU training. Default: 1."),
    ]
    cpu: Annotated[
        Quantity,
        Field(
            default="1",
            description="CPU of each training pod, in cores. Each process computes with as many threads as its whole "
            "share of it, at least one.",
        ),
    ]
    memory: Annotated[Quantity, Field(default="4Gi", description="Memory of each training pod, in bytes.")]
    gpu_resource_name: Annotated[
        str,
        Field(
            default="nvidia.com/gpu",
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            max_length=128,
            description="Extended resource that counts GPUs on the nodes.",
        ),
    ]
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]] | None,
        Field(default=None, max_length=32, description="Labels that a node must have to run a training pod."),
    ]

    @property
    def processes(self) -> int:
        """Processes of one pod: one per GPU, or as many as asked for in CPU training."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes


class DeepSpeedSpec(Document):
    """How DeepSpeed spreads model and optimizer over the processes."""

    zero_stage: Annotated[
        int,
        Field(
            default=2,
            ge=0,
            le=3,
            description="ZeRO stage: 0 replicates everything, 1 partitions the optimizer state, 2 also the gradients, "
            "3 also the weights.",
        ),
    ]
    micro_batch_size: Annotated[
        int,
        Field(default=1, ge=1, le=4096, description="Rows that one process computes at a time."),
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


class OutputSpec(Document):
    """Where the result goes."""

    destination: Annotated[
        str,
        Field(
            pattern=_DESTINATION,
            max_length=1024,
            description="s3://bucket/prefix. The artifact is published under <prefix>/<namespace>/<name>/<run ID>/.",
        ),
    ]
    s3: Annotated[
        S3Access,
        Field(
            default_factory=S3Access,
            description="How to reach the store, also for s3:// model and data that say nothing of their own.",
        ),
    ]


def _immutable(field: str) -> dict[str, object]:
    return validations(
        (
            "self == oldSelf",
            f"spec.{field} is immutable, since it defines the run; create a FineTuneJob of another name",
        )
    )


class FineTuneJobSpec(Document):
    """The run that is asked for. Only suspend and backoffLimit may change after creation."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                "self.hyperparameters.precision != 'bf16' || self.deepspeed.zeroStage != 0",
                "bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed; set spec.deepspeed.zeroStage to 1 or higher "
                "or spec.hyperparameters.precision to fp32",
            ),
            (
                "self.hyperparameters.globalBatchSize % (self.deepspeed.microBatchSize * self.resources.nodes * "
                "(self.resources.gpusPerNode > 0 ? self.resources.gpusPerNode : "
                "(has(self.resources.processesPerNode) ? self.resources.processesPerNode : 1))) == 0",
                "spec.hyperparameters.globalBatchSize must be a multiple of spec.deepspeed.microBatchSize times the "
                "number of processes (nodes times GPUs or processes per node)",
            ),
            (
                "!has(self.evaluation.everySteps) || has(self.dataset.validation)",
                "evaluation.everySteps needs a held-out split; set spec.dataset.validation",
            ),
        )
    }

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
            description="When the held-out split is evaluated.",
            json_schema_extra=_immutable("evaluation"),
        ),
    ]
    output: Annotated[OutputSpec, Field(description="Where the result goes.", json_schema_extra=_immutable("output"))]
    suspend: Annotated[
        bool,
        Field(
            default=False,
            description="true ends the pods and frees their resources; false starts again from the first step.",
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
