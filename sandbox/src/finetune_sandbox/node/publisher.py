"""Writes one pod's status to the API whenever it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from finetune_sandbox.node.errors import KubeError, KubeRefused
from finetune_sandbox.node.kube import STRATEGIC_PATCH, Json, Kube

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


def pod_path(pod: Json) -> str:
    """Where the API serves a pod."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def belongs_to_another(error: KubeError) -> bool:
    """Whether the pod is gone, or its name belongs to another pod by now."""
    return isinstance(error, KubeRefused) and error.code in (404, 409)


class StatusPublisher:
    """One write at a time, always of the newest status, repeated until the API server takes it.

    ``build`` makes the status, given the one that the API has.
    """

    def __init__(self, kube: Kube, pod: Json, build: Callable[[Json], Json]) -> None:
        self._kube = kube
        self._pod = pod
        self._build = build
        self._known: Json = pod.get("status") or {}
        self._sent: Json = {}
        self._dirty = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def changed(self) -> None:
        """Have the status written soon."""
        self._dirty.set()
        self._idle.clear()

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._write_until_taken()
            if not self._dirty.is_set():
                self._idle.set()

    async def _write_until_taken(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._write()
            except KubeError as error:
                if belongs_to_another(error):
                    return None
                _log.warning("status of pod %s not written: %s", self._pod["metadata"]["name"], error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _write(self) -> None:
        status = self._build(self._known)
        if status == self._sent:
            return
        # With the UID, the API server refuses the patch when another pod has taken the name.
        body = {"metadata": {"uid": self._pod["metadata"]["uid"]}, "status": status}
        answer = await self._kube.patch(f"{pod_path(self._pod)}/status", body, STRATEGIC_PATCH)
        self._sent, self._known = status, answer["status"]
