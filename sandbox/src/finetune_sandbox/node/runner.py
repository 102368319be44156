"""Everything outside a pod's life that it acts through: volumes, processes, logs of one pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_sandbox.node.containers import ContainerFolder, ContainerPlan, start_container, termination_message
from finetune_sandbox.node.environment import Setting
from finetune_sandbox.node.fields import PodAddress
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.logs import log_path
from finetune_sandbox.node.machine import Machine
from finetune_sandbox.node.process import Handle
from finetune_sandbox.node.sources import environment_references, fetch_sources
from finetune_sandbox.node.status import ContainerRecord
from finetune_sandbox.node.volumes import PodPlace, PodVolumes


class Runner(Protocol):
    """Runs the containers of one pod."""

    async def prepare(self) -> None:
        """Make what containers need; raises VolumeError or KubeError, and may then be tried again."""

    async def start(self, container: Json, record: ContainerRecord) -> Handle:
        """Start a container; raises ContainerConfigError or KubeError, and may then be tried again."""

    def message(self, container: Json, record: ContainerRecord, exit_code: int) -> str:
        """The termination message of the run that just ended."""

    async def refresh(self, pod: Json) -> None:
        """Bring generated volumes up to date with the API; raises VolumeError or KubeError."""

    def remove(self) -> None:
        """Delete the pod's files except its logs."""


@dataclass(frozen=True)
class PodSetting:
    """What is known of a pod when it comes to the node."""

    address: PodAddress
    allocatable: dict[str, str]
    place: PodPlace
    logs: Path

    @property
    def hosts_file(self) -> Path:
        """The pod's /etc/hosts."""
        return self.place.folder / "hosts"


class ProcessRunner:
    """Runs containers as processes."""

    def __init__(
        self, kube: Kube, pod: Json, machine: Machine, setting: PodSetting, log_changed: Callable[[], None]
    ) -> None:
        self._kube = kube
        self._pod = pod
        self._machine = machine
        self._setting = setting
        self._log_changed = log_changed
        self._volumes = PodVolumes(kube, pod, setting.place, setting.address, setting.allocatable)

    async def prepare(self) -> None:
        """Make the volumes."""
        await self._volumes.prepare()

    async def start(self, container: Json, record: ContainerRecord) -> Handle:
        """Look up what the environment refers to and start the process."""
        references = environment_references(container)
        sources = await fetch_sources(self._kube, self._pod["metadata"]["namespace"], references)
        setting = Setting(
            self._pod, self._setting.address, self._setting.allocatable, sources, self._machine.environment
        )
        plan = ContainerPlan(
            pod=self._pod,
            machine=self._machine,
            setting=setting,
            volumes=self._volumes.paths,
            hosts_file=self._setting.hosts_file,
            folder=self._folder(record),
            log=self._log(record),
        )
        return await start_container(container, plan, self._log_changed)

    def message(self, container: Json, record: ContainerRecord, exit_code: int) -> str:
        """Read the message file, or the log."""
        return termination_message(container, self._folder(record), self._log(record), exit_code)

    async def refresh(self, pod: Json) -> None:
        """Write generated volumes again where they changed."""
        self._pod = pod
        await self._volumes.refresh(pod)

    def remove(self) -> None:
        """Delete volumes and scratch folders."""
        self._setting.place.remove()

    def _folder(self, record: ContainerRecord) -> ContainerFolder:
        return ContainerFolder(self._setting.place.folder / "containers" / record.name / str(record.restarts))

    def _log(self, record: ContainerRecord) -> Path:
        return log_path(self._setting.logs, self._pod["metadata"], record.name, record.restarts)
