"""Runs one job: prepare, then the training processes, all or none, following their reports."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.job import FineTuneJob
from finetune_api.outcomes import ExitCode, Failure, Stage, StageOutcome, deadline_exceeded
from finetune_api.plan import SIMULATED_GPUS_VARIABLE, RunPlan
from finetune_api.status import FineTuneJobStatus, PlanStatus
from finetune_cli.errors import BrokenStageError, MissingDevicesError
from finetune_cli.local import status as transitions
from finetune_cli.local.failures import Ended, exit_code_of, root_cause
from finetune_cli.local.planning import LOOPBACK, Places, check_places, prepare_plan, train_plan
from finetune_cli.local.processes import NodeProcess, kill_run, start_node, stop_nodes
from finetune_cli.local.progress_server import ProgressServer

_POLL_SECONDS = 0.1
# Ranks that lost a peer get this long to say so themselves before they are stopped.
_ECHO_SECONDS = 10.0
_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"

Observer = Callable[[FineTuneJobStatus], None]


class Stopped(BaseException):
    """A signal asked this process to end. No Exception: nothing but the run itself may handle it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass(frozen=True)
class Machine:
    """What a run uses of this machine.

    Attributes:
        workdir: folder for plans, logs, workspaces; exists and is empty or of an earlier run.
        environment: environment of the trainer.
        cpu_in_place_of_gpus: compute on the CPU what the manifest asks GPUs for.
    """

    workdir: Path
    environment: Mapping[str, str]
    cpu_in_place_of_gpus: bool


@dataclass
class LocalRun:
    """One run and its status so far; ``observe`` is called each time that changes.

    Attributes:
        plan: what is decided before the inputs are looked at.
    """

    job: FineTuneJob
    plan: PlanStatus
    places: Places
    machine: Machine
    observe: Observer
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    logs: str = ""

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex
        metadata = self.job.metadata.model_copy(update={"uid": str(uuid.UUID(self._run))})
        self.job = self.job.model_copy(update={"metadata": metadata})

    def execute(self) -> int:
        """Takes the job through its stages and returns the exit code of the command.

        Raises:
            UsageError, UnsupportedHereError, MissingDevicesError: this machine cannot run the job; nothing was started.
            BrokenStageError: a stage succeeded without a result.
        """
        check_places(self.job, self.places)
        check_devices(self.job, self.machine)
        try:
            with signals_as_exceptions():
                return self._stages()
        except Stopped as stop:
            self._set(transitions.stopped(self.status, str(stop), _now()))
            return 128 + stop.signal_number
        finally:
            kill_run(self._run)

    def _stages(self) -> int:
        self._set(transitions.preparing(_now(), self.plan, self.places.upstreams))
        plan = prepare_plan(self.job, self.places, free_port(), self.status)
        ended = self._run_nodes(Stage.PREPARE, plan, None)
        failure = root_cause(ended)
        if failure:
            return self._fail(failure)
        found = _outcome(ended).prepared
        if found is None:
            raise BrokenStageError("prepare ended without a result; see its log")
        self._set(transitions.prepared(self.status, self.job.spec, found, _now()))
        if found.adopted:
            return ExitCode.SUCCESS
        with ProgressServer(self.machine.workdir / "token") as server:
            self._set(transitions.training(self.status, _now()))
            return self._train(train_plan(plan, found, server.endpoint), server)

    def _train(self, plan: RunPlan, server: ProgressServer) -> int:
        limit = self.job.spec.active_deadline_seconds
        started = time.monotonic()
        ended = self._run_nodes(Stage.TRAIN, plan, server, limit)
        overdue = limit is not None and time.monotonic() - started >= limit
        failure = root_cause(ended)
        if failure and overdue:
            failure = deadline_exceeded(limit)
        if failure:
            return self._fail(failure)
        outcome = _outcome(ended)
        if outcome.artifact is None:
            raise BrokenStageError("training ended without an artifact; see its log")
        self._set(transitions.trained(self.status, outcome, outcome.artifact, _now()))
        return ExitCode.SUCCESS

    def _run_nodes(
        self, stage: Stage, plan: RunPlan, server: ProgressServer | None, limit: float | None = None
    ) -> list[Ended]:
        """Runs the processes of one stage to their end; the first failure ends them all, and so does ``limit``, in
        seconds."""
        plan_file = self.machine.workdir / f"{stage.value}.plan.json"
        plan_file.write_text(plan.to_json())
        nodes: list[NodeProcess] = []
        try:
            for node in range(plan.world.nodes if stage is Stage.TRAIN else 1):
                environment = node_environment(self.machine, plan, node)
                nodes.append(start_node(stage, node, self._run, plan_file, self.machine.workdir, environment))
            self._follow(nodes, server, limit)
        finally:
            # Those that ended by themselves come first: what has to be killed below was taken down by them.
            nodes.sort(key=lambda node: node.exit_code is None)
            stop_nodes(nodes, self._run)
        self._take_reports(server)
        ended = [Ended(node.node, node.process.returncode, node.outcome()) for node in nodes]
        self.logs = "\n".join(f"--- node {node.node}: {node.log}\n{node.log_tail()}" for node in nodes)
        return ended

    def _follow(self, nodes: Sequence[NodeProcess], server: ProgressServer | None, limit: float | None) -> None:
        """Waits until every process has ended, the time is over, or one has failed and the others had time to say why
        they did."""
        deadline = time.monotonic() + (float("inf") if limit is None else limit)
        failing = False
        while any(node.exit_code is None for node in nodes) and time.monotonic() < deadline:
            self._take_reports(server)
            if not failing and any(node.exit_code for node in nodes):
                failing = True
                deadline = min(deadline, time.monotonic() + _ECHO_SECONDS)
            time.sleep(_POLL_SECONDS)

    def _take_reports(self, server: ProgressServer | None) -> None:
        while server is not None:
            try:
                report = server.reports.get_nowait()
            except queue.Empty:
                return
            self._set(transitions.reported(self.status, report, _now()))

    def _fail(self, failure: Failure) -> int:
        self._set(transitions.failed(self.status, failure, _now()))
        return exit_code_of(failure)

    def _set(self, status: FineTuneJobStatus) -> None:
        if status != self.status:
            self.status = status
            self.observe(status)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _outcome(ended: Sequence[Ended]) -> StageOutcome:
    """What node 0 said; it speaks for the stage."""
    outcome = ended[0].outcome
    if outcome is None:
        raise BrokenStageError("a stage ended with exit code 0 but left no outcome; see its log")
    return outcome


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def node_environment(machine: Machine, plan: RunPlan, node: int) -> dict[str, str]:
    """Environment of one node: every node sees its own share of the GPUs."""
    environment = dict(machine.environment)
    gpus = plan.spec.resources.gpus_per_node
    if gpus and machine.cpu_in_place_of_gpus:
        environment[SIMULATED_GPUS_VARIABLE] = "1"
    elif gpus:
        first = node * gpus
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in range(first, first + gpus))
    return environment


def check_devices(job: FineTuneJob, machine: Machine) -> None:
    """Checks that this machine has the GPUs of all nodes.

    Raises:
        MissingDevicesError: it has fewer.
    """
    resources = job.spec.resources
    wanted = resources.nodes * resources.gpus_per_node
    if not wanted or machine.cpu_in_place_of_gpus:
        return
    found = count_gpus()
    if found < wanted:
        raise MissingDevicesError(
            f"spec.resources.gpusPerNode: {resources.nodes} x {resources.gpus_per_node} GPUs are asked for, this "
            f"machine has {found}. Set it to 0 to train on the CPU, or use --cpu-in-place-of-gpus to try it."
        )


def count_gpus() -> int:
    """GPUs that the trainer would see, asked in a process of its own: torch has no place in this one."""
    answer = subprocess.run([sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else 0


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turns SIGINT, SIGTERM and SIGHUP into :class:`Stopped`, so that every ``finally`` runs.

    The first one asks the processes to end, a second one kills them; further ones cannot break that off.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        if len(received) <= 2:
            raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
