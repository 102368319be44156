"""Runs the nodes of a training side by side."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from support.training_runs import free_port
from support.warm import Program

_SETTINGS = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "FINETUNE_COLLECTIVE_TIMEOUT": "60",
}
# Time for the stacks of a gang that hangs to reach its logs.
_DUMP_SECONDS = 3


class GangFailed(AssertionError):
    """A pod of a gang failed or hung; the message has the end of every pod's log."""


def run_gang(
    logs: Path, nodes: int, processes: int, module: str, *arguments: str, seconds: float = 500, **environment: str
) -> None:
    """Runs ``python -m module arguments`` in every process of a world, with one parent per node that forks its ranks.

    Args:
        logs: an existing folder for one log per node.
        seconds: after so long without an end the gang hangs; its processes write their stacks, when ``module``
            registers :func:`write_stacks_on_request`, and are killed.

    Raises:
        GangFailed: not all nodes ended with exit code 0.
    """
    port = free_port()
    variables = {**os.environ, **_SETTINGS, **environment}
    files = [logs / f"node-{node}.log" for node in range(nodes)]
    pods = [
        Program("support.gang_node", [*map(str, (nodes, processes, node, port)), module, *arguments], file, variables)
        for node, file in enumerate(files)
    ]
    try:
        codes = _ends(pods, seconds)
        if None in codes:
            for worker in (worker for pod in pods for worker in _workers(pod)):
                worker.send_signal(signal.SIGUSR1)
            time.sleep(_DUMP_SECONDS)
    finally:
        for pod in pods:
            _kill(pod)
    if codes != [0] * nodes:
        told = "\n".join(f"--- {file.name}\n{file.read_text()[-8000:]}" for file in files)
        raise GangFailed(f"exit codes {codes} (None: hung or lost its peer)\n{told}")


def write_stacks_on_request() -> None:
    """Makes this process write the stacks of its threads to its standard error on SIGUSR1."""
    import faulthandler

    faulthandler.register(signal.SIGUSR1, all_threads=True)


def set_aside() -> None:
    """Keeps the garbage collector, which DeepSpeed calls often, from looking again through what is there by now."""
    gc.collect()
    gc.freeze()


def _ends(pods: Sequence[Program], seconds: float) -> list[int | None]:
    """Exit codes once all pods have ended, one has failed, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        codes = [pod.poll() for pod in pods]
        if None not in codes or any(codes):
            return codes
        time.sleep(0.05)
    return [pod.poll() for pod in pods]


def _workers(pod: Program) -> list[psutil.Process]:
    try:
        return psutil.Process(pod.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(pod: Program) -> None:
    workers = _workers(pod)
    pod.kill()
    pod.wait()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
