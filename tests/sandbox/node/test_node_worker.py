"""The end of a pod on the node, whatever happens to its files meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from finetune_sandbox.node.events import EventRecorder
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.recovery import initial_facts
from finetune_sandbox.node.simulation import RUN_SECONDS, SimulatedRunner
from finetune_sandbox.node.times import now
from finetune_sandbox.node.worker import PodServices, PodWorker
from finetune_sandbox.trees import remove_tree

POD: Json = {
    "metadata": {"namespace": "team", "name": "pod", "uid": "u", "annotations": {RUN_SECONDS: "0.05"}},
    "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]},
}


class Api:
    """Takes every status."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    async def create(self, path: str, body: Json) -> Json:
        return body | {"count": 1}

    async def patch(self, path: str, body: Any, kind: str = "") -> Json:
        self.phases.append(body["status"]["phase"])
        return cast(Json, body)


class Runner(SimulatedRunner):
    """Has a folder whose removal fails, or whose refresh is still writing when the container ends."""

    def __init__(self, folder: Path, broken: bool = False) -> None:
        super().__init__(POD)
        self.folder, self.broken, self.removals = folder, broken, 0
        self.refreshing = asyncio.Event()

    async def refresh(self, pod: Json) -> None:
        self.refreshing.set()
        await asyncio.sleep(0.3)
        (self.folder / "volumes").mkdir(parents=True)

    def remove(self) -> None:
        self.removals += 1
        if self.broken:
            raise OSError(39, "Directory not empty")
        remove_tree(self.folder)


def worker_of(api: Api, runner: Runner) -> PodWorker:
    kube = cast(Kube, api)
    services = PodServices(kube, EventRecorder(kube), runner, lambda: None)
    return PodWorker(services, POD, initial_facts(POD, "127.0.0.1", "127.1.2.3", now()))


async def until(api: Api, phase: str) -> None:
    async with asyncio.timeout(30):
        while phase not in api.phases:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("broken", [False, True])
async def test_the_end_is_told_while_files_are_written(tmp_path: Path, broken: bool) -> None:
    """A volume that is being refreshed when its pod ends is removed too, and what cannot be removed ends nobody."""
    api, runner = Api(), Runner(tmp_path / "pod", broken)
    worker = worker_of(api, runner)
    life = asyncio.create_task(worker.run())
    await until(api, "Running")
    refresh = asyncio.create_task(worker.refresh())
    await runner.refreshing.wait()
    await until(api, "Succeeded")
    await refresh
    async with asyncio.timeout(30):
        while not runner.removals or (tmp_path / "pod").exists() != broken:
            await asyncio.sleep(0.01)
    runner.refreshing.clear()
    await worker.refresh()
    assert not runner.refreshing.is_set(), "a pod that has ended was refreshed"
    assert not life.done()
    worker.forget()
    async with asyncio.timeout(30):
        await life
