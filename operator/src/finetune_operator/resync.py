"""Looks at jobs now and then, whatever the watches have told: an event that was missed costs a minute, not a job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from finetune_api import API_VERSION, PLURAL
from finetune_operator.errors import KubeError
from finetune_operator.kube import Kube
from finetune_operator.metrics import Metrics
from finetune_operator.naming import JOB_LABEL, JOB_UID_LABEL
from finetune_operator.queueing import left_to_others
from finetune_operator.reconcile import Key, Object

logger = logging.getLogger(__name__)

_CHILDREN = (("batch/v1", "jobs"), ("v1", "pods"))


class Resync:
    """Lists everything once per interval, compares it with what the watches told, and asks for looks at jobs.

    The looks are spread over the interval, so that a job of which something is heard never waits behind thousands of
    which nothing is. Jobs that were finished when they were last looked at are left out until they, or children of
    theirs, have changed.
    """

    def __init__(
        self,
        kube: Kube,
        namespaces: tuple[str, ...],
        seconds: float,
        metrics: Metrics,
        look: Callable[[Key], None],
        settled: Callable[[Key], str | None],
    ) -> None:
        """``settled`` tells the version at which a job was found to need nothing more."""
        self._kube = kube
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._seconds = seconds
        self._metrics = metrics
        self._look = look
        self._settled = settled

    async def run(self) -> None:
        """For ever, the first time at once."""
        while True:
            await self._ask(await self.due())

    async def _ask(self, keys: list[Key]) -> None:
        for key in keys:
            self._look(key)
            await asyncio.sleep(self._seconds / len(keys))
        if not keys:
            await asyncio.sleep(self._seconds)

    async def due(self) -> list[Key]:
        """The jobs that are to be looked at; none when they cannot be listed."""
        try:
            found = await self._jobs()
            for version, plural in _CHILDREN:
                found |= await self._children(version, plural)
            return sorted(found, key=str)
        except KubeError as error:
            logger.warning("resync: %s", error)
        except Exception:
            # It is the last resort against every missed event: nothing may end it.
            logger.exception("resync: unexpected error")
        return []

    async def _jobs(self) -> set[Key]:
        found, versions = set(), {}
        async for page in self._pages(API_VERSION, PLURAL):
            for job in page:
                metadata = job["metadata"]
                versions[metadata["uid"]] = metadata["resourceVersion"]
                self._metrics.inventory.see(job)
                key = Key(metadata["namespace"], metadata["name"])
                if self._settled(key) != metadata["resourceVersion"] and not left_to_others(job):
                    found.add(key)
        self._metrics.inventory.keep(versions.keys())
        self._metrics.sight.listed(PLURAL, versions)
        return found

    async def _children(self, version: str, plural: str) -> set[Key]:
        """Jobs to whose children something has happened that no event has told of."""
        found, versions, sight = set(), {}, self._metrics.sight
        async for page in self._pages(version, plural, JOB_UID_LABEL, metadata_only=True):
            for child in page:
                metadata = child["metadata"]
                versions[metadata["uid"]] = metadata["resourceVersion"]
                owner = metadata["labels"].get(JOB_LABEL)
                if owner and sight.news(plural, metadata["uid"], metadata["resourceVersion"]):
                    found.add(Key(metadata["namespace"], owner))
        sight.listed(plural, versions)
        return found

    async def _pages(
        self, version: str, plural: str, selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Sequence[Object]]:
        """All objects of a kind in the namespaces that are served."""
        for namespace in self._namespaces:
            async for page in self._kube.pages(version, plural, namespace, selector, metadata_only):
                yield page
