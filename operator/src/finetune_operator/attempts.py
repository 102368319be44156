"""Whether another attempt follows one that failed, when, and what it does otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from finetune_api.outcomes import FailureClass
from finetune_api.plan import gradient_accumulation_steps
from finetune_api.spec import FineTuneJobSpec, Tuning
from finetune_api.status import AttemptStatus, FineTuneJobStatus, PlanStatus

SUCCEEDED = "Succeeded"
SUSPENDED = "Suspended"
# An attempt whose pods were gone before their result was read. Storage knows it; it costs no retry.
UNREAD = "Unread"


class Retry(Enum):
    """Whether the same may well succeed on another try."""

    NEVER = "never"
    # Only with less memory per process than this time.
    SMALLER = "smaller"
    WITHIN_LIMIT = "within spec.backoffLimit"
    # What the cluster does to a pod on purpose, or loses, says nothing about the job.
    ALWAYS = "always"


@dataclass(frozen=True)
class Rule:
    """What follows a failure of one class. ``node_suspect``: the node that the pod was on may be the cause."""

    retry: Retry
    node_suspect: bool = False


RULES = {
    FailureClass.USER_ERROR: Rule(Retry.NEVER),
    FailureClass.DATA_ERROR: Rule(Retry.NEVER),
    FailureClass.OUT_OF_MEMORY: Rule(Retry.SMALLER),
    FailureClass.DIVERGED: Rule(Retry.NEVER),
    FailureClass.STORAGE: Rule(Retry.WITHIN_LIMIT),
    FailureClass.RENDEZVOUS: Rule(Retry.WITHIN_LIMIT),
    FailureClass.HUNG: Rule(Retry.WITHIN_LIMIT, node_suspect=True),
    FailureClass.PREEMPTED: Rule(Retry.ALWAYS),
    FailureClass.DEVICE_MISSING: Rule(Retry.WITHIN_LIMIT, node_suspect=True),
    FailureClass.VERIFICATION: Rule(Retry.NEVER),
    FailureClass.INTERNAL: Rule(Retry.NEVER),
    FailureClass.POD_LOST: Rule(Retry.WITHIN_LIMIT, node_suspect=True),
    FailureClass.DISRUPTED: Rule(Retry.ALWAYS),
    FailureClass.NODE_LOST: Rule(Retry.ALWAYS, node_suspect=True),
    FailureClass.EVICTED: Rule(Retry.WITHIN_LIMIT, node_suspect=True),
    FailureClass.DEADLINE_EXCEEDED: Rule(Retry.NEVER),
    FailureClass.IMAGE_PULL: Rule(Retry.WITHIN_LIMIT, node_suspect=True),
    FailureClass.SECRET_MISSING: Rule(Retry.NEVER),
    FailureClass.UNSCHEDULABLE: Rule(Retry.ALWAYS),
}

_FAILURES_OF_A_BAD_NODE = 2
_MAX_AVOIDED = 8
# An attempt that ends sooner has not trained: the next one of its kind waits.
_SHORT = timedelta(minutes=1)
_FIRST_DELAY = timedelta(seconds=10)
_LONGEST_DELAY = timedelta(minutes=5)


@dataclass(frozen=True)
class Adjustment:
    """What attempts do otherwise than the manifest says, without another result."""

    micro_batch_size: int
    zero_stage: int
    avoided_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Next:
    """The attempt that follows, and in words what is new in it."""

    adjustment: Adjustment
    change: str | None = None


def adjustment_of(spec: FineTuneJobSpec, plan: PlanStatus | None) -> Adjustment:
    """What holds for the current attempt; the status remembers it."""
    given = spec.deepspeed
    return Adjustment(
        micro_batch_size=(plan and plan.micro_batch_size) or given.micro_batch_size,
        zero_stage=given.zero_stage if plan is None or plan.zero_stage is None else plan.zero_stage,
        avoided_nodes=plan.avoided_nodes if plan else (),
    )


def adjusted(spec: FineTuneJobSpec, adjustment: Adjustment) -> FineTuneJobSpec:
    """The spec that an attempt trains by. The global batch is the same, so the result is too, up to rounding."""
    changes = {"micro_batch_size": adjustment.micro_batch_size, "zero_stage": adjustment.zero_stage}
    differing = {name: value for name, value in changes.items() if getattr(spec.deepspeed, name) != value}
    if not differing:
        return spec
    return spec.model_copy(update={"deepspeed": spec.deepspeed.model_copy(update=differing)})


def reasons(spec: FineTuneJobSpec, adjustment: Adjustment) -> dict[str, str]:
    """By path, why a field of the adjusted spec differs from the manifest."""
    given = spec.deepspeed
    pairs = {
        "spec.deepspeed.microBatchSize": (given.micro_batch_size, adjustment.micro_batch_size),
        "spec.deepspeed.zeroStage": (given.zero_stage, adjustment.zero_stage),
    }
    return {path: f"{before} ran out of memory" for path, (before, now) in pairs.items() if before != now}


def next_attempt(spec: FineTuneJobSpec, status: FineTuneJobStatus, kind: FailureClass) -> Next | None:
    """What follows the last attempt, which ``kind`` has ended and which ``status`` counts; None for nothing."""
    rule = RULES[kind]
    current = adjustment_of(spec, status.plan)
    if rule.retry is Retry.NEVER or (rule.retry is Retry.WITHIN_LIMIT and (status.losses or 0) > spec.backoff_limit):
        return None
    if rule.retry is Retry.SMALLER:
        return _smaller(spec, current)
    if kind is FailureClass.UNSCHEDULABLE and current.avoided_nodes:
        # There may be no others.
        return Next(replace(current, avoided_nodes=()), "no node is avoided any more")
    bad = _bad_node(status.attempts, current.avoided_nodes) if rule.node_suspect else None
    if bad is None:
        return Next(current)
    avoided = (*current.avoided_nodes, bad)[-_MAX_AVOIDED:]
    return Next(replace(current, avoided_nodes=avoided), f"node {bad} is avoided: it ended two attempts")


def _smaller(spec: FineTuneJobSpec, current: Adjustment) -> Next | None:
    """First half the rows at a time, then a higher ZeRO stage; each once."""
    given, size = spec.deepspeed, current.micro_batch_size
    if size == given.micro_batch_size and size > 1:
        half = next(part for part in range(size // 2, 0, -1) if size % part == 0)
        smaller = replace(current, micro_batch_size=half)
        accumulated = gradient_accumulation_steps(adjusted(spec, smaller))
        return Next(smaller, f"microBatchSize {size} -> {half}, gradient accumulation {accumulated}: memory ran out")
    raisable = spec.method.tuning in (Tuning.FULL, Tuning.LORA) and spec.resources.world_size > 1
    # What compiles its blocks cannot partition weights.
    highest = 2 if spec.hyperparameters.compile else 3
    # Stage 0 is left alone: some optimizers have no other.
    if current.zero_stage == given.zero_stage and 0 < given.zero_stage < highest and raisable:
        higher = given.zero_stage + 1
        return Next(replace(current, zero_stage=higher), f"zeroStage {given.zero_stage} -> {higher}: memory ran out")
    return None


def _bad_node(attempts: Sequence[AttemptStatus], avoided: Sequence[str]) -> str | None:
    """The node of the last attempt if it has ended two of them and is not avoided already."""
    node = attempts[-1].node if attempts else None
    if node is None or node in avoided:
        return None
    ended = [attempt for attempt in attempts if attempt.node == node and _suspects_node(attempt.outcome)]
    return node if len(ended) >= _FAILURES_OF_A_BAD_NODE else None


def _suspects_node(outcome: str | None) -> bool:
    return any(kind.value == outcome and rule.node_suspect for kind, rule in RULES.items())


def counts(kind: FailureClass) -> bool:
    """Whether an attempt that ended so counts against spec.backoffLimit."""
    return RULES[kind].retry is Retry.WITHIN_LIMIT


def with_adjustment(status: FineTuneJobStatus, spec: FineTuneJobSpec, adjustment: Adjustment) -> FineTuneJobStatus:
    """The status with what the next attempt does otherwise."""
    if status.plan is None:
        return status
    changes = {
        "micro_batch_size": adjustment.micro_batch_size,
        "zero_stage": adjustment.zero_stage,
        "avoided_nodes": adjustment.avoided_nodes,
        "gradient_accumulation_steps": gradient_accumulation_steps(adjusted(spec, adjustment)),
    }
    return status.model_copy(update={"plan": status.plan.model_copy(update=changes)})


def retry_delay(status: FineTuneJobStatus) -> timedelta:
    """Wait before the next attempt: none after the first loss, then 10 s doubling up to 5 min.

    What does not count against the limit waits only where attempts end before they have trained, one after the other.
    """
    last = status.attempts[-1]
    if last.outcome in (SUSPENDED, UNREAD):
        return timedelta(0)
    in_a_row = _idle_in_a_row(status.attempts)
    counted = last.outcome in {kind.value for kind in RULES if counts(kind)}
    failures = max(in_a_row, status.losses or 0) if counted else in_a_row
    if failures < 2:
        return timedelta(0)
    return min(_FIRST_DELAY * 2.0 ** min(failures - 2, 10), _LONGEST_DELAY)


def _idle_in_a_row(attempts: Sequence[AttemptStatus]) -> int:
    """How many of the last attempts ended without having trained."""
    for length, attempt in enumerate(reversed(attempts)):
        if not _idle(attempt):
            return length
    return len(attempts)


def _idle(attempt: AttemptStatus) -> bool:
    if attempt.outcome in (SUSPENDED, UNREAD) or attempt.started is None or attempt.finished is None:
        return False
    return attempt.finished - attempt.started < _SHORT or attempt.outcome == FailureClass.UNSCHEDULABLE.value


def next_start(status: FineTuneJobStatus, now: datetime) -> datetime | None:
    """When the next attempt may begin; None for at once. It follows from the status, so that a new operator agrees."""
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.finished is None:
        return None
    start = last.finished + retry_delay(status)
    # A clock that was set back must not make anybody wait.
    return start if last.finished <= now < start else None
