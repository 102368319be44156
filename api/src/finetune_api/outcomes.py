"""How a stage ends: failure classes, exit codes and the outcome a pod leaves in its termination message."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document
from finetune_api.progress import Progress
from finetune_api.results import Artifact, Checkpoint, EvaluationResult, Prepared

# Kubernetes keeps at most this many bytes of /dev/termination-log.
MAX_TERMINATION_MESSAGE_BYTES = 4096


class Stage(StrEnum):
    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


class FailureClass(StrEnum):
    """Why a job or an attempt failed. Each has one exit code, except those that the pod cannot report itself."""

    USER_ERROR = "UserError"
    DATA_ERROR = "DataError"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    STORAGE = "Storage"
    RENDEZVOUS = "Rendezvous"
    HUNG = "Hung"
    PREEMPTED = "Preempted"
    DEVICE_MISSING = "DeviceMissing"
    VERIFICATION = "Verification"
    INTERNAL = "Internal"
    POD_LOST = "PodLost"
    DISRUPTED = "Disrupted"
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    IMAGE_PULL = "ImagePull"
    SECRET_MISSING = "SecretMissing"
    UNSCHEDULABLE = "Unschedulable"


class ExitCode(IntEnum):
    """Exit codes of the trainer's processes. 1 and 2 are left to the interpreter, above 125 to shells and signals."""

    SUCCESS = 0
    USER_ERROR = 10
    DATA_ERROR = 11
    OUT_OF_MEMORY = 12
    DIVERGED = 13
    STORAGE = 14
    RENDEZVOUS = 15
    HUNG = 16
    PREEMPTED = 17
    DEVICE_MISSING = 18
    VERIFICATION = 19
    INTERNAL = 20


EXIT_CODE_OF_CLASS = {
    failure: ExitCode[failure.name] for failure in FailureClass if failure.name in ExitCode.__members__
}
CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {code.value: failure for failure, code in EXIT_CODE_OF_CLASS.items()}


class Failure(Document):
    """A failure in words that a user can act on."""

    failure_class: Annotated[
        FailureClass, Field(alias="class", description="Kind of failure, such as UserError, DataError or PodLost.")
    ]
    message: Annotated[str, Field(max_length=2048, description="What happened.")]
    remedy: Annotated[str, Field(max_length=1024, description="What to do about it.")]

    def shorter(self) -> Failure:
        """The same with the longer of its texts halved. JSON may take several bytes for one character, so that halving
        until it fits is simpler than counting."""
        field = max(("message", "remedy"), key=lambda name: len(getattr(self, name).encode()))
        text: str = getattr(self, field)
        return self.model_copy(update={field: text[: len(text) // 2] + "…"})

    @property
    def words(self) -> str:
        """Both as sentences, for a condition."""
        remedy = self.remedy[:1].upper() + self.remedy[1:]
        return f"{self.message.rstrip('.')}. {remedy.rstrip('.')}."


def deadline_exceeded(seconds: int | None) -> Failure:
    """The failure of a job that trained longer than spec.activeDeadlineSeconds."""
    return Failure(
        failure_class=FailureClass.DEADLINE_EXCEEDED,
        message=f"training took longer than the {seconds} s of spec.activeDeadlineSeconds",
        remedy="Create a FineTuneJob of another name with fewer steps or more time.",
    )


class StageOutcome(Document):
    """What a pod says of its stage when it ends. Exactly one of ``failure`` and the stage's result is set."""

    stage: Stage
    failure: Failure | None = None
    prepared: Prepared | None = None
    artifact: Artifact | None = None
    evaluation: EvaluationResult | None = None
    checkpoint: Annotated[
        Checkpoint | None, Field(default=None, description="The newest of the attempt, where it did not succeed.")
    ]
    resumed_from_step: Annotated[
        int | None, Field(default=None, ge=0, description="Optimizer steps that the attempt found done when it began.")
    ]
    progress: Annotated[Progress | None, Field(default=None, description="The last of the attempt.")]

    def to_termination_message(self) -> str:
        """JSON of at most 4,096 bytes; progress gives way first, then a long failure message is cut.

        Results are bounded by their schema.
        """
        text = self.to_json()
        if len(text.encode()) <= MAX_TERMINATION_MESSAGE_BYTES:
            return text
        if self.progress:
            return self.model_copy(update={"progress": None}).to_termination_message()
        if self.failure is None:
            return text
        return self.model_copy(update={"failure": self.failure.shorter()}).to_termination_message()
