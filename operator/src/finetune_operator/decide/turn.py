"""One look at one job, and what is decided at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api import progression
from finetune_api.conditions import Phase
from finetune_api.job import FineTuneJob
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.reports import ProgressReport
from finetune_api.status import FineTuneJobStatus
from finetune_operator.accounting import with_usage
from finetune_operator.observation import Observation
from finetune_operator.policy import Policy
from finetune_operator.quotas import demand_of, shortage
from finetune_operator.standing import status_in

Object = dict[str, Any]

# How soon to look again for what somebody else has to make or mend, and no watch tells of.
ASK_AGAIN = timedelta(seconds=3)


@dataclass(frozen=True)
class Decision:
    """What to do, in this order: create, delete, write the status; then look again after a while.

    Attributes:
        delete_jobs: names of Jobs whose pods are to end.
        delete_children: names of Jobs that are to go with everything that was made for them.
    """

    status: FineTuneJobStatus | None
    create: tuple[Object, ...] = ()
    delete_jobs: tuple[str, ...] = ()
    delete_children: tuple[str, ...] = ()
    requeue_after: timedelta | None = None


@dataclass(frozen=True)
class Turn:
    """One look at one job, with the status as it is being changed."""

    job: FineTuneJob
    seen: Observation
    policy: Policy
    status: FineTuneJobStatus
    profile: FineTuneProfileSpec | None = None

    @property
    def number(self) -> int:
        return progression.attempt_number(self.status)

    @property
    def now(self) -> datetime:
        return self.seen.now

    def told(self, status: FineTuneJobStatus) -> Turn:
        return replace(self, status=status)

    def ended(self, outcome: str, message: str, node: str | None = None) -> Turn:
        """The turn once its attempt is over."""
        used = with_usage(self.status, self.job.spec, self.report, outcome, self.now)
        return self.told(progression.ended_attempt(used, self.number, outcome, message, self.now, node))

    @property
    def report(self) -> ProgressReport | None:
        """The newest report, if it is of this very attempt."""
        report = self.seen.report
        current = report and report.uid == self.job.metadata.uid and report.attempt == self.number
        return report if current else None

    @property
    def strays(self) -> tuple[str, ...]:
        """Jobs that live on beyond their attempt: one that failed before its pods ran, or what an operator made that
        acted on an old sight. Only what is written already counts: were the Job gone before the status says why, nobody
        would know."""
        written = progression.attempt_number(self.seen.status)
        unfinished = (job for job in self.seen.jobs if job.finished is None and not job.deleting)
        return tuple(job.name for job in unfinished if job.attempt != written)

    def short_of_quota(self, resources: Object, pods: int) -> str | None:
        """Which quota of the namespace has no room for so many pods."""
        return shortage(self.seen.quotas, demand_of(resources, pods), self.job.spec.priority_class_name)

    def settle(self, phase: Phase, **rest: Any) -> Decision:
        """The decision that leaves the job in a phase."""
        return Decision(status=status_in(self.seen, self.status, phase), **({"delete_jobs": self.strays} | rest))
