"""What an exception in a worker means, and what the ends of a pod's workers mean together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.outcomes import FailureClass, StageOutcome
from finetune_trainer.errors import OutOfMemory, RendezvousFailed, TrainerError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
_LOST_PEER = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "NCCL error",
    "Broken pipe",
    "recvValue failed",
)
# A failure that follows from another process's end says nothing of its cause.
_CONSEQUENCES = (FailureClass.PREEMPTED, FailureClass.RENDEZVOUS)


def as_trainer_error(error: Exception, rank: int) -> Exception:
    """The failure in words, where PyTorch's own exception is one that a user can act on; else the same exception."""
    if isinstance(error, TrainerError):
        return error
    # A worker has it already; the launcher, which needs the rest of this module, does without.
    import torch

    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _is_runtime(error, text, _OUT_OF_MEMORY):
        return OutOfMemory(
            f"rank {rank} ran out of memory: {_first_line(text)}",
            "lower spec.deepspeed.microBatchSize, set spec.hyperparameters.gradientCheckpointing, raise "
            "spec.deepspeed.zeroStage or give the pods more memory",
        )
    if isinstance(error, torch.distributed.DistError) or _is_runtime(error, text, _LOST_PEER):
        return RendezvousFailed(
            f"rank {rank} lost contact with another process: {_first_line(text)}",
            "see the logs of the other training pods; one of them ended or could not be reached",
        )
    return error


def _is_runtime(error: BaseException, text: str, marks: Sequence[str]) -> bool:
    return isinstance(error, (RuntimeError, OSError)) and any(mark in text for mark in marks)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:500]


@dataclass(frozen=True)
class Killed:
    """A worker ended by a signal before it could say anything."""

    rank: int
    signal: int


def node_failure(outcomes: Sequence[StageOutcome], signals: Mapping[int, int]) -> StageOutcome | Killed | None:
    """Why the workers of one pod failed.

    Args:
        outcomes: what the workers left, oldest first.
        signals: by rank, the signal that ended a worker which left nothing.

    Returns:
        The first failure that is no consequence of another process's end, else a worker that was killed, else the
        first failure at all; None when no worker failed.
    """
    failed = [(outcome, outcome.failure.failure_class) for outcome in outcomes if outcome.failure]
    for outcome, failure_class in failed:
        if failure_class not in _CONSEQUENCES:
            return outcome
    if signals:
        return Killed(*min(signals.items()))
    # Survivors are stopped by the launcher, and so may look preempted: contact lost says more.
    for outcome, failure_class in failed:
        if failure_class is FailureClass.RENDEZVOUS:
            return outcome
    return failed[0][0] if failed else None
