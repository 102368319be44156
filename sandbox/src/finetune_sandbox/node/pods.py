"""All pods of the agent's nodes: brings each change in the API to the worker of its pod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from finetune_sandbox.layout import memory_folder
from finetune_sandbox.node.config import AgentConfig
from finetune_sandbox.node.errors import KubeError, VolumeError
from finetune_sandbox.node.events import EventRecorder
from finetune_sandbox.node.fields import PodAddress
from finetune_sandbox.node.follow import follow
from finetune_sandbox.node.hosts import choose_address, pod_name
from finetune_sandbox.node.hosts_files import HostsFiles
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.machine import Machine
from finetune_sandbox.node.nodes import HOST_IP
from finetune_sandbox.node.recovery import initial_facts
from finetune_sandbox.node.runner import PodSetting, ProcessRunner, Runner
from finetune_sandbox.node.services import service_lines
from finetune_sandbox.node.simulation import SimulatedRunner
from finetune_sandbox.node.status import TERMINAL, pod_phase
from finetune_sandbox.node.times import now
from finetune_sandbox.node.volumes import PodPlace
from finetune_sandbox.node.worker import PodServices, PodWorker
from finetune_sandbox.trees import remove_tree

_log = logging.getLogger(__name__)
# Seconds between two looks at the sources of mounted ConfigMaps, Secrets and tokens.
_REFRESH_PERIOD = 10.0


class PodKeeper:
    """Keeps one worker for each pod that is bound to one of the agent's nodes."""

    def __init__(self, kube: Kube, config: AgentConfig, machine: Machine) -> None:
        self._kube = kube
        self._config = config
        self._machine = machine
        self._nodes = {node.name: node for node in config.nodes}
        self._events = EventRecorder(kube)
        self._hosts = HostsFiles()
        self._services: dict[str, Json] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # What the API has, by UID, and the nodes that take no notice of it.
        self._known: dict[str, Json] = {}
        self._lost: set[str] = set()
        self.workers: dict[str, PodWorker] = {}
        # Called whenever a log has grown or a container has ended.
        self.log_listeners: set[Callable[[], None]] = set()

    async def run(self) -> None:
        """Follow the API for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_pods())
            tasks.create_task(self._follow_services())
            tasks.create_task(self._refresh())

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod, of the newest one when an older pod of that name is still ending."""
        for worker in reversed(list(self.workers.values())):
            if worker.pod["metadata"]["namespace"] == namespace and worker.pod["metadata"]["name"] == name:
                return worker
        return None

    def remove_leftovers(self) -> None:
        """Delete the files of pods whose agent was killed."""
        for folder in (self._config.state_dir / "pods", self._memory()):
            remove_tree(folder)

    async def shut_down(self) -> None:
        """End every process at once; statuses are not written, because the cluster goes down as well."""
        await self._abandon(list(self.workers))
        self.remove_leftovers()

    def on_node(self, node: str) -> list[PodWorker]:
        """The workers of a node's pods."""
        return [worker for worker in self.workers.values() if worker.pod["spec"]["nodeName"] == node]

    async def lose(self, node: str) -> None:
        """Have a node vanish: its processes end, nothing is written about its pods, and what is asked is not heard."""
        self._lost.add(node)
        await self._abandon([worker.pod["metadata"]["uid"] for worker in self.on_node(node)])

    def restore(self, node: str) -> None:
        """A node that was lost is back, as after a reboot: what ran is gone, and is said to be."""
        if node in self._lost:
            self._lost.discard(node)
            for pod in [pod for pod in self._known.values() if pod["spec"]["nodeName"] == node]:
                self._admit(pod)

    async def _abandon(self, uids: list[str]) -> None:
        """End the processes of pods without a word to the API."""
        workers = [self.workers[uid] for uid in uids]
        tasks = [self._tasks[uid] for uid in uids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(exited for worker in workers for exited in worker.kill()))

    async def _follow_pods(self) -> None:
        async for change in follow(self._kube, "/api/v1/pods", fieldSelector="spec.nodeName!="):
            if change.kind == "SYNCED" or change.object["spec"]["nodeName"] not in self._nodes:
                continue
            self._take(change.object, gone=change.kind == "GONE")
            self._resolve_services()

    def _take(self, pod: Json, gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        worker = self.workers.get(uid)
        if gone:
            self._known.pop(uid, None)
            if worker:
                worker.forget()
            return
        self._known[uid] = pod
        if worker:
            worker.update(pod)
        elif pod["spec"]["nodeName"] not in self._lost:
            self._admit(pod)

    async def _follow_services(self) -> None:
        async for change in follow(self._kube, "/api/v1/services"):
            if change.kind == "SYNCED":
                continue
            uid = change.object["metadata"]["uid"]
            if change.kind == "GONE":
                self._services.pop(uid, None)
            else:
                self._services[uid] = change.object
            self._resolve_services()

    def _resolve_services(self) -> None:
        self._hosts.set_services(
            service_lines(self._services.values(), (worker.pod for worker in self.workers.values()))
        )

    def _admit(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        address = self._address(pod)
        runner = SimulatedRunner(pod) if self._config.simulate else self._process_runner(pod, address)
        facts = initial_facts(pod, HOST_IP, address, now())
        services = PodServices(self._kube, self._events, runner, lambda: self._hosts.remove(uid))
        worker = PodWorker(services, pod, facts)
        self.workers[uid] = worker
        task = asyncio.create_task(worker.run())
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._release(uid, done))

    def _release(self, uid: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(uid, None)
        self._hosts.remove(uid)
        self.workers.pop(uid, None)
        if not task.cancelled() and task.exception():
            _log.error("the worker of pod %s ended", uid, exc_info=task.exception())

    def _address(self, pod: Json) -> str:
        known = str((pod.get("status") or {}).get("podIP") or "")
        taken = {worker.facts.pod_ip for worker in self.workers.values()}
        return known or choose_address(pod["metadata"]["uid"], taken)

    def _process_runner(self, pod: Json, address: str) -> Runner:
        uid = pod["metadata"]["uid"]
        setting = PodSetting(
            address=PodAddress(address, HOST_IP),
            allocatable=self._nodes[pod["spec"]["nodeName"]].resources(),
            place=PodPlace(self._config.state_dir / "pods" / uid, self._memory() / uid),
            logs=self._config.log_dir,
        )
        if (pod.get("status") or {}).get("phase") not in TERMINAL:
            self._hosts.add(uid, pod_name(pod, address), setting.hosts_file, pod["spec"].get("hostAliases") or [])
        return ProcessRunner(self._kube, pod, self._machine, setting, self._log_changed)

    def _memory(self) -> Path:
        """Where volumes of medium Memory are: on disk when the machine has no shared memory."""
        if self._machine.memory is None:
            return self._config.state_dir / "memory"
        return memory_folder(self._machine.memory, self._config.state_dir)

    def _log_changed(self) -> None:
        for listener in list(self.log_listeners):
            listener()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_PERIOD)
            for worker in list(self.workers.values()):
                if pod_phase(worker.facts) not in TERMINAL:
                    await self._refresh_pod(worker)

    async def _refresh_pod(self, worker: PodWorker) -> None:
        try:
            await worker.refresh()
        except (KubeError, VolumeError) as error:
            # As with the kubelet, a source that disappears leaves the mounted files as they are.
            _log.info("refreshing volumes of pod %s: %s", worker.pod["metadata"]["name"], error)
