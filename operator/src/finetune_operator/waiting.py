"""Pods that do not run yet: what they wait for, and for how long that may go on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.outcomes import Failure, FailureClass
from finetune_operator.failures import failure
from finetune_operator.observation import Pod

CONFIG_ERROR = "CreateContainerConfigError"
_IMAGE_ERRORS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
# The scheduler's words.
_NO_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_NO_PROBLEM = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True)
class Waits:
    """How long each may take."""

    secret: timedelta
    image: timedelta
    gang: timedelta

    def staggered(self, uid: str) -> Waits:
        """With a gang's wait between once and twice as long, by the job's UID: two gangs that hold what the other one
        needs would otherwise give it up, and take it again, in step."""
        share = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4], "big") / 2**32
        return replace(self, gang=self.gang * (1 + share))


@dataclass(frozen=True)
class Block:
    """Why an attempt cannot begin, on which node, and how much longer that is waited for."""

    failure: Failure
    left: timedelta
    node: str | None = None


def waiting_for(pods: Sequence[Pod]) -> str | None:
    """Why pods do not run yet, in the words of the scheduler or the kubelet."""
    for pod in pods:
        if pod.unschedulable:
            return f"pod {pod.name} cannot be scheduled: {pod.unschedulable}"[:1024]
        if pod.waiting and pod.waiting[0] not in _NO_PROBLEM:
            return f"pod {pod.name} cannot start: {pod.waiting[0]}: {pod.waiting[1]}"[:1024]
    return None


def missing_claim(pods: Sequence[Pod], namespace: str) -> str | None:
    """Which PersistentVolumeClaim pods wait for because it does not exist, and what to do; None where none is."""
    found = (_NO_CLAIM.search(pod.unschedulable) for pod in pods if pod.unschedulable)
    name = next((match[1] for match in found if match), None)
    if name is None:
        return None
    return (
        f"the PersistentVolumeClaim {name!r} does not exist in namespace {namespace}. Create it, and the job goes on; "
        "or correct pvc:// or cacheClaim in a FineTuneJob of another name."
    )


def blocked(pods: Sequence[Pod], waits: Waits, now: datetime, avoiding: bool, short: str | None = None) -> Block | None:
    """What keeps an attempt from beginning, if it is not just the queue; of several, what ends first.

    A gang none of whose pods is placed waits in the scheduler's queue as long as it takes, unless ``avoiding`` nodes
    may be what it waits for. ``short`` names the quota that some pods are not even made for.
    """
    first = min((pod.scheduled for pod in pods if pod.scheduled), default=None)
    found = [block for pod in pods if (block := _block(pod, waits, now, first, avoiding))]
    if short and first:
        message = f"some pods could not be made for {_minutes(waits.gang)}: {short}"
        found.append(Block(failure(FailureClass.UNSCHEDULABLE, message), first + waits.gang - now))
    return min(found, key=lambda block: block.left, default=None)


def _block(pod: Pod, waits: Waits, now: datetime, first: datetime | None, avoiding: bool) -> Block | None:
    since = pod.scheduled or pod.created or now
    if pod.waiting and pod.waiting[0] == CONFIG_ERROR:
        return Block(failure(FailureClass.SECRET_MISSING, _cannot_start(pod)), since + waits.secret - now)
    if pod.waiting and pod.waiting[0] in _IMAGE_ERRORS:
        return Block(failure(FailureClass.IMAGE_PULL, _cannot_start(pod)), since + waits.image - now, pod.node)
    waiting_since = first or (pod.created if avoiding else None)
    if pod.unschedulable and waiting_since:
        message = f"pod {pod.name} could not be placed for {_minutes(waits.gang)}: {pod.unschedulable}"
        return Block(failure(FailureClass.UNSCHEDULABLE, message), waiting_since + waits.gang - now)
    return None


def _cannot_start(pod: Pod) -> str:
    reason, message = pod.waiting or ("", "")
    return f"pod {pod.name} could not start: {reason}: {message}"


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.1f} min"
