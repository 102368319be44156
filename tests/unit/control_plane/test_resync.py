"""What is looked at without being told to, and what that costs, over real connections."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client import Configuration

from finetune_api import PLURAL
from finetune_operator.handlers.watch import is_old_news
from finetune_operator.inventory import Inventory
from finetune_operator.kube import Kube
from finetune_operator.metrics import Metrics
from finetune_operator.progress import Reports
from finetune_operator.reconcile import Key, Reconciler
from finetune_operator.resync import Resync
from support.builders import NAMESPACE, NOW, POLICY, Object, stored
from support.fake_kube import FakeKube, put_job
from support.http_kube import HttpKube

FINISHED = 450


def named(name: str, **spec: Any) -> Object:
    job = stored(uid=f"uid-of-{name}", **spec)
    return job | {"metadata": job["metadata"] | {"name": name}}


def complete(job: Object) -> Object:
    condition = {"type": "Complete", "status": "True", "reason": "Published", "message": ""}
    said = {"lastTransitionTime": "2026-03-01T12:00:00Z", "observedGeneration": 1}
    return job | {"status": {"state": "Complete", "conditions": [condition | said]}}


class Scene:
    """Finished jobs and one that sleeps, on an API server that counts what it is asked."""

    def __init__(self, server: HttpKube, finished: int) -> None:
        self.server, self.asked = server, list[str]()
        self.kube = Kube(Configuration(host=f"http://127.0.0.1:{server.port}"))
        self.metrics = Metrics()
        self.reconciler = Reconciler(self.kube, POLICY, Reports(), lambda: NOW)
        self.resync = Resync(self.kube, (), 60, self.metrics, lambda key: None, self.reconciler.settled.get)
        self.requests: list[str] = []
        for number in range(finished):
            put_job(server.kube, complete(named(f"done-{number}")))
        put_job(server.kube, named("asleep", suspend=True))
        put_job(server.kube, named("foreign", managedBy="example.com/other"))
        server.refuse = self._count

    def _count(self, method: str, path: str) -> int:
        self.asked.append(f"{method} {path.rpartition('/')[2]}")
        return 0

    def tell_all(self) -> None:
        """The watches tell of everything."""
        with self.server.lock:
            for plural in (PLURAL, "jobs", "pods"):
                for item in self.server.kube.of(plural):
                    metadata = item["metadata"]
                    self.metrics.sight.told(plural, metadata["uid"], metadata["resourceVersion"])

    async def round(self) -> list[str]:
        """What one resync would have looked at; all of it is."""
        self.asked.clear()
        due = await self.resync.due()
        self.requests = list(self.asked)
        for key in due:
            await self.reconciler.reconcile(key)
        return sorted(key.name for key in due)


@pytest.fixture
def server() -> Iterator[HttpKube]:
    with HttpKube(FakeKube()) as server:
        yield server


async def test_finished_jobs_are_looked_at_until_nothing_is_left_to_do(server: HttpKube) -> None:
    scene = Scene(server, finished=3)
    # The first look may have something to write.
    for _ in range(2):
        assert await scene.round() == ["asleep", "done-0", "done-1", "done-2"]
        scene.tell_all()
    assert await scene.round() == ["asleep"]


async def test_looks_are_spread_over_the_interval(server: HttpKube) -> None:
    scene, looks = Scene(server, finished=3), list[float]()
    clock = asyncio.get_running_loop().time
    resync = Resync(scene.kube, (), 0.8, scene.metrics, lambda key: looks.append(clock()), lambda key: None)
    task = asyncio.create_task(resync.run())
    async with asyncio.timeout(60):
        while len(looks) < 4:
            await asyncio.sleep(0.01)
    task.cancel()
    assert all(later - earlier >= 0.19 for earlier, later in itertools.pairwise(looks))


async def test_an_api_server_that_refuses_lists_is_asked_again(server: HttpKube) -> None:
    scene = Scene(server, finished=0)
    server.refuse = lambda method, path: 403
    assert await scene.resync.due() == []
    server.refuse = lambda method, path: 0
    assert [key.name for key in await scene.resync.due()] == ["asleep"]


async def test_what_no_watch_told_of_is_looked_at(server: HttpKube) -> None:
    """A finished job that has changed, and one a child of which has."""
    scene = Scene(server, finished=3)
    for _ in range(2):
        await scene.round()
        scene.tell_all()
    with server.lock:
        server.kube.touch(next(job for job in server.kube.of(PLURAL) if job["metadata"]["name"] == "done-0"))
        labels = {"finetune.dev/job": "done-2", "finetune.dev/job-uid": "uid-of-done-2"}
        metadata = {"name": "left", "namespace": NAMESPACE, "labels": labels}
        server.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
    assert await scene.round() == ["asleep", "done-0", "done-2"]


async def test_a_round_over_many_finished_jobs_is_a_few_lists(server: HttpKube) -> None:
    scene = Scene(server, FINISHED)
    for job in server.kube.of(PLURAL):
        metadata = job["metadata"]
        if metadata["name"].startswith("done"):
            scene.reconciler.settled[Key(NAMESPACE, metadata["name"])] = metadata["resourceVersion"]
    assert await scene.round() == ["asleep"]
    # Three pages of jobs, and one of each kind of child.
    assert scene.requests == ["GET finetunejobs"] * 3 + ["GET jobs", "GET pods"]


def test_only_finished_jobs_that_were_there_are_old_news() -> None:
    done, other = complete(named("a")), named("a")
    assert is_old_news({"type": None, "object": done})
    assert not is_old_news({"type": "MODIFIED", "object": done})
    assert not is_old_news({"type": None, "object": other})


def test_inventory_keeps_what_is_listed() -> None:
    inventory = Inventory(lambda _: None)
    for name in ("a", "b"):
        inventory.see(complete(named(name)))
    inventory.keep({"uid-of-a"})
    assert sum(inventory.states().values()) == 1
