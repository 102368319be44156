"""Why an attempt ended, and whether another one may follow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_api.outcomes import CLASS_OF_EXIT_CODE, ExitCode, Failure, FailureClass
from finetune_api.status import AttemptStatus
from finetune_operator.observation import ChildJob, Pod

SUCCEEDED = "Succeeded"
SUSPENDED = "Suspended"
# An attempt whose pods were gone before their result was read. Storage knows it; it costs no retry.
UNREAD = "Unread"

REMEDIES = {
    FailureClass.USER_ERROR: "Correct the manifest and create the FineTuneJob again.",
    FailureClass.DATA_ERROR: "Correct the data and create the FineTuneJob again.",
    FailureClass.OUT_OF_MEMORY: "Raise spec.resources.memory, or lower spec.deepspeed.microBatchSize or "
    "spec.hyperparameters.maxSequenceLength, or set spec.hyperparameters.gradientCheckpointing.",
    FailureClass.DIVERGED: "Lower spec.hyperparameters.learningRate, add warmupSteps, or look at the data.",
    FailureClass.STORAGE: "See that the store answers and has room, then create the FineTuneJob again.",
    FailureClass.RENDEZVOUS: "See that the pods can reach each other (NetworkPolicies, DNS of headless Services).",
    FailureClass.HUNG: "Look at the pods' logs for the rank that stopped.",
    FailureClass.PREEMPTED: "See what preempted the pods, such as pods of a higher priority, then create the "
    "FineTuneJob again, with a higher spec.backoffLimit where that is usual.",
    FailureClass.DEVICE_MISSING: "See that the nodes have the GPU driver and device plugin, and that "
    "spec.resources.gpuResourceName is theirs; or set spec.resources.gpusPerNode to 0 to train on the CPU.",
    FailureClass.VERIFICATION: "Look at the store: what was written could not be read back intact.",
    FailureClass.INTERNAL: "Look at the pods' logs; if the cause is not in your manifest or data, please report it.",
    FailureClass.POD_LOST: "See what ended the pods (kubectl get events), then create the FineTuneJob again, with a "
    "higher spec.backoffLimit where that is usual.",
    FailureClass.SECRET_MISSING: "Create the Secret in the namespace of the job and create the FineTuneJob again.",
    FailureClass.UNSCHEDULABLE: "Ask for what the nodes have, or add nodes.",
}

# Losses that say nothing about the manifest: the same pods may well succeed on another try.
RETRYABLE = frozenset(
    {
        FailureClass.POD_LOST,
        FailureClass.PREEMPTED,
        FailureClass.RENDEZVOUS,
        FailureClass.STORAGE,
        FailureClass.HUNG,
    }
)

# What a rank says when another one vanished under it: not a cause of its own.
_ECHOES = frozenset({FailureClass.INTERNAL, FailureClass.RENDEZVOUS, FailureClass.PREEMPTED})

# A process that a signal ended leaves 128 plus the number of the signal, of which there are 64.
_FIRST_SIGNAL, _LAST_SIGNAL = 128, 192

_FIRST_DELAY = timedelta(seconds=10)
_LONGEST_DELAY = timedelta(minutes=5)


def failure_of_pod(pod: Pod) -> Failure | None:
    """What one ended pod says of itself; None if it succeeded or has not ended."""
    if pod.outcome and pod.outcome.failure:
        return pod.outcome.failure
    if pod.oom_killed:
        return _failure(FailureClass.OUT_OF_MEMORY, f"pod {pod.name} was killed for using more memory than its limit")
    if pod.disrupted and pod.exit_code != ExitCode.SUCCESS:
        return _failure(FailureClass.POD_LOST, f"pod {pod.name} was ended by the cluster ({pod.disrupted})")
    if pod.exit_code in (None, ExitCode.SUCCESS):
        return None
    if _FIRST_SIGNAL < pod.exit_code <= _LAST_SIGNAL:
        return _failure(FailureClass.POD_LOST, f"pod {pod.name} was killed by signal {pod.exit_code - _FIRST_SIGNAL}")
    kind = CLASS_OF_EXIT_CODE.get(pod.exit_code, FailureClass.INTERNAL)
    return _failure(kind, f"pod {pod.name} ended with exit code {pod.exit_code}")


def _failure(kind: FailureClass, message: str) -> Failure:
    return Failure(failure_class=kind, message=message[:2048], remedy=REMEDIES[kind])


def failure_of_attempt(job: ChildJob | None, pods: Sequence[Pod], nodes: int) -> Failure:
    """The root cause of a failed attempt.

    One rank's failure takes the others down with it: a rank that names its own cause counts before those that only
    lost a peer; among those, a pod whose deletion was asked for first is the cause.
    """
    ended = [(pod, failure) for pod in pods if (failure := failure_of_pod(pod))]
    causes = [(pod, failure) for pod, failure in ended if failure.failure_class not in _ECHOES]
    if causes:
        return min(causes, key=lambda item: _when(item[0]))[1]
    if job is None:
        return _failure(FailureClass.POD_LOST, "the Job was deleted")
    lost = _lost_pod(pods, [pod for pod, failure in ended if failure.failure_class is not FailureClass.PREEMPTED])
    if lost:
        return _failure(FailureClass.POD_LOST, f"pod {lost.name} was deleted")
    gone = sorted(set(range(nodes)) - {pod.index for pod in pods})
    if gone:
        return _failure(FailureClass.POD_LOST, _gone(gone))
    if ended:
        return min(ended, key=lambda item: (item[1].failure_class is FailureClass.PREEMPTED, _when(item[0])))[1]
    return _failure(FailureClass.POD_LOST, f"the attempt ended without a result ({job.message})")


def _gone(indexes: Sequence[int]) -> str:
    """In words, which pods are not there any more; of many only the first are named."""
    if len(indexes) == 1:
        return f"the pod of node {indexes[0]} is gone"
    more = ", …" if len(indexes) > 8 else ""
    return f"{len(indexes)} pods are gone: those of nodes {', '.join(map(str, indexes[:8]))}{more}"


def _when(pod: Pod) -> float:
    return pod.finished.timestamp() if pod.finished else float("inf")


def _lost_pod(pods: Sequence[Pod], failed: Sequence[Pod]) -> Pod | None:
    """The pod that was deleted no later than any rank failed, if there is one. Times have a resolution of seconds."""
    deleted = [pod for pod in pods if pod.deleted_at]
    if not deleted:
        return None
    first = min(deleted, key=lambda pod: pod.deleted_at.timestamp() if pod.deleted_at else 0.0)
    first_deleted = first.deleted_at.timestamp() if first.deleted_at else 0.0
    return first if all(first_deleted <= _when(pod) for pod in failed if pod is not first) else None


def counted_losses(attempts: Sequence[AttemptStatus]) -> int:
    """Ended attempts that use up the backoff limit; a suspension or an unread result is nobody's failure."""
    return sum(1 for attempt in attempts if attempt.finished and attempt.outcome not in (SUSPENDED, UNREAD))


def may_retry(failure: Failure, attempts: Sequence[AttemptStatus], backoff_limit: int) -> bool:
    """Whether another attempt may follow; ``attempts`` includes the one that just failed."""
    return failure.failure_class in RETRYABLE and counted_losses(attempts) <= backoff_limit


def retry_delay(attempts: Sequence[AttemptStatus]) -> timedelta:
    """Wait before the next attempt: none after the first loss, then 10 s doubling up to 5 min."""
    losses = counted_losses(attempts)
    if losses < 2:
        return timedelta(0)
    return min(_FIRST_DELAY * 2.0 ** min(losses - 2, 10), _LONGEST_DELAY)


def next_start(attempts: Sequence[AttemptStatus]) -> datetime | None:
    """When the next attempt may begin; None for at once."""
    last = attempts[-1] if attempts else None
    if last is None or last.finished is None or last.outcome in (SUSPENDED, UNREAD):
        return None
    return last.finished + retry_delay(attempts)
