"""What is known of all jobs at once, for the metrics; from the jobs themselves, as events and lists show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

from finetune_api.applicable import remembered_resources
from finetune_operator.queueing import left_to_others

Object = dict[str, Any]
_FINAL = frozenset({"Complete", "Failed"})
# Field of status.usage by reason.
_WASTE = {"startup": "startupSeconds", "failure": "lostSeconds"}


def is_finished(job: Object) -> bool:
    """Whether a job, as the API server sends it, shows itself as finished."""
    return (job.get("status") or {}).get("state") in _FINAL


@dataclass(frozen=True)
class JobFacts:
    """What metrics tell of one job.

    Attributes:
        state: the display state, Pending while there is no status.
        gpus: GPUs that it asks for.
        running: all its training pods run.
        outcome: Complete or the failure's class when it is finished, else None.
        attempts: number and outcome of each attempt that has ended.
        gpu_seconds: used by its attempts that have ended.
        wasted: those of them that led to nothing, by reason.
    """

    namespace: str
    state: str
    gpus: int
    running: bool
    outcome: str | None
    attempts: frozenset[tuple[int, str]]
    gpu_seconds: int
    wasted: tuple[tuple[str, int], ...] = ()


def facts_of(job: Object) -> JobFacts:
    """The facts of one job, of the dictionary that the API server sends."""
    status = job.get("status") or {}
    resources = remembered_resources(job)
    state = str(status.get("state") or "Pending")
    conditions = {item["type"]: item["status"] for item in status.get("conditions") or ()}
    failure = (status.get("failure") or {}).get("class", "Internal")
    usage = status.get("usage") or {}
    gpus = int(resources.get("nodes", 1)) * int(resources.get("gpusPerNode", 0))
    ended = ((item["number"], item.get("outcome")) for item in status.get("attempts") or ())
    return JobFacts(
        namespace=job["metadata"]["namespace"],
        state=state,
        gpus=gpus,
        running=conditions.get("Running") == "True",
        outcome=(state if state == "Complete" else failure) if state in _FINAL else None,
        attempts=frozenset((number, outcome) for number, outcome in ended if outcome),
        gpu_seconds=int(usage.get("gpuSeconds", 0)),
        wasted=tuple((reason, gpus * int(usage.get(field, 0))) for reason, field in _WASTE.items()),
    )


@dataclass(frozen=True)
class Change:
    """What a newer look at a job adds to what counters count."""

    namespace: str
    outcome: str | None
    attempts: tuple[str, ...]
    gpu_seconds: int
    wasted: tuple[tuple[str, int], ...] = ()


def change_between(before: JobFacts, after: JobFacts) -> Change:
    """What happened between two looks at one job."""
    return Change(
        namespace=after.namespace,
        outcome=after.outcome if before.outcome is None else None,
        attempts=tuple(outcome for _, outcome in sorted(after.attempts - before.attempts)),
        gpu_seconds=max(0, after.gpu_seconds - before.gpu_seconds),
        wasted=_more(dict(before.wasted), after.wasted),
    )


def _more(before: dict[str, int], after: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """What came to each reason, where something did."""
    more = ((reason, seconds - before.get(reason, 0)) for reason, seconds in after)
    return tuple((reason, seconds) for reason, seconds in more if seconds > 0)


class Inventory:
    """The facts of every job by UID, and the changes between looks.

    A job that is seen for the first time changes nothing: what happened before the operator started was counted then.
    """

    def __init__(self, changed: Callable[[Change], None]) -> None:
        self._changed = changed
        self._jobs: dict[str, JobFacts] = {}

    def see(self, job: Object) -> None:
        """Takes in one job, unless another controller follows it."""
        if left_to_others(job):
            return
        uid, after = job["metadata"]["uid"], facts_of(job)
        if before := self._jobs.get(uid):
            self._changed(change_between(before, after))
        self._jobs[uid] = after

    def is_unfinished(self, uid: str) -> bool:
        """Whether a job is known, and not finished."""
        known = self._jobs.get(uid)
        return known is not None and known.outcome is None

    def forget(self, uid: str) -> None:
        """A job is gone."""
        self._jobs.pop(uid, None)

    def keep(self, uids: Set[str]) -> None:
        """Takes in that there are these jobs and no others."""
        for uid in self._jobs.keys() - uids:
            self.forget(uid)

    def states(self) -> Counter[tuple[str, str]]:
        """How many jobs of each namespace are in each state."""
        return Counter((facts.namespace, facts.state) for facts in self._jobs.values())

    def gpus(self) -> dict[str, tuple[int, int]]:
        """GPUs by namespace: of unfinished jobs, and of those whose training pods run."""
        totals: dict[str, tuple[int, int]] = {}
        for facts in self._jobs.values():
            asked, used = totals.get(facts.namespace, (0, 0))
            unfinished = facts.gpus if facts.outcome is None else 0
            totals[facts.namespace] = (asked + unfinished, used + (facts.gpus if facts.running else 0))
        return totals
