"""Whether another attempt follows, when, and what it does otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.outcomes import FailureClass
from finetune_api.status import AttemptStatus, FineTuneJobStatus, PlanStatus
from finetune_operator.attempts import (
    RULES,
    SUCCEEDED,
    SUSPENDED,
    UNREAD,
    Adjustment,
    Retry,
    adjusted,
    adjustment_of,
    counts,
    next_attempt,
    next_start,
    reasons,
    retry_delay,
    with_adjustment,
)
from support.builders import at, job

LOST, PREEMPTED, OOM = FailureClass.POD_LOST, FailureClass.PREEMPTED, FailureClass.OUT_OF_MEMORY


def _status(*outcomes: str, lasting: float = 600, nodes: tuple[str | None, ...] = (), **plan: Any) -> FineTuneJobStatus:
    """A status with attempts that ended so, one after the other."""
    attempts = tuple(
        AttemptStatus(
            number=number,
            started=at(1000 * number),
            finished=at(1000 * number + lasting),
            outcome=outcome,
            node=nodes[number - 1] if nodes else None,
        )
        for number, outcome in enumerate(outcomes, start=1)
    )
    losses = sum(1 for outcome in outcomes if outcome in set(FailureClass) and counts(FailureClass(outcome)))
    known = PlanStatus(attempt=len(outcomes) or 1, world_size=2, gradient_accumulation_steps=1, **plan)
    return FineTuneJobStatus(attempts=attempts, losses=losses, plan=known)


def test_every_class_has_a_rule() -> None:
    assert set(RULES) == set(FailureClass)


def test_names_of_outcomes_are_no_failure_classes() -> None:
    assert {SUCCEEDED, SUSPENDED, UNREAD}.isdisjoint(kind.value for kind in FailureClass)


def test_faults_of_manifest_and_data_are_never_retried() -> None:
    never = {kind for kind, rule in RULES.items() if rule.retry is Retry.NEVER}
    assert never == {
        FailureClass.USER_ERROR,
        FailureClass.DATA_ERROR,
        FailureClass.DIVERGED,
        FailureClass.VERIFICATION,
        FailureClass.INTERNAL,
        FailureClass.DEADLINE_EXCEEDED,
        FailureClass.SECRET_MISSING,
    }


@pytest.mark.parametrize("kind", FailureClass)
def test_what_follows_the_first_failure_of_a_class(kind: FailureClass) -> None:
    following = next_attempt(job(backoffLimit=1).spec, _status(kind.value), kind)
    assert (following is not None) is (RULES[kind].retry in (Retry.WITHIN_LIMIT, Retry.ALWAYS))
    assert following is None or following.change is None


@pytest.mark.parametrize(
    ("outcomes", "limit", "allowed"),
    [
        ([LOST], 0, False),
        ([LOST], 1, True),
        ([LOST, LOST], 1, False),
        ([LOST, LOST, LOST], 3, True),
        ([LOST, LOST, LOST, LOST], 3, False),
        ([SUSPENDED, SUSPENDED, LOST], 1, True),
        ([UNREAD, LOST], 1, True),
        ([UNREAD, LOST, LOST], 1, False),
        ([PREEMPTED] * 50, 0, True),
        ([FailureClass.NODE_LOST, FailureClass.DISRUPTED, LOST], 1, True),
        ([LOST, PREEMPTED], 0, True),
    ],
)
def test_backoff_limit_counts_losses_only(outcomes: list[str], limit: int, allowed: bool) -> None:
    following = next_attempt(job(backoffLimit=limit).spec, _status(*outcomes), FailureClass(outcomes[-1]))
    assert (following is not None) is allowed


SMALLER: dict[str, tuple[dict[str, Any], dict[str, Any], Adjustment | None, str]] = {
    "half the rows": (
        {"deepspeed": {"microBatchSize": 4}, "hyperparameters": {"globalBatchSize": 16}},
        {},
        Adjustment(2, 2),
        "microBatchSize 4 -> 2, gradient accumulation 8: memory ran out",
    ),
    "three rows become one": (
        {"deepspeed": {"microBatchSize": 3}, "hyperparameters": {"globalBatchSize": 3}},
        {},
        Adjustment(1, 2),
        "microBatchSize 3 -> 1, gradient accumulation 3: memory ran out",
    ),
    "half once, then a higher stage": (
        {
            "deepspeed": {"microBatchSize": 4},
            "hyperparameters": {"globalBatchSize": 16},
            "resources": {"nodes": 2},
        },
        {"micro_batch_size": 2},
        Adjustment(2, 3),
        "zeroStage 2 -> 3: memory ran out",
    ),
    "one row: a higher stage at once": (
        {"deepspeed": {"zeroStage": 1}, "resources": {"nodes": 2}},
        {},
        Adjustment(1, 2),
        "zeroStage 1 -> 2: memory ran out",
    ),
    "without ZeRO there is no higher stage": (
        {"deepspeed": {"zeroStage": 0}, "hyperparameters": {"precision": "fp32"}, "resources": {"nodes": 2}},
        {},
        None,
        "",
    ),
    "one process: a higher stage spreads nothing": ({}, {}, None, ""),
    "the highest stage": ({"deepspeed": {"zeroStage": 3}, "resources": {"nodes": 2}}, {}, None, ""),
    "compiled blocks have a highest stage of their own": (
        {"hyperparameters": {"compile": True}, "resources": {"nodes": 2}},
        {},
        None,
        "",
    ),
    "everything was tried": (
        {
            "deepspeed": {"microBatchSize": 2},
            "hyperparameters": {"globalBatchSize": 8},
            "resources": {"nodes": 2},
        },
        {"micro_batch_size": 1, "zero_stage": 3},
        None,
        "",
    ),
}


@pytest.mark.parametrize("case", SMALLER)
def test_what_follows_when_memory_ran_out(case: str) -> None:
    changes, plan, expected, words = SMALLER[case]
    spec = job(backoffLimit=0, **changes).spec
    following = next_attempt(spec, _status(OOM, **plan), OOM)
    assert (following.adjustment if following else None) == expected
    assert (following.change if following else "") == words
    if expected:
        trained = adjusted(spec, expected)
        assert trained.hyperparameters == spec.hyperparameters
        width = trained.deepspeed.micro_batch_size * trained.resources.world_size
        assert trained.hyperparameters.global_batch_size % width == 0
        assert reasons(spec, expected)


NODES: dict[str, tuple[list[str], tuple[str | None, ...], tuple[str, ...], tuple[str, ...]]] = {
    "once is chance": ([LOST], ("a",), (), ()),
    "twice is not": ([LOST, LOST], ("a", "a"), (), ("a",)),
    "twice with others between": ([LOST, LOST, FailureClass.HUNG], ("a", "b", "a"), (), ("a",)),
    "two nodes once each": ([LOST, LOST], ("a", "b"), (), ()),
    "preemption says nothing of the node": ([PREEMPTED, PREEMPTED], ("a", "a"), (), ()),
    "a lost node counts": ([FailureClass.NODE_LOST] * 2, ("a", "a"), (), ("a",)),
    "one more to avoid": ([LOST, LOST], ("b", "b"), ("a",), ("a", "b")),
    "no pod is known": ([LOST, LOST], (None, None), (), ()),
    "at most eight": ([LOST, LOST], ("i", "i"), tuple("abcdefgh"), tuple("bcdefghi")),
    "none is left to place pods on": ([FailureClass.UNSCHEDULABLE], (None,), ("a", "b"), ()),
}


@pytest.mark.parametrize("case", NODES)
def test_nodes_that_are_avoided(case: str) -> None:
    outcomes, nodes, before, after = NODES[case]
    status = _status(*outcomes, nodes=nodes, avoided_nodes=before)
    following = next_attempt(job(backoffLimit=9).spec, status, FailureClass(outcomes[-1]))
    assert following
    assert following.adjustment.avoided_nodes == after
    assert (following.change is not None) is (before != after)


def test_adjustment_is_remembered_by_the_status() -> None:
    spec = job(deepspeed={"microBatchSize": 4}, hyperparameters={"globalBatchSize": 8}).spec
    adjustment = Adjustment(2, 3, ("bad",))
    status = with_adjustment(_status(LOST), spec, adjustment)
    assert adjustment_of(spec, status.plan) == adjustment
    assert status.plan
    assert status.plan.gradient_accumulation_steps == 4
    assert adjustment_of(spec, None) == Adjustment(4, 2)
    assert adjusted(spec, Adjustment(4, 2)) is spec
    assert reasons(spec, Adjustment(4, 2)) == {}


@pytest.mark.parametrize(
    ("losses", "seconds"), [(1, 0), (2, 10), (3, 20), (4, 40), (6, 160), (7, 300), (100, 300), (900, 300)]
)
def test_delay_after_losses(losses: int, seconds: int) -> None:
    status = _status(LOST).model_copy(update={"losses": losses})
    assert retry_delay(status) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("outcomes", "lasting", "seconds"),
    [
        ([PREEMPTED] * 5, 600, 0),
        ([PREEMPTED], 5, 0),
        ([PREEMPTED] * 2, 5, 10),
        ([PREEMPTED] * 4, 5, 40),
        ([PREEMPTED, SUSPENDED], 5, 0),
        ([PREEMPTED, SUSPENDED, PREEMPTED], 5, 0),
        ([FailureClass.UNSCHEDULABLE] * 3, 600, 20),
        ([FailureClass.UNSCHEDULABLE] * 30, 600, 300),
        ([LOST, LOST, PREEMPTED], 600, 0),
        ([LOST, LOST, UNREAD], 600, 0),
        ([OOM], 5, 0),
    ],
)
def test_delay_after_what_does_not_count(outcomes: list[str], lasting: float, seconds: int) -> None:
    assert retry_delay(_status(*outcomes, lasting=lasting)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("now", "start"),
    [(2600, 2610), (2609, 2610), (2610, None), (9999, None), (2599, None), (0, None)],
    ids=["at once", "later", "then", "long after", "clock set back a second", "clock set back far"],
)
def test_start_of_the_next_attempt(now: float, start: float | None) -> None:
    assert next_start(_status(LOST, LOST), at(now)) == (None if start is None else at(start))


def test_nothing_is_waited_for_without_an_ended_attempt() -> None:
    assert next_start(FineTuneJobStatus(), at(0)) is None
    opened = FineTuneJobStatus(attempts=(AttemptStatus(number=1, started=at(0)),))
    assert next_start(opened, at(0)) is None
