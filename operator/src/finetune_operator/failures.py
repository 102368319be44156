"""Why an attempt ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.outcomes import CLASS_OF_EXIT_CODE, ExitCode, Failure, FailureClass
from finetune_api.status import AttemptStatus
from finetune_operator.observation import ChildJob, Pod

_LONGEST_MESSAGE = 2048

REMEDIES = {
    FailureClass.USER_ERROR: "Correct the manifest and create the FineTuneJob again.",
    FailureClass.DATA_ERROR: "Correct the data and create the FineTuneJob again.",
    FailureClass.OUT_OF_MEMORY: "Raise spec.resources.memory, or lower spec.deepspeed.microBatchSize or "
    "spec.hyperparameters.maxSequenceLength, or set spec.hyperparameters.gradientCheckpointing.",
    FailureClass.DIVERGED: "Lower spec.hyperparameters.learningRate, add warmupSteps, or look at the data.",
    FailureClass.STORAGE: "See that the store answers and has room, then create the FineTuneJob again.",
    FailureClass.RENDEZVOUS: "See that the pods can reach each other (NetworkPolicies, DNS of headless Services).",
    FailureClass.HUNG: "Look at the stacks of all ranks, in diagnostics/ beside the artifact, and at the pods' "
    "logs, for what the rank that stopped was doing.",
    FailureClass.PREEMPTED: "See what preempted the pods, such as pods of a higher priority, then create the "
    "FineTuneJob again.",
    FailureClass.DEVICE_MISSING: "See that the nodes have the GPU driver and device plugin, and that "
    "spec.resources.gpuResourceName is theirs; or set spec.resources.gpusPerNode to 0 to train on the CPU.",
    FailureClass.VERIFICATION: "Look at the store: what was written could not be read back intact.",
    FailureClass.INTERNAL: "Look at the pods' logs; if the cause is not in your manifest or data, please report it.",
    FailureClass.POD_LOST: "See what ended the pods (kubectl get events), then create the FineTuneJob again, with a "
    "higher spec.backoffLimit where that is usual.",
    FailureClass.DISRUPTED: "See what takes the nodes (drains, pods of a higher priority, an autoscaler), then create "
    "the FineTuneJob again.",
    FailureClass.NODE_LOST: "See why the node is gone (kubectl get nodes), then create the FineTuneJob again.",
    FailureClass.EVICTED: "The node ran short of memory or disk: lower what the pod uses, raise spec.resources.memory, "
    "or give the nodes more room, then create the FineTuneJob again.",
    FailureClass.DEADLINE_EXCEEDED: "Give the pods more time: see which deadline ended them (kubectl describe pod).",
    FailureClass.IMAGE_PULL: "See that the operator's --trainer-image exists and that the nodes may pull it "
    "(kubectl describe pod), then create the FineTuneJob again.",
    FailureClass.SECRET_MISSING: "Create the Secret in the namespace of the job, and once the job has failed create "
    "the FineTuneJob again.",
    FailureClass.UNSCHEDULABLE: "Ask for what the nodes have, or add nodes.",
}

# What a rank says when another one vanished under it: not a cause of its own.
_ECHOES = frozenset({FailureClass.INTERNAL, FailureClass.RENDEZVOUS, FailureClass.PREEMPTED})

# A process that a signal ended leaves 128 plus the number of the signal, of which there are 64.
_FIRST_SIGNAL, _LAST_SIGNAL = 128, 192

# https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions and the kubelet's reasons.
_CLASS_OF_DISRUPTION = {
    "PreemptionByScheduler": FailureClass.DISRUPTED,
    "EvictionByEvictionAPI": FailureClass.DISRUPTED,
    "TerminationByKubelet": FailureClass.DISRUPTED,
    "Preempting": FailureClass.DISRUPTED,
    "Terminated": FailureClass.DISRUPTED,
    "NodeShutdown": FailureClass.DISRUPTED,
    "Shutdown": FailureClass.DISRUPTED,
    "DeletionByTaintManager": FailureClass.NODE_LOST,
    "DeletionByPodGC": FailureClass.NODE_LOST,
    "NodeLost": FailureClass.NODE_LOST,
    "Evicted": FailureClass.EVICTED,
    "DeadlineExceeded": FailureClass.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended, and the node of the pod that ended it, where one pod did."""

    failure: Failure
    node: str | None = None


def failure_of_pod(pod: Pod) -> Failure | None:
    """What one ended pod says of itself; None if it succeeded or has not ended."""
    own = pod.outcome.failure if pod.outcome else None
    if own and not (pod.disrupted and own.failure_class in _ECHOES):
        return own
    if pod.oom_killed:
        return failure(FailureClass.OUT_OF_MEMORY, f"pod {pod.name} was killed for using more memory than its limit")
    if pod.disrupted and pod.exit_code != ExitCode.SUCCESS:
        return _disrupted(pod.name, *pod.disrupted)
    if pod.exit_code in (None, ExitCode.SUCCESS):
        return None
    if _FIRST_SIGNAL < pod.exit_code <= _LAST_SIGNAL:
        return failure(FailureClass.POD_LOST, f"pod {pod.name} was killed by signal {pod.exit_code - _FIRST_SIGNAL}")
    kind = CLASS_OF_EXIT_CODE.get(pod.exit_code, FailureClass.INTERNAL)
    return failure(kind, f"pod {pod.name} ended with exit code {pod.exit_code}")


def _disrupted(name: str, reason: str, message: str) -> Failure:
    kind = _CLASS_OF_DISRUPTION.get(reason, FailureClass.POD_LOST)
    words = f"{reason}: {message}" if message else reason
    return failure(kind, f"pod {name} was ended by the cluster ({words})")


def failure(kind: FailureClass, message: str) -> Failure:
    """A failure with the remedy of its class."""
    return Failure(failure_class=kind, message=message[:2048], remedy=REMEDIES[kind])


def cause_so_far(pods: Sequence[Pod], nodes: int) -> Cause | None:
    """What is known of the end of an attempt whose Job has not ended yet; its pods may be gone by then.

    A rank that only lost a peer says nothing yet. A pod that was deleted and stopped in order does, unless another one
    is gone already: then it was deleted for that one's sake.
    """
    ended = [(pod, found) for pod in pods if (found := failure_of_pod(pod))]
    causes = [(pod, found) for pod, found in ended if found.failure_class not in _ECHOES]
    if causes:
        pod, found = min(causes, key=lambda item: _when(item[0]))
        return Cause(found, pod.node)
    if set(range(nodes)) - {pod.index for pod in pods}:
        return None
    lost = _lost_pod(pods, [pod for pod, found in ended if found.failure_class is not FailureClass.PREEMPTED])
    return _deleted(lost) if lost and lost.outcome else None


def cause_of_attempt(
    job: ChildJob | None, pods: Sequence[Pod], nodes: int, known: AttemptStatus | None = None
) -> Cause:
    """The root cause of a failed attempt.

    One rank's failure takes the others down with it: a rank that names its own cause counts before those that only
    lost a peer; among those, a pod whose deletion was asked for first is the cause. ``known`` is the attempt with what
    was seen while it ended: it counts where the pods are gone by now.
    """
    ended = [(pod, found) for pod in pods if (found := failure_of_pod(pod))]
    causes = [(pod, found) for pod, found in ended if found.failure_class not in _ECHOES]
    if causes:
        pod, found = min(causes, key=lambda item: _when(item[0]))
        return Cause(found, pod.node)
    if job is None:
        return _remembered(known) or Cause(failure(FailureClass.POD_LOST, "the Job was deleted"))
    lost = _lost_pod(pods, [pod for pod, found in ended if found.failure_class is not FailureClass.PREEMPTED])
    if lost:
        return _deleted(lost)
    gone = sorted(set(range(nodes)) - {pod.index for pod in pods})
    if gone:
        return _remembered(known) or Cause(failure(FailureClass.POD_LOST, _gone(gone)))
    if ended:
        pod, found = min(ended, key=lambda item: (item[1].failure_class is FailureClass.PREEMPTED, _when(item[0])))
        return Cause(found, pod.node)
    return Cause(failure(FailureClass.POD_LOST, f"the attempt ended without a result ({job.message})"))


def _deleted(pod: Pod) -> Cause:
    """A pod that stopped in order when it was told to lost nothing."""
    own = pod.outcome.failure if pod.outcome else None
    kind = FailureClass.PREEMPTED if own else FailureClass.POD_LOST
    return Cause(failure(kind, f"pod {pod.name} was deleted"), None)


def _remembered(attempt: AttemptStatus | None) -> Cause | None:
    if attempt is None or attempt.outcome not in set(FailureClass):
        return None
    return Cause(failure(FailureClass(attempt.outcome), attempt.message or attempt.outcome), attempt.node)


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


def problems_of(error: ValidationError) -> list[str]:
    """What is wrong with a spec that the API server took under an older schema, or that lacks what a profile could
    have given."""
    return [
        f"{'.'.join(map(str, item['loc']))}: {'Required value' if item['type'] == 'missing' else item['msg']}"
        for item in error.errors()
    ]


def all_of(problems: Sequence[str]) -> str:
    """Everything that is wrong, one line each where there is more than one, within what a status may hold."""
    text = problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
