"""Pods on nodes that do not answer: they were told to end, and nobody will ever say that they did.

A Job does not count as failed while such a pod is there, and a node that is gone for good may keep its Node object, and
with it its pods, until somebody removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_api.outcomes import FailureClass
from finetune_operator.failures import Cause, failure
from finetune_operator.observation import Pod

# A kubelet kills what is left of a pod when its grace period is over, and says so within seconds.
_PATIENCE = timedelta(seconds=60)


def is_lost(pod: Pod, now: datetime) -> bool:
    """Whether a pod should have ended long ago."""
    return not pod.ended and pod.deadline is not None and now - pod.deadline > _PATIENCE


def abandoned(pods: Sequence[Pod], now: datetime) -> Cause | None:
    """Why an attempt is over none of whose pods will say anything any more, or None."""
    lost = [pod for pod in pods if is_lost(pod, now)]
    if not lost or not all(pod.ended or pod in lost for pod in pods):
        return None
    first = lost[0]
    message = f"pod {first.name} was told to end and did not: its node {first.node} does not answer"
    return Cause(failure(FailureClass.NODE_LOST, message), first.node)
