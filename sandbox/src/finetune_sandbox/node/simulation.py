"""Containers that are only reported: for tests of scale, where thousands of processes would say nothing more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.process import ExitStatus, Handle
from finetune_sandbox.node.status import ContainerRecord
from finetune_sandbox.processes import Identity

# How many seconds a simulated pod runs before it succeeds; without it, until it is deleted.
RUN_SECONDS = "sandbox.finetune.dev/run-seconds"


@dataclass
class SimulatedContainer:
    """Ends with exit code 0 after ``seconds``, or at a signal as a process would."""

    seconds: float | None
    started: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    exited: asyncio.Future[ExitStatus] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.started.set_result(True)
        if self.seconds is not None:
            asyncio.get_running_loop().call_later(self.seconds, self._end, ExitStatus(0))

    def signal(self, number: int) -> None:
        """End as a process that does not handle the signal."""
        self._end(ExitStatus(128 + number, number))

    def kill(self) -> None:
        """End as a process that was killed."""
        self._end(ExitStatus(137, 9))

    def processes(self) -> list[Identity]:
        """There are none."""
        return []

    def _end(self, status: ExitStatus) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


def run_seconds(pod: Json) -> float | None:
    """What the pod's annotation says; None without it or when it is no number."""
    text = (pod["metadata"].get("annotations") or {}).get(RUN_SECONDS, "")
    try:
        return float(text)
    except ValueError:
        return None


class SimulatedRunner:
    """Runs nothing."""

    def __init__(self, pod: Json) -> None:
        self._pod = pod
        self._init = {container["name"] for container in pod["spec"].get("initContainers") or []}

    async def prepare(self) -> None:
        """Simulated containers need nothing."""

    async def start(self, container: Json, record: ContainerRecord) -> Handle:
        """Report a start; init containers end at once."""
        return SimulatedContainer(0.0 if record.name in self._init else run_seconds(self._pod))

    def message(self, container: Json, record: ContainerRecord, exit_code: int) -> str:
        """Simulated containers leave no message."""
        return ""

    async def refresh(self, pod: Json) -> None:
        """Simulated containers have no volumes."""

    def remove(self) -> None:
        """Simulated containers leave no files."""
