"""The newest checkpoint of a job, where schedulers find it: in its status, and as an annotation.

Reports of running pods bring it while the operator hears them; the last word of a pod that has ended is in its
termination message, which waits for an operator that was away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, KIND, PLURAL
from finetune_api.conditions import is_true
from finetune_api.outcomes import Stage
from finetune_api.results import Checkpoint
from finetune_api.status import ConditionType, FineTuneJobStatus
from finetune_operator.kube import Kube
from finetune_operator.naming import CHECKPOINT_ANNOTATION, CHECKPOINT_MANAGER
from finetune_operator.observation import Observation

Object = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """What a job says of its newest checkpoint, as JSON documents; None for nothing."""

    status: Object | None
    annotation: str | None


def published(manifest: Object) -> Published:
    """What a job says now."""
    return Published(
        status=(manifest.get("status") or {}).get("checkpoint"),
        annotation=(manifest["metadata"].get("annotations") or {}).get(CHECKPOINT_ANNOTATION),
    )


def wanted(seen: Observation, status: FineTuneJobStatus) -> Published:
    """What it should say. The checkpoints of a run that was published are gone, unless they were to be kept."""
    kept = (seen.manifest["spec"].get("checkpoint") or {}).get("keepAfterSuccess", False)
    if is_true(status.conditions, ConditionType.COMPLETE) and not kept:
        return Published(None, None)
    newest = _last_word(seen, status)
    if newest is None and status.checkpoint is None:
        return Published(None, None)
    return _both(newest or status.checkpoint)


def _both(checkpoint: Checkpoint | None) -> Published:
    return Published(checkpoint.to_wire(), checkpoint.to_json()) if checkpoint else Published(None, None)


def _last_word(seen: Observation, status: FineTuneJobStatus) -> Checkpoint | None:
    """What a pod of the last attempt said when it ended."""
    number = status.attempts[-1].number if status.attempts else 0
    said = [pod.outcome.checkpoint for pod in seen.pods_of(Stage.TRAIN, number) if pod.outcome]
    return next((checkpoint for checkpoint in said if checkpoint), None)


async def tell(kube: Kube, identity: Object, what: Published) -> str:
    """Writes both, over the version of the job that ``identity`` (its metadata) names, if it names one. Returns the
    job's version then.

    Raises:
        Conflict: the job has changed since.
        KubeError: refused, or no answer.
    """
    status = {"checkpoint": what.status} if what.status else {}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": identity}
    written = await kube.apply_status(document | {"status": status}, PLURAL, CHECKPOINT_MANAGER)
    annotations = {"annotations": {CHECKPOINT_ANNOTATION: what.annotation} if what.annotation else {}}
    version = {"resourceVersion": written["metadata"]["resourceVersion"]} if "resourceVersion" in identity else {}
    written = await kube.apply(document | {"metadata": identity | version | annotations}, PLURAL, CHECKPOINT_MANAGER)
    return str(written["metadata"]["resourceVersion"])


async def tell_of(kube: Kube, identity: Object, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint that a report brought."""
    await tell(kube, identity, _both(checkpoint))
