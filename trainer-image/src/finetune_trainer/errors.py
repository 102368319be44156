"""Errors of the trainer, all under :class:`TrainerError`; each knows how the operator classifies it.

TrainerError ─ UserError, DataError, StorageError, DeviceMissing, RendezvousFailed, Hung, Diverged, Preempted,
               OutOfMemory, VerificationFailed
DataError ─ BadRow, StorageError ─ NotSafetensors
"""

from __future__ import annotations

from typing import ClassVar

from finetune_api.outcomes import FailureClass


class TrainerError(Exception):
    """A failure in words: what happened, and what to do about it."""

    failure_class: ClassVar[FailureClass] = FailureClass.INTERNAL

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UserError(TrainerError):
    """The manifest asks for something that cannot be; the message names the field. Never retried."""

    failure_class = FailureClass.USER_ERROR


class DataError(TrainerError):
    """The dataset is not usable; the message names file and line. Never retried."""

    failure_class = FailureClass.DATA_ERROR


class BadRow(DataError):
    """One row of the dataset is not usable. Rows are many: their reasons are collected, with file and line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "correct or remove the row")


class StorageError(TrainerError):
    """A store did not answer or answered that it cannot. Retried."""

    failure_class = FailureClass.STORAGE


class NotSafetensors(StorageError):
    """Bytes that should be a safetensors file are none; who reads them says which file in words of its own."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"damaged safetensors file: {reason}", "write the file again")
        self.reason = reason


class DeviceMissing(TrainerError):
    """The pod asked for GPUs and sees none."""

    failure_class = FailureClass.DEVICE_MISSING


class RendezvousFailed(TrainerError):
    """The processes did not find each other, or fewer of them than the plan says."""

    failure_class = FailureClass.RENDEZVOUS


class Hung(TrainerError):
    """A training process made no progress within its limit."""

    failure_class = FailureClass.HUNG


class Diverged(TrainerError):
    """The loss became NaN or infinite."""

    failure_class = FailureClass.DIVERGED


class Preempted(TrainerError):
    """The pod was asked to stop before its work was done."""

    failure_class = FailureClass.PREEMPTED


class OutOfMemory(TrainerError):
    """Device or host memory did not suffice."""

    failure_class = FailureClass.OUT_OF_MEMORY


class VerificationFailed(TrainerError):
    """The artifact, read back from storage, is not what was trained."""

    failure_class = FailureClass.VERIFICATION
