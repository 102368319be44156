"""Pods that nobody will hear of any more: they were told to end, or seem to run, on nodes that are broken.

A Job does not count as failed while such a pod is there, and a node that is gone for good may keep its Node object, and
with it its pods, until somebody removes it. Ranks of a training find each other frozen; a prepare pod is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_api.outcomes import FailureClass, Stage
from finetune_operator.failures import Cause, failure
from finetune_operator.hearing import Silence
from finetune_operator.observation import Pod

# A kubelet kills what is left of a pod when its grace period is over, and says so within seconds.
_PATIENCE = timedelta(seconds=60)
# A prepare pod that gets on says so once a minute.
_SILENT = timedelta(minutes=10)
# One that was never heard of may only be kept from reaching the operator.
_NEVER_HEARD = timedelta(hours=1)


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


def preparing_pod(pods: Sequence[Pod]) -> Pod | None:
    """The newest prepare pod that runs as far as its node says."""
    running = [pod for pod in pods if pod.stage is Stage.PREPARE and pod.phase == "Running" and pod.deleted_at is None]
    return max((pod for pod in running if pod.created), key=lambda pod: str(pod.created), default=None)


def silenced(pods: Sequence[Pod], silence: Silence | None) -> Cause | None:
    """Why the preparation of an attempt is over whose pod runs and gets no further, or None.

    Args:
        pods: those of this preparation.
        silence: of the newest prepare pod of the job.
    """
    pod = preparing_pod(pods)
    if pod is None or silence is None or silence.lasting <= (_SILENT if silence.spoken else _NEVER_HEARD):
        return None
    minutes = int(silence.lasting.total_seconds() // 60)
    words = f"said for {minutes} min that it gets on" if silence.spoken else f"been heard of for {minutes} min"
    message = f"prepare pod {pod.name} on node {pod.node} runs and has not {words}"
    return Cause(failure(FailureClass.POD_LOST, message), pod.node)
