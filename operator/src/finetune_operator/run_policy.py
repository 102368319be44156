"""Limits that a job's owner sets in time: how long it may train, and how long its children stay when it is over."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api import progression
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus


def training_seconds(status: FineTuneJobStatus, now: datetime) -> int:
    """Seconds in which all pods of an attempt ran, over all attempts. Queueing and preparing are no part of it."""
    attempt = progression.open_attempt(status)
    running = attempt.running if attempt else None
    # A clock that was set back undoes no training.
    current = max(0, int((now - running).total_seconds())) if running else 0
    return (status.usage.training_seconds if status.usage else 0) + current


def deadline_left(spec: FineTuneJobSpec, status: FineTuneJobStatus, now: datetime) -> timedelta | None:
    """How much longer the job may train; None without a deadline."""
    if spec.active_deadline_seconds is None:
        return None
    return timedelta(seconds=spec.active_deadline_seconds - training_seconds(status, now))


def children_left(spec: FineTuneJobSpec, status: FineTuneJobStatus, now: datetime) -> timedelta | None:
    """How much longer the children of a finished job stay; None when they stay as long as the job."""
    if spec.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    return status.completion_time + timedelta(seconds=spec.ttl_seconds_after_finished) - now
