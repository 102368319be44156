"""Why an attempt ended."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import FailureClass, Stage, StageOutcome
from finetune_api.status import AttemptStatus
from finetune_operator.failures import REMEDIES, cause_of_attempt, cause_so_far, failure_of_pod
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
        FailureClass.DISRUPTED,
        "ended by the cluster (EvictionByEvictionAPI: draining)",
    ),
    **{
        f"taken by the cluster, and stopped in order: {reason}": (
            pod(phase="Failed", exit_code=17, outcome=_train(echo), conditions=(disrupted(reason, "why"),)),
            kind,
            f"ended by the cluster ({reason}: why)",
        )
        for reason, kind, echo in (
            ("PreemptionByScheduler", FailureClass.DISRUPTED, FailureClass.PREEMPTED),
            ("TerminationByKubelet", FailureClass.DISRUPTED, FailureClass.RENDEZVOUS),
            ("DeletionByTaintManager", FailureClass.NODE_LOST, FailureClass.PREEMPTED),
            ("DeletionByPodGC", FailureClass.NODE_LOST, FailureClass.INTERNAL),
            ("SomethingNew", FailureClass.POD_LOST, FailureClass.PREEMPTED),
        )
    },
    "its own fault, although disrupted": (
        pod(phase="Failed", exit_code=11, outcome=_train(FailureClass.DATA_ERROR), conditions=(disrupted(),)),
        FailureClass.DATA_ERROR,
        "what happened",
    ),
    "memory, although disrupted": (
        pod(phase="Failed", exit_code=137, reason="OOMKilled", conditions=(disrupted(),)),
        FailureClass.OUT_OF_MEMORY,
        "than its limit",
    ),
    "deadline": (
        pod(phase="Failed", exit_code=137, pod_reason="DeadlineExceeded"),
        FailureClass.DEADLINE_EXCEEDED,
        "ended by the cluster (DeadlineExceeded)",
    ),
    "the node went down in order": (
        pod(phase="Failed", pod_reason="Terminated"),
        FailureClass.DISRUPTED,
        "(Terminated)",
    ),
    "the node did not take it": (pod(phase="Failed", pod_reason="OutOfcpu"), FailureClass.POD_LOST, "(OutOfcpu)"),
    "node pressure": (
        pod(phase="Failed", pod_reason="Evicted"),
        FailureClass.EVICTED,
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
        FailureClass.PREEMPTED,
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
        failure = cause_of_attempt(job, [read_pod(item) for item in order], nodes=2).failure
        assert failure.failure_class is kind
        assert words in failure.message


def _known(kind: FailureClass) -> AttemptStatus:
    return AttemptStatus(number=1, started=at(0), outcome=kind.value, message="as it was seen", node="node-7")


@pytest.mark.parametrize("there", [True, False])
def test_what_was_seen_counts_when_the_pods_are_gone(there: bool) -> None:
    job = read_job(batch_job(ended="Failed")) if there else None
    cause = cause_of_attempt(job, [], 2, _known(FailureClass.OUT_OF_MEMORY))
    assert (cause.failure.failure_class, cause.node) == (FailureClass.OUT_OF_MEMORY, "node-7")
    assert cause.failure.message == "as it was seen"


def test_what_is_still_there_counts_more_than_what_was_seen() -> None:
    pods = [read_pod(_ended(0, NAN)), read_pod(_ended(1, LOST_PEER))]
    cause = cause_of_attempt(read_job(batch_job(ended="Failed")), pods, 2, _known(FailureClass.RENDEZVOUS))
    assert cause.failure.failure_class is FailureClass.DIVERGED


SO_FAR: dict[str, tuple[list[Object], FailureClass | None]] = {
    "all run": ([pod(), pod(index=1)], None),
    "one lost a peer that runs": ([_ended(0, LOST_PEER), pod(index=1)], None),
    "one lost a peer, which says why": ([_ended(0, LOST_PEER, finished=50), _ended(1, NAN)], FailureClass.DIVERGED),
    "killed": ([_ended(0, exit_code=137), pod(index=1)], FailureClass.POD_LOST),
    "being deleted": ([_deleted(0, 40), pod(index=1)], None),
    "deleted, and stopped in order": ([_deleted(0, 40, PREEMPTED), pod(index=1)], FailureClass.PREEMPTED),
    "deleted because another one is gone": ([_deleted(0, 40, PREEMPTED)], None),
    "deleted because another one failed": ([_deleted(0, 45, PREEMPTED), _ended(1, CRASH, finished=40)], None),
}


@pytest.mark.parametrize("case", SO_FAR)
def test_cause_so_far(case: str) -> None:
    pods, kind = SO_FAR[case]
    cause = cause_so_far([read_pod(item) for item in pods], 2)
    assert (cause.failure.failure_class if cause else None) == kind


def test_longest_message_of_the_cluster_is_cut() -> None:
    ended = pod(phase="Failed", exit_code=137, conditions=(disrupted("X", "y" * 5000),))
    failure = failure_of_pod(read_pod(ended))
    assert failure
    assert len(failure.message) == 2048


@pytest.mark.parametrize("kind", FailureClass)
def test_every_class_has_a_remedy_that_is_an_instruction(kind: FailureClass) -> None:
    remedy = REMEDIES[kind]
    assert remedy[0].isupper()
    assert remedy.endswith(".")
    assert len(remedy) <= 1024
    assert "starts again by itself" not in remedy, "a remedy is told only when nothing starts any more"
