"""Looks at one job: what is seen of it, what is decided, and what must hold of every decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from finetune_api.outcomes import FailureClass, Stage
from finetune_api.reports import ProgressReport
from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide import Decision, decide
from finetune_operator.hearing import Silence
from finetune_operator.observation import Observation, observe
from finetune_operator.workloads import Workload
from support.builders import NAME, POLICY, Object, at, batch_job, failed, pod, prepare_outcome, stored

PREPARE_JOB, TRAIN_JOB = f"{NAME}-prepare-1", f"{NAME}-train-1"
PREPARE_DONE = batch_job(Stage.PREPARE, ended="Complete", finished=20)
PREPARE_POD = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome())


def look(
    status: FineTuneJobStatus | None = None,
    jobs: tuple[Object, ...] = (),
    pods: tuple[Object, ...] = (),
    *,
    now: float = 100,
    heard: ProgressReport | None = None,
    generation: int = 1,
    workload: Workload | None = None,
    quotas: tuple[Object, ...] = (),
    silence: Silence | None = None,
    **changes: Any,
) -> Decision:
    """What is decided at some second about a job of which this is seen, once a new one remembers how it began."""
    wire = status.to_wire() if status else None
    seen = observe(stored(generation, wire, **changes), jobs, pods, heard, at(now), workload=workload, quotas=quotas)
    seen = replace(seen, silence=silence)
    decision = decide(seen, POLICY)
    return look(decision.status, now=now, generation=generation, **changes) if begins(seen, decision) else decision


def begins(seen: Observation, decision: Decision) -> bool:
    """Whether the decision is only to write down by which profile and defaults a job runs."""
    known = seen.manifest.get("status") or {}
    return "plan" not in known and not seen.jobs and bool(decision.status and decision.status.plan)


def told(decision: Decision) -> FineTuneJobStatus:
    assert decision.status
    return decision.status


def started(**changes: Any) -> FineTuneJobStatus:
    """Status of a job whose first attempt has just been created."""
    return told(look(None, (PREPARE_DONE,), (PREPARE_POD,), now=30, **changes))


def lost(attempts: int, **changes: Any) -> FineTuneJobStatus:
    """Status of a job that lost so many attempts, one a minute."""
    status = started(**changes)
    for number in range(1, attempts + 1):
        status = told(look(status, now=60 * number, **changes))
        if number < attempts:
            done = batch_job(Stage.PREPARE, number + 1, ended="Complete")
            ended = pod(Stage.PREPARE, number + 1, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
            status = told(look(status, (done,), (ended,), now=60 * number + 59, **changes))
    return status


def created(decision: Decision) -> list[str]:
    return [f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in decision.create]


@dataclass(frozen=True)
class Case:
    """What is seen, and what must come of it."""

    state: str
    says: str = ""
    status: FineTuneJobStatus | None = None
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    now: float = 100
    heard: ProgressReport | None = None
    workload: Workload | None = None
    quotas: tuple[Object, ...] = ()
    silence: Silence | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    creates: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    again: float | None = None
    outcomes: tuple[str | None, ...] = ()


DATA_ERROR = failed(Stage.PREPARE, FailureClass.DATA_ERROR, "train.jsonl:17: broken JSON")
TWO = {"resources": {"nodes": 2}}
TRAIN_OBJECTS = (f"ConfigMap {TRAIN_JOB}", f"Service {TRAIN_JOB}", f"Job {TRAIN_JOB}")


def decided(case: Case, generation: int = 1) -> Decision:
    return look(
        case.status,
        case.jobs,
        case.pods,
        now=case.now,
        heard=case.heard,
        generation=generation,
        workload=case.workload,
        quotas=case.quotas,
        silence=case.silence,
        **case.changes,
    )


def check(case: Case) -> None:
    """What the case says, and what holds of every decision."""
    decision = decided(case)
    status = told(decision)
    assert status.state
    assert status.state.value == case.state
    assert case.says in " ".join(condition.message for condition in status.conditions)
    assert created(decision) == list(case.creates)
    assert decision.delete_jobs == case.deletes
    assert decision.requeue_after == (None if case.again is None else timedelta(seconds=case.again))
    assert tuple(attempt.outcome for attempt in status.attempts) == case.outcomes
    assert status.start_time
    assert (status.completion_time is not None) is (case.state in ("Complete", "Failed"))
    assert decided(case) == decision, "an operator that crashed before it wrote anything decides the same again"
    assert FineTuneJobStatus.model_validate(status.to_wire()) == status, "what is written can be read"
    later = told(decided(case, generation=7))
    assert later.observed_generation == 7
    assert {condition.observed_generation for condition in later.conditions} == {7}
