"""The FineTuneJob's status."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from finetune_api.base import Document
from finetune_api.outcomes import Failure, Stage
from finetune_api.progress import Progress
from finetune_api.results import (
    Artifact,
    Checkpoint,
    DataSummary,
    EvaluationResult,
    PinnedWeights,
    RunId,
    SplitSummary,
)
from finetune_api.upstream import Upstream, Upstreams
from finetune_api.weights import ADAPTER, MODEL, REFERENCE


class ConditionType(StrEnum):
    """Types of the job's conditions."""

    VALIDATED = "Validated"
    PREPARED = "Prepared"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    ARTIFACT_VERIFIED = "ArtifactVerified"
    COMPLETE = "Complete"
    FAILED = "Failed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons of the job's conditions and Events."""

    PENDING = "Pending"
    SPEC_VALID = "SpecValid"
    SPEC_INVALID = "SpecInvalid"
    CHILD_REFUSED = "ChildRefused"
    OUT_OF_BOUNDS = "OutOfBounds"
    PROFILE_NOT_FOUND = "ProfileNotFound"
    PROFILE_INVALID = "ProfileInvalid"
    PROFILES_AMBIGUOUS = "ProfilesAmbiguous"
    PREPARING = "Preparing"
    PREPARED = "Prepared"
    PREPARE_FAILED = "PrepareFailed"
    SECRET_NOT_FOUND = "SecretNotFound"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    SERVICE_ACCOUNT_REFUSED = "ServiceAccountRefused"
    WAITING_FOR_JOB = "WaitingForJob"
    JOB_NOT_FOUND = "JobNotFound"
    JOB_FAILED = "JobFailed"
    QUEUED = "Queued"
    REQUEUED = "Requeued"
    STARTING = "Starting"
    PODS_PENDING = "PodsPending"
    TRAINING = "Training"
    RETRYING = "Retrying"
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    FINISHED = "Finished"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    NOT_SUSPENDED = "NotSuspended"
    PUBLISHED = "Published"
    ADOPTED = "Adopted"
    NOT_PUBLISHED = "NotPublished"
    RUN_FAILED = "RunFailed"
    NOT_FAILED = "NotFailed"
    SETTLED = "Settled"


class State(StrEnum):
    """One word for the printer column. It may grow: decide on conditions, not on this."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    STARTING = "Starting"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Document):
    """A standard Kubernetes condition."""

    type: Annotated[ConditionType, Field(description="Type of the condition.")]
    status: Annotated[ConditionStatus, Field(description="True, False or Unknown.")]
    reason: Annotated[Reason, Field(description="Reason of the last transition, one CamelCase word.")]
    message: Annotated[
        str, Field(default="", max_length=4096, description="The same in words, with a remedy if it failed.")
    ]
    last_transition_time: Annotated[datetime, Field(description="When status last changed.")]
    observed_generation: Annotated[int, Field(ge=0, description="metadata.generation that this was computed from.")]


class StageStatus(Document):
    """One stage of the way of a job."""

    name: Annotated[Stage, Field(description="prepare, train, evaluate or publish.")]
    started: Annotated[datetime | None, Field(default=None, description="When it began, in its newest attempt.")]
    finished: Annotated[datetime | None, Field(default=None, description="When it was done.")]
    message: Annotated[str | None, Field(default=None, max_length=1024, description="What it found.")]


class AttemptStatus(Document):
    """One start of the training pods."""

    number: Annotated[int, Field(ge=1, description="Number of the attempt, from 1.")]
    started: Annotated[datetime | None, Field(default=None, description="When its Job was created.")]
    running: Annotated[
        datetime | None, Field(default=None, description="When all its pods ran, since it was last admitted.")
    ]
    finished: Annotated[datetime | None, Field(default=None, description="When it ended.")]
    outcome: Annotated[
        str | None,
        Field(
            default=None,
            max_length=64,
            description="Succeeded, Suspended, Unread or a failure class; before the attempt has ended, the cause that "
            "is known so far.",
        ),
    ]
    message: Annotated[str | None, Field(default=None, max_length=1024, description="Why it ended.")]
    node: Annotated[str | None, Field(default=None, max_length=253, description="Node of the pod that ended it.")]
    resumed_from_step: Annotated[
        int | None,
        Field(default=None, ge=0, description="Optimizer steps that were done already when it began, by its report."),
    ]
    first_step: Annotated[
        datetime | None, Field(default=None, description="When its first optimizer step began, by its report.")
    ]
    damaged_checkpoints: Annotated[
        tuple[Annotated[str, Field(max_length=256)], ...] | None,
        Field(
            default=None,
            max_length=16,
            description="Checkpoints that it passed over, since they are not intact, newest first.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    evictions: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            description="How often its queue took its running pods away. It went on from the newest checkpoint each "
            "time that it was admitted again.",
        ),
    ]
    change: Annotated[
        str | None,
        Field(default=None, max_length=1024, description="What the next attempt does otherwise because of it."),
    ]


class Origin(StrEnum):
    """Who gave the value of a field."""

    MANIFEST = "Manifest"
    PROFILE = "Profile"
    DEFAULT = "Default"
    PLANNED = "Planned"


class EffectiveField(Document):
    """The value of one field of the spec that counts."""

    path: Annotated[str, Field(max_length=256, description="Field, such as spec.hyperparameters.learningRate.")]
    value: Annotated[str, Field(max_length=512, description="Its value as text; a list or a map as JSON.")]
    origin: Annotated[
        Origin,
        Field(description="Manifest, Profile, Default, or Planned: what the attempt does otherwise than all of them."),
    ]


class ProfileSnapshot(Document):
    """The profile as it was when the job began; later changes of it are for later jobs."""

    name: Annotated[str, Field(max_length=253, description="Name of the FineTuneProfile.")]
    generation: Annotated[int, Field(ge=0, description="Its metadata.generation.")]
    spec: Annotated[
        dict[str, Any],
        WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        Field(description="Its spec."),
    ]


class PlanStatus(Document):
    """What was decided before training began. It is looked up anew before every attempt."""

    attempt: Annotated[int, Field(ge=1, description="Attempt that this was decided for.")]
    world_size: Annotated[int, Field(ge=1, description="Training processes over all pods.")]
    micro_batch_size: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            description="Rows that one process computes at a time: spec.deepspeed.microBatchSize, or half of it after "
            "memory ran out.",
        ),
    ]
    gradient_accumulation_steps: Annotated[
        int, Field(ge=1, description="Micro-batches per process and optimizer step.")
    ]
    zero_stage: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=3,
            description="ZeRO stage: spec.deepspeed.zeroStage, or a higher one after memory ran out again.",
        ),
    ]
    avoided_nodes: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...],
        Field(
            default=(),
            max_length=8,
            description="Nodes that ended two attempts of this job; its pods are not placed there.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    total_steps: Annotated[int | None, Field(default=None, ge=1, description="Optimizer steps of the whole run.")]
    model_digest: Annotated[str | None, Field(default=None, max_length=80, description="Digest of the model's files.")]
    model_revision: Annotated[str | None, Field(default=None, max_length=128, description="Commit of an hf:// model.")]
    adapter: Annotated[PinnedWeights | None, Field(default=None, description="The adapter that training starts from.")]
    reference: Annotated[PinnedWeights | None, Field(default=None, description="The model that is compared with.")]
    data_uri: Annotated[
        str | None, Field(default=None, alias="dataURI", max_length=2048, description="Folder of the tokenized data.")
    ]
    train: Annotated[SplitSummary | None, Field(default=None, description="Counts of the training split.")]
    validation: Annotated[SplitSummary | None, Field(default=None, description="Counts of the held-out split.")]
    data: Annotated[DataSummary | None, Field(default=None, description="What was found in the data.")]
    profile: Annotated[
        ProfileSnapshot | None, Field(default=None, description="The profile that the job runs under, if any.")
    ]
    defaults: Annotated[
        dict[str, Any] | None,
        WithJsonSchema(
            {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                # One entry among the managed fields, and not one for each default.
                "x-kubernetes-map-type": "atomic",
            }
        ),
        Field(
            default=None,
            description="The built-in defaults that the job began with, in the shape of its spec: what neither its "
            "manifest nor its profile says. They count for it to its end, whatever those of a newer operator are.",
        ),
    ]
    fields: Annotated[
        tuple[EffectiveField, ...] | None,
        Field(
            default=None,
            max_length=512,
            description="Every field of the spec with the value that counts, and who gave it.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"]},
        ),
    ]
    notes: Annotated[
        tuple[Annotated[str, Field(max_length=256)], ...] | None,
        Field(
            default=None,
            max_length=8,
            description="What is allowed but worth knowing, such as options of an adapter that vLLM does not serve.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]


class UsageStatus(Document):
    """What the attempts that have ended used, from the moment when all their pods ran."""

    training_seconds: Annotated[int, Field(ge=0, description="Seconds of training, over all attempts.")]
    startup_seconds: Annotated[
        int | None,
        Field(default=None, ge=0, description="Those of them before the first optimizer step of an attempt."),
    ]
    lost_seconds: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            description="Those of them after the last checkpoint of an attempt that did not succeed, or after its "
            "first step where it had saved none.",
        ),
    ]
    goodput_percent: Annotated[
        int | None, Field(default=None, ge=0, le=100, description="Share of the seconds that are neither, in percent.")
    ]
    gpu_seconds: Annotated[int, Field(ge=0, description="Seconds of training times the number of GPUs.")]
    wasted_gpu_seconds: Annotated[
        int | None,
        Field(default=None, ge=0, description="Seconds of startup and those that were lost, times the number of GPUs."),
    ]


class FineTuneJobStatus(Document):
    """What the operator observed. ``progress`` has a field manager of its own."""

    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            default=(),
            max_length=16,
            description="Conditions of the job. Complete and Failed are final.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ]
    observed_generation: Annotated[
        int | None, Field(default=None, ge=0, description="metadata.generation that this status was computed from.")
    ]
    state: Annotated[State | None, Field(default=None, description="One word for people; the set of words may grow.")]
    run_id: Annotated[
        RunId | None, Field(default=None, alias="runID", description="Digest of what defines the result of the run.")
    ]
    upstream: Annotated[
        Upstream | None,
        Field(
            default=None,
            description="What the job:// of spec.model.source stands for. It is looked up once: later changes of the "
            "other job change nothing here.",
        ),
    ]
    adapter_upstream: Annotated[
        Upstream | None,
        Field(default=None, description="The same of spec.method.lora.initialAdapter.source."),
    ]
    reference_upstream: Annotated[
        Upstream | None, Field(default=None, description="The same of the source of dpo's or kto's referenceModel.")
    ]
    plan: Annotated[PlanStatus | None, Field(default=None, description="What was decided before training began.")]
    stages: Annotated[
        tuple[StageStatus, ...],
        Field(
            default=(),
            max_length=8,
            description="Stages of the run, in order.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    progress: Annotated[Progress | None, Field(default=None, description="Where training is, at most 5 s old.")]
    checkpoint: Annotated[
        Checkpoint | None, Field(default=None, description="The newest committed checkpoint: what a loss would cost.")
    ]
    attempts: Annotated[
        tuple[AttemptStatus, ...],
        Field(
            default=(),
            max_length=128,
            description="Starts of the training pods; of more than 100, the first 20 and the last 80.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
        ),
    ]
    losses: Annotated[
        int | None,
        Field(default=None, ge=0, description="Ended attempts that count against spec.backoffLimit."),
    ]
    usage: Annotated[UsageStatus | None, Field(default=None, description="What ended attempts used.")]
    artifact: Annotated[Artifact | None, Field(default=None, description="The published artifact.")]
    evaluation: Annotated[EvaluationResult | None, Field(default=None, description="Held-out loss before and after.")]
    failure: Annotated[Failure | None, Field(default=None, description="Why the job failed.")]
    start_time: Annotated[datetime | None, Field(default=None, description="When the operator first saw the job.")]
    completion_time: Annotated[
        datetime | None, Field(default=None, description="When the job became Complete or Failed.")
    ]

    @property
    def upstreams(self) -> dict[str, Upstream]:
        """By use, what each job:// of the spec stands for, as far as it is known."""
        found = {use: getattr(self, name) for use, name in _UPSTREAM_FIELDS.items()}
        return {use: upstream for use, upstream in found.items() if upstream}

    def with_upstreams(self, found: Upstreams) -> FineTuneJobStatus:
        """The status that knows these too."""
        return self.model_copy(update={_UPSTREAM_FIELDS[use]: upstream for use, upstream in found.items()})


_UPSTREAM_FIELDS = {MODEL: "upstream", ADAPTER: "adapter_upstream", REFERENCE: "reference_upstream"}
