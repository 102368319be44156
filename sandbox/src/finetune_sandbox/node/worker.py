"""The life of one pod on the node, from its arrival until it is gone from the API."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass

from finetune_sandbox.node.errors import ContainerConfigError, KubeError, VolumeError
from finetune_sandbox.node.events import EventRecorder
from finetune_sandbox.node.kube import Json, Kube
from finetune_sandbox.node.process import ExitStatus, Handle
from finetune_sandbox.node.publisher import StatusPublisher, belongs_to_another, pod_path
from finetune_sandbox.node.restart import Backoff, restarts
from finetune_sandbox.node.runner import Runner
from finetune_sandbox.node.status import (
    CREATING,
    INITIALIZING,
    TERMINAL,
    ContainerRecord,
    PodFacts,
    Running,
    Terminated,
    Waiting,
    build_status,
)
from finetune_sandbox.node.times import now
from finetune_sandbox.processes import Identity

_log = logging.getLogger(__name__)
# Seconds between two tries to prepare what a pod needs and does not find.
_RETRY_PERIOD = 2.0


@dataclass(frozen=True)
class PodServices:
    """What a worker acts through."""

    kube: Kube
    events: EventRecorder
    runner: Runner
    # Called when the pod's containers have ended for good.
    ended: Callable[[], None]


class PodWorker:
    """Runs one pod. ``update`` and ``forget`` bring in what the API says; ``run`` is the life itself."""

    def __init__(self, services: PodServices, pod: Json, facts: PodFacts) -> None:
        self.pod = pod
        self.facts = facts
        self._services = services
        self._publisher = StatusPublisher(services.kube, pod, self._status)
        self._processes: dict[str, Handle] = {}
        self._stop = asyncio.Event()
        self._deletion = asyncio.Event()
        # Held while files of the pod are written or removed: what is written during the removal would outlast it.
        self._files = asyncio.Lock()
        self._gone = False
        self._kill_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Live, report, and once deletion is asked for and all processes have ended, remove the pod from the API."""
        publisher = asyncio.create_task(self._publisher.run())
        try:
            self._observe(self.pod)
            if self.pod.get("status", {}).get("phase") not in TERMINAL:
                await self._live_until_stopped()
            self._services.ended()
            await self._remove_files()
            await self._deletion.wait()
            if not self._gone:
                await self._publisher.flush()
                await self._delete()
        finally:
            publisher.cancel()
            self._cancel_timers()

    def update(self, pod: Json) -> None:
        """Take in a newer version of the pod."""
        self.pod = pod
        self._observe(pod)

    def forget(self) -> None:
        """The pod is gone from the API: end everything at once and write nothing any more."""
        self._gone = True
        self._deletion.set()
        self._request_stop(0)

    def kill(self) -> list[asyncio.Future[ExitStatus]]:
        """End every process; what to wait for."""
        for process in self._processes.values():
            process.kill()
        return [process.exited for process in self._processes.values()]

    def evict(self, message: str) -> None:
        """End every process at once and say that the node is short of something, as a kubelet does."""
        self.facts.reason, self.facts.message, self.facts.disruption = "Evicted", message, "TerminationByKubelet"
        self._request_stop(0)

    def processes(self) -> list[Identity]:
        """Processes of all containers."""
        return [process for handle in self._processes.values() for process in handle.processes()]

    async def refresh(self) -> None:
        """Bring generated volumes up to date while the pod runs."""
        async with self._files:
            if any(isinstance(record.state, Running) for record in self.facts.init_containers + self.facts.containers):
                await self._services.runner.refresh(self.pod)

    async def _remove_files(self) -> None:
        """Remove what the pod no longer needs. Files that stay do no harm; a pod whose end nobody hears of does."""
        async with self._files:
            try:
                await asyncio.to_thread(self._services.runner.remove)
            except OSError as error:
                _log.warning("files of pod %s stay: %s", self.pod["metadata"]["name"], error)

    def _status(self, known: Json) -> Json:
        return build_status({**self.pod, "status": known}, self.facts, now())

    def _observe(self, pod: Json) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            self._deletion.set()
            self._request_stop(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        self._watch_deadline(pod["spec"].get("activeDeadlineSeconds"))

    def _watch_deadline(self, seconds: int | None) -> None:
        if self._deadline_timer:
            self._deadline_timer.cancel()
        if seconds is not None and not self._stop.is_set():
            left = seconds - (now() - self.facts.start_time).total_seconds()
            self._deadline_timer = asyncio.get_running_loop().call_later(max(left, 0), self._deadline_passed)

    def _deadline_passed(self) -> None:
        if self.facts.finished:
            return
        self.facts.reason = "DeadlineExceeded"
        self.facts.message = "Pod was active on the node longer than the specified deadline"
        self._request_stop(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _request_stop(self, grace: float) -> None:
        """Have the processes end; they are killed after ``grace`` seconds, or sooner if that was asked before."""
        self._stop.set()
        loop = asyncio.get_running_loop()
        at = loop.time() + grace
        if self._kill_timer is None or at < self._kill_timer.when():
            if self._kill_timer:
                self._kill_timer.cancel()
            self._kill_timer = loop.call_at(at, self.kill)

    def _cancel_timers(self) -> None:
        for timer in (self._kill_timer, self._deadline_timer):
            if timer:
                timer.cancel()

    async def _live_until_stopped(self) -> None:
        life = asyncio.create_task(self._live())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({life, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        life.cancel()
        failure = (await asyncio.gather(life, return_exceptions=True))[0]
        if isinstance(failure, Exception):
            # A defect of the agent: shown where the pod's owner looks, and no other pod suffers from it.
            _log.error("pod %s", self.pod["metadata"]["name"], exc_info=failure)
            self.facts.reason, self.facts.message = "NodeAgentError", repr(failure)
        await self._end_processes()
        self.facts.finished = True
        self._publisher.changed()

    async def _end_processes(self) -> None:
        """Ask every process to end and wait until it has; the kill timer hurries those that do not."""
        running = {name: process for name, process in self._processes.items() if not process.exited.done()}
        for name, process in running.items():
            self._event("Normal", "Killing", f"Stopping container {name}")
            process.signal(signal.SIGTERM)
        if self._kill_timer is None:
            self._request_stop(0)
        for name in list(self._processes):
            await asyncio.shield(self._processes[name].exited)
            container, record = self._find(name)
            self._ended(container, record)

    async def _live(self) -> None:
        spec = self.pod["spec"]
        for record in self.facts.containers if self.facts.init_containers else []:
            if isinstance(record.state, Waiting) and record.state.reason == CREATING:
                record.state = Waiting(INITIALIZING)
        self._publisher.changed()
        await self._prepare()
        for container, record in zip(spec.get("initContainers") or [], self.facts.init_containers, strict=True):
            if not record.succeeded:
                await self._keep_running(container, record, init=True)
            if not record.succeeded:
                return
        async with asyncio.TaskGroup() as tasks:
            for container, record in zip(spec["containers"], self.facts.containers, strict=True):
                tasks.create_task(self._keep_running(container, record, init=False))

    async def _prepare(self) -> None:
        while True:
            try:
                return await self._services.runner.prepare()
            except VolumeError as error:
                self._event("Warning", "FailedMount", str(error))
            except KubeError as error:
                _log.warning("preparing pod %s: %s", self.pod["metadata"]["name"], error)
            await asyncio.sleep(_RETRY_PERIOD)

    async def _keep_running(self, container: Json, record: ContainerRecord, init: bool) -> None:
        """Run a container again and again, until its pod's policy says that it has ended for good."""
        backoff = Backoff()
        policy = self.pod["spec"].get("restartPolicy", "Always")
        while True:
            # A container that an agent before this one lost has ended already.
            if not isinstance(record.state, Terminated):
                process = await self._start(container, record)
                # Shielded: cancelling this life must not cancel the process's own future.
                await asyncio.shield(process.exited)
                self._ended(container, record)
            ended = record.state
            assert isinstance(ended, Terminated)
            if not restarts(policy, ended.exit_code, init):
                return
            await self._wait_to_restart(record, ended, backoff)

    async def _wait_to_restart(self, record: ContainerRecord, ended: Terminated, backoff: Backoff) -> None:
        record.last = ended
        delay = backoff.next((ended.finished_at - (ended.started_at or ended.finished_at)).total_seconds())
        record.state = Waiting()
        if delay:
            name = self.pod["metadata"]["name"]
            message = f"back-off {delay:.0f}s restarting failed container={record.name} pod={name}"
            record.state = Waiting("CrashLoopBackOff", message)
            self._event("Warning", "BackOff", f"Back-off restarting failed container {record.name} in pod {name}")
            self._publisher.changed()
            await asyncio.sleep(delay)
        record.restarts += 1

    async def _start(self, container: Json, record: ContainerRecord) -> Handle:
        """Start a container, as often as it takes until its configuration is there."""
        while True:
            try:
                process = await self._services.runner.start(container, record)
                break
            except ContainerConfigError as error:
                record.state = Waiting(error.waiting_reason, str(error))
                self._publisher.changed()
                self._event("Warning", "Failed", f"Error: {error}")
            except KubeError as error:
                _log.warning("starting container %s: %s", record.name, error)
            await asyncio.sleep(_RETRY_PERIOD)
        self._processes[record.name] = process
        if await asyncio.shield(process.started):
            record.state = Running(now())
            self._publisher.changed()
            self._event("Normal", "Started", f"Started container {record.name}")
        return process

    def _ended(self, container: Json, record: ContainerRecord) -> None:
        """Record how a process ended; its future is done."""
        status = self._processes.pop(record.name).exited.result()
        started = record.state.started_at if isinstance(record.state, Running) else None
        record.state = Terminated(
            exit_code=status.code,
            reason="StartError" if status.start_error else "Error" if status.code else "Completed",
            finished_at=now(),
            started_at=started,
            signal=status.signal,
            message=status.start_error or self._services.runner.message(container, record, status.code),
            container_id=record.container_id,
        )
        self._publisher.changed()

    def _find(self, name: str) -> tuple[Json, ContainerRecord]:
        containers = (self.pod["spec"].get("initContainers") or []) + self.pod["spec"]["containers"]
        records = self.facts.init_containers + self.facts.containers
        return next(pair for pair in zip(containers, records, strict=True) if pair[1].name == name)

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._services.events.record(self.pod, kind, reason, message)

    async def _delete(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        while True:
            try:
                return await self._services.kube.delete(pod_path(self.pod), options)
            except KubeError as error:
                if belongs_to_another(error):
                    return None
                _log.warning("deleting pod %s: %s", self.pod["metadata"]["name"], error)
            await asyncio.sleep(_RETRY_PERIOD)
