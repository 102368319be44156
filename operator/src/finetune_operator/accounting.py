"""What attempts used, and how much of that led to the result. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_api import progression
from finetune_api.reports import ProgressReport
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_operator.attempts import SUCCEEDED, UNREAD


@dataclass(frozen=True)
class Spent:
    """Seconds of one attempt from the moment when all its pods ran.

    Attributes:
        total: all of them.
        startup: those before its first optimizer step.
        lost: those after the last state that a later attempt can go on from.
    """

    total: int = 0
    startup: int = 0
    lost: int = 0


def spent(attempt: AttemptStatus, outcome: str, saved: datetime | None, now: datetime) -> Spent:
    """What an attempt used that ends now.

    Of an attempt whose first step is not known, everything until its last checkpoint is taken for training if it
    succeeded or saved any, and for startup if not. What an attempt had trained is lost unless it succeeded: from its
    last checkpoint on, or from its first step where it has saved none.

    Args:
        attempt: as the status has it.
        outcome: how it ends.
        saved: when the newest checkpoint of the job was committed, by whichever attempt.
        now: when it ends.
    """
    begin = attempt.running
    if begin is None or now <= begin:
        return Spent()
    kept = outcome in (SUCCEEDED, UNREAD)
    own = min(saved, now) if saved and saved > begin else None
    first = attempt.first_step or (begin if kept or own else now)
    first = min(max(first, begin), now)
    end = now if kept else max(own or first, first)
    total, startup, useful = (int(span.total_seconds()) for span in (now - begin, first - begin, end - begin))
    return Spent(total, startup, total - useful)


def with_usage(
    status: FineTuneJobStatus, spec: FineTuneJobSpec, report: ProgressReport | None, outcome: str, now: datetime
) -> FineTuneJobStatus:
    """The status when the pods of the open attempt are gone; ``report`` is the newest of that attempt."""
    attempt = progression.open_attempt(status)
    if attempt is None:
        return status
    checkpoint = (report and report.checkpoint) or status.checkpoint
    more = spent(attempt, outcome, checkpoint.time if checkpoint else None, now)
    return status.model_copy(update={"usage": added(status.usage, more, spec)})


def added(usage: UsageStatus | None, more: Spent, spec: FineTuneJobSpec) -> UsageStatus | None:
    """The usage of a job with that of one more attempt; None where nothing was used."""
    before = _known(usage)
    total, startup, lost = before.total + more.total, before.startup + more.startup, before.lost + more.lost
    if total == 0:
        return usage
    gpus = spec.resources.nodes * spec.resources.gpus_per_node
    return UsageStatus(
        training_seconds=total,
        startup_seconds=startup,
        lost_seconds=lost,
        goodput_percent=100 * (total - startup - lost) // total,
        gpu_seconds=total * gpus,
        wasted_gpu_seconds=(startup + lost) * gpus,
    )


def _known(usage: UsageStatus | None) -> Spent:
    """Usage that was written so far; an operator of an earlier version told no more than the seconds."""
    if usage is None:
        return Spent()
    return Spent(usage.training_seconds, usage.startup_seconds or 0, usage.lost_seconds or 0)
