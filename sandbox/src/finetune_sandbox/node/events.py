"""Kubernetes Events about pods, repeated ones counted instead of multiplied."""

from __future__ import annotations

import asyncio
import logging

from finetune_sandbox.node.errors import KubeError
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.times import now, timestamp

_log = logging.getLogger(__name__)
COMPONENT = "finetune-sandbox-node"
# Events remembered for counting; the oldest are forgotten first.
_REMEMBERED = 4096


class EventRecorder:
    """Writes Events in the background; an Event that cannot be written is logged, never raised."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._seen: dict[tuple[str, str, str], Json] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, pod: Json, kind: str, reason: str, message: str) -> None:
        """Tell the pod's readers what happened."""
        task = asyncio.create_task(self._write(pod, kind, reason, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, pod: Json, kind: str, reason: str, message: str) -> None:
        key = (pod["metadata"]["uid"], reason, message)
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/events"
        earlier = self._seen.pop(key, None)
        try:
            if earlier is None:
                self._seen[key] = await self._kube.create(path, event_object(pod, kind, reason, message))
            else:
                count = {"count": earlier["count"] + 1, "lastTimestamp": timestamp(now())}
                self._seen[key] = await self._kube.patch(f"{path}/{earlier['metadata']['name']}", count)
        except KubeError as error:
            # A namespace that is being deleted takes no events.
            _log.info("event %s of pod %s not recorded: %s", reason, pod["metadata"]["name"], error)
        while len(self._seen) > _REMEMBERED:
            self._seen.pop(next(iter(self._seen)))


def event_object(pod: Json, kind: str, reason: str, message: str) -> Json:
    """An Event that says something of a pod for the first time."""
    metadata = pod["metadata"]
    at = timestamp(now())
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name'][:50]}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT, "host": pod["spec"].get("nodeName", "")},
        "reportingComponent": COMPONENT,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
