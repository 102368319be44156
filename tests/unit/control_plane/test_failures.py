"""Why an attempt ended, whether another may follow, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.outcomes import FailureClass, Stage, StageOutcome
from finetune_api.status import AttemptStatus
from finetune_operator.failures import (
    REMEDIES,
    RETRYABLE,
    SUCCEEDED,
    SUSPENDED,
    UNREAD,
    counted_losses,
    failure_of_attempt,
    failure_of_pod,
    may_retry,
    next_start,
    retry_delay,
)
from finetune_operator.observation import read_job, read_pod
from support.builders import NAME, Object, at, batch_job, disrupted, failed, pod, published_outcome

POD = f"{NAME}-train-1-0-abcde"


def _train(kind: FailureClass, message: str = "what happened") -> StageOutcome:
    return failed(Stage.TRAIN, kind, message)


SINGLE: dict[str, tuple[Object, FailureClass | None, str]] = {
    "still running": (pod(), None, ""),
    "pending": (pod(phase="Pending"), None, ""),
    "succeeded": (pod(phase="Succeeded", exit_code=0), None, ""),
    "succeeded although disrupted": (pod(phase="Succeeded", exit_code=0, conditions=(disrupted(),)), None, ""),
    "user error": (pod(phase="Failed", exit_code=10), FailureClass.USER_ERROR, "ended with exit code 10"),
    "data error": (pod(phase="Failed", exit_code=11), FailureClass.DATA_ERROR, "exit code 11"),
    "out of memory": (pod(phase="Failed", exit_code=12), FailureClass.OUT_OF_MEMORY, "exit code 12"),
    "diverged": (pod(phase="Failed", exit_code=13), FailureClass.DIVERGED, "exit code 13"),
    "storage": (pod(phase="Failed", exit_code=14), FailureClass.STORAGE, "exit code 14"),
    "rendezvous": (pod(phase="Failed", exit_code=15), FailureClass.RENDEZVOUS, "exit code 15"),
    "hung": (pod(phase="Failed", exit_code=16), FailureClass.HUNG, "exit code 16"),
    "preempted": (pod(phase="Failed", exit_code=17), FailureClass.PREEMPTED, "exit code 17"),
    "no device": (pod(phase="Failed", exit_code=18), FailureClass.DEVICE_MISSING, "exit code 18"),
    "verification": (pod(phase="Failed", exit_code=19), FailureClass.VERIFICATION, "exit code 19"),
    "internal": (pod(phase="Failed", exit_code=20), FailureClass.INTERNAL, "exit code 20"),
    "python traceback": (pod(phase="Failed", exit_code=1), FailureClass.INTERNAL, "exit code 1"),
    "bad usage": (pod(phase="Failed", exit_code=2), FailureClass.INTERNAL, "exit code 2"),
    "no such command": (pod(phase="Failed", exit_code=127), FailureClass.INTERNAL, "exit code 127"),
    "128 is no signal": (pod(phase="Failed", exit_code=128), FailureClass.INTERNAL, "exit code 128"),
    "255 is no signal": (pod(phase="Failed", exit_code=255), FailureClass.INTERNAL, "exit code 255"),
    "SIGKILL": (pod(phase="Failed", exit_code=137), FailureClass.POD_LOST, "killed by signal 9"),
    "SIGTERM": (pod(phase="Failed", exit_code=143), FailureClass.POD_LOST, "killed by signal 15"),
    "OOM kill": (pod(phase="Failed", exit_code=137, reason="OOMKilled"), FailureClass.OUT_OF_MEMORY, "than its limit"),
    "evicted": (
        pod(phase="Failed", exit_code=137, conditions=(disrupted("EvictionByEvictionAPI", "draining"),)),
        FailureClass.POD_LOST,
        "ended by the cluster (EvictionByEvictionAPI: draining)",
    ),
    "node pressure": (
        pod(phase="Failed", pod_reason="Evicted"),
        FailureClass.POD_LOST,
        "ended by the cluster (Evicted)",
    ),
    "own words count more than the exit code": (
        pod(phase="Failed", exit_code=137, outcome=_train(FailureClass.DIVERGED, "loss is NaN at step 7")),
        FailureClass.DIVERGED,
        "loss is NaN at step 7",
    ),
}


@pytest.mark.parametrize("case", SINGLE)
def test_failure_of_one_pod(case: str) -> None:
    manifest, kind, words = SINGLE[case]
    failure = failure_of_pod(read_pod(manifest))
    assert (failure.failure_class if failure else None) == kind
    assert words in (failure.message if failure else "")


PREEMPTED = _train(FailureClass.PREEMPTED, "SIGTERM")
LOST_PEER = _train(FailureClass.RENDEZVOUS, "connection closed by peer")
NAN = _train(FailureClass.DIVERGED, "loss is NaN")
CRASH = _train(FailureClass.INTERNAL, "gloo: connection reset")


def _ended(index: int, outcome: StageOutcome | None = None, exit_code: int = 1, finished: float = 60) -> Object:
    return pod(index=index, phase="Failed", exit_code=exit_code, finished=finished, outcome=outcome)


def _deleted(index: int, when: float, outcome: StageOutcome | None = None) -> Object:
    if outcome is None:
        return pod(index=index, deleted=when)
    return pod(index=index, phase="Failed", exit_code=17, finished=when + 1, outcome=outcome, deleted=when)


# What is seen of two nodes' pods, whether their Job is there, and the cause that is to be told.
ATTEMPTS: dict[str, tuple[list[Object], bool, FailureClass, str]] = {
    "one cause and its echo": ([_ended(0, LOST_PEER), _ended(1, NAN)], True, FailureClass.DIVERGED, "loss is NaN"),
    "the echo ended first": (
        [_ended(0, LOST_PEER, finished=50), _ended(1, NAN, finished=60)],
        True,
        FailureClass.DIVERGED,
        "loss is NaN",
    ),
    "an internal error is an echo of a cause": ([_ended(0, CRASH), _ended(1, NAN)], True, FailureClass.DIVERGED, "NaN"),
    "two causes: the earlier one": (
        [_ended(0, NAN, finished=61), _ended(1, exit_code=12, finished=60)],
        True,
        FailureClass.OUT_OF_MEMORY,
        "exit code 12",
    ),
    "a killed rank is the cause of the others' end": (
        [_ended(0, LOST_PEER, finished=60), _ended(1, exit_code=137, finished=61)],
        True,
        FailureClass.POD_LOST,
        "killed by signal 9",
    ),
    "only echoes: the first": (
        [_ended(0, CRASH, finished=61), _ended(1, LOST_PEER, finished=60)],
        True,
        FailureClass.RENDEZVOUS,
        "connection closed",
    ),
    "a pod was deleted, its peer lost it": (
        [_deleted(0, 40, PREEMPTED), _ended(1, LOST_PEER, finished=41)],
        True,
        FailureClass.POD_LOST,
        f"pod {POD} was deleted",
    ),
    "a pod was deleted in the second its peer failed": (
        [_deleted(0, 40), _ended(1, CRASH, finished=40)],
        True,
        FailureClass.POD_LOST,
        "was deleted",
    ),
    "a pod was deleted because its peer had failed": (
        [_deleted(0, 45, PREEMPTED), _ended(1, CRASH, finished=40)],
        True,
        FailureClass.INTERNAL,
        "connection reset",
    ),
    "a pod is gone without a trace": ([_ended(1, LOST_PEER)], True, FailureClass.POD_LOST, "the pod of node 0 is gone"),
    "all pods are gone": ([], True, FailureClass.POD_LOST, "2 pods are gone: those of nodes 0, 1"),
    "the Job is gone": ([], False, FailureClass.POD_LOST, "the Job was deleted"),
    "the Job is gone, its pods are told to end": (
        [_deleted(0, 40), _deleted(1, 40)],
        False,
        FailureClass.POD_LOST,
        "the Job was deleted",
    ),
    "every pod was preempted": (
        [_ended(0, PREEMPTED), _ended(1, PREEMPTED)],
        True,
        FailureClass.PREEMPTED,
        "SIGTERM",
    ),
    "preempted in the middle of a rendezvous": (
        [_ended(0, PREEMPTED, finished=50), _ended(1, LOST_PEER, finished=60)],
        True,
        FailureClass.RENDEZVOUS,
        "connection closed",
    ),
    "succeeded pods of a failed Job": (
        [pod(index=index, phase="Succeeded", exit_code=0, outcome=published_outcome()) for index in (0, 1)],
        True,
        FailureClass.POD_LOST,
        "the attempt ended without a result (too slow)",
    ),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_cause_of_a_failed_attempt(case: str) -> None:
    pods, there, kind, words = ATTEMPTS[case]
    job = read_job(batch_job(ended="Failed", message="too slow")) if there else None
    for order in (pods, pods[::-1]):
        failure = failure_of_attempt(job, [read_pod(item) for item in order], nodes=2)
        assert failure.failure_class is kind
        assert words in failure.message


def test_longest_message_of_the_cluster_is_cut() -> None:
    ended = pod(phase="Failed", exit_code=137, conditions=(disrupted("X", "y" * 5000),))
    failure = failure_of_pod(read_pod(ended))
    assert failure
    assert len(failure.message) == 2048


def _attempts(*outcomes: str) -> list[AttemptStatus]:
    return [
        AttemptStatus(number=number, started=at(0), finished=at(60 * number), outcome=outcome)
        for number, outcome in enumerate(outcomes, start=1)
    ]


LOST = FailureClass.POD_LOST.value


@pytest.mark.parametrize("kind", FailureClass)
def test_only_what_is_not_the_manifests_fault_is_retried(kind: FailureClass) -> None:
    failure = failed(Stage.TRAIN, kind).failure
    assert failure
    assert may_retry(failure, _attempts(kind.value), backoff_limit=1) is (kind in RETRYABLE)


def test_faults_of_manifest_and_data_are_never_retried() -> None:
    never = {
        FailureClass.USER_ERROR,
        FailureClass.DATA_ERROR,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.DIVERGED,
        FailureClass.DEVICE_MISSING,
        FailureClass.VERIFICATION,
        FailureClass.INTERNAL,
    }
    assert RETRYABLE.isdisjoint(never)


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
    ],
)
def test_backoff_limit_counts_losses_only(outcomes: list[str], limit: int, allowed: bool) -> None:
    failure = failed(Stage.TRAIN, FailureClass.POD_LOST).failure
    assert failure
    assert may_retry(failure, _attempts(*outcomes), limit) is allowed


def test_an_open_attempt_is_no_loss() -> None:
    assert counted_losses([*_attempts(LOST), AttemptStatus(number=2, started=at(70))]) == 1


@pytest.mark.parametrize(
    ("losses", "seconds"), [(0, 0), (1, 0), (2, 10), (3, 20), (4, 40), (6, 160), (7, 300), (900, 300)]
)
def test_delay_before_the_next_attempt(losses: int, seconds: int) -> None:
    assert retry_delay(_attempts(*[LOST] * losses)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("outcomes", "seconds"),
    [([], None), ([LOST], 60), ([LOST, LOST], 130), ([LOST, SUSPENDED], None), ([LOST, LOST, UNREAD], None)],
)
def test_start_of_the_next_attempt(outcomes: list[str], seconds: float | None) -> None:
    assert next_start(_attempts(*outcomes)) == (None if seconds is None else at(seconds))


def test_nothing_is_waited_for_while_an_attempt_is_open() -> None:
    assert next_start([AttemptStatus(number=1, started=at(0))]) is None


@pytest.mark.parametrize("kind", FailureClass)
def test_every_class_has_a_remedy_that_is_an_instruction(kind: FailureClass) -> None:
    remedy = REMEDIES[kind]
    assert remedy[0].isupper()
    assert remedy.endswith(".")
    assert len(remedy) <= 1024
    assert "starts again by itself" not in remedy, "a remedy is told only when nothing starts any more"


def test_names_of_outcomes_are_no_failure_classes() -> None:
    assert {SUCCEEDED, SUSPENDED, UNREAD}.isdisjoint(kind.value for kind in FailureClass)
