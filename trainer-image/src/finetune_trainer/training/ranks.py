"""Parent of a pod's training processes: imports what they need once, forks them, and looks after them to the end.

The libraries cost seconds of CPU time and hundreds of megabytes in every process that imports them itself. Only a
process with a single thread is forked: locks that another thread holds would stay locked in the child for ever. With
GPUs every rank is a program of its own, since a CUDA driver that some library has touched does not survive a fork.

The launcher forks this process first, so that it imports while model and data are fetched; a message then lets it start
the ranks. It tells how each of them ended in the workspace.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

from finetune_api.outcomes import ExitCode
from finetune_api.plan import NODE_RANK_VARIABLE, OUTPUT, RunPlan, World
from finetune_trainer.imports import spare_imports, suits, training_process
from finetune_trainer.outcome import STOP_SIGNALS, exit_at_once
from finetune_trainer.processes import die_with_parent, name_process
from finetune_trainer.storage.stores import import_store
from finetune_trainer.training.devices import OFFLINE
from finetune_trainer.workspace import Workspace, workspace_of

logger = logging.getLogger(__name__)

# What the launcher needs of the grace period to say how the ranks ended.
LAST_WORDS_SECONDS = 5
_OWN = (signal.SIGCHLD, signal.SIGALRM)
AWAITED = STOP_SIGNALS + _OWN


def run_parent(plan: RunPlan, forkable: bool, awaited: Connection, go: Connection) -> NoReturn:
    """Where the launcher's fork goes on: it never returns. Its exit code is 0 when all ranks of the pod ended well.

    Args:
        forkable: whether the launcher had one thread; else its fork only starts programs.
        awaited: where the word comes from that the ranks may start.
        go: the launcher's end of it.
    """
    # Or this process would keep open what it waits for when the launcher is gone.
    go.close()
    for number in STOP_SIGNALS:
        signal.signal(number, _end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    die_with_parent()
    name_process("ranks")
    os.environ.update(OFFLINE)
    exit_at_once(_run(plan, forkable, awaited))


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """There are no ranks yet: nothing is to be saved."""
    os._exit(ExitCode.PREEMPTED)


def _run(plan: RunPlan, forkable: bool, awaited: Connection) -> int:
    """0 or 1; in each process that was forked, what its training returns."""
    spare_imports(plan.spec)
    forks = forkable and os.environ.get("DS_ACCELERATOR") == "cpu" and suits(plan.spec)
    if forks:
        training_process()
        import_store(plan.stores[OUTPUT], os.environ)
    try:
        awaited.recv_bytes()
    except EOFError:
        return 1
    forks = forks and has_one_thread()
    node, workspace = int(os.environ.get(NODE_RANK_VARIABLE, "0")), workspace_of(os.environ)
    # Signals wait until somebody asks for them: sigwait here, a rank as soon as it has handlers of its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    pids: dict[int, int] = {}
    for rank in ranks_of(plan.world, node):
        own = rank_environment(plan.world, node, rank)
        pid = os.fork() if forks else _start_afresh(workspace, own)
        if pid == 0:
            return _train(plan, own)
        pids[pid] = rank
    ends = Family(pids, plan.spec.checkpoint.grace_period_seconds - LAST_WORDS_SECONDS).wait()
    workspace.ends.write_text(json.dumps(ends))
    return int(any(ends.values()))


def ranks_of(world: World, node: int) -> range:
    """Ranks of the training processes of one pod."""
    width = world.processes_per_node
    return range(node * width, (node + 1) * width)


def rank_environment(world: World, node: int, rank: int) -> dict[str, str]:
    """What PyTorch and DeepSpeed read of the world, https://docs.pytorch.org/docs/stable/elastic/run.html."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - ranks_of(world, node).start),
        "GROUP_RANK": str(node),
        "WORLD_SIZE": str(world.size),
        "LOCAL_WORLD_SIZE": str(world.processes_per_node),
        "MASTER_ADDR": world.master_address,
        "MASTER_PORT": str(world.master_port),
        # A collective that fails ends its process instead of leaving it waiting.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }


def read_ends(workspace: Workspace) -> dict[int, int]:
    """How each rank of this pod ended: its exit code, or the negative number of the signal that killed it.

    Empty when the parent of the ranks ended before it could say.
    """
    if not workspace.ends.exists():
        return {}
    return {int(rank): code for rank, code in json.loads(workspace.ends.read_text()).items()}


def has_one_thread() -> bool:
    """Whether this process may be forked; a warning names its threads otherwise."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        # Not Linux: what system libraries do in a forked process is another matter there.
        return False
    threads = [(task / "comm").read_text().strip() for task in tasks.iterdir()]
    if len(threads) > 1:
        logger.warning("the ranks are started afresh, since libraries have started threads: %s", ", ".join(threads))
    return len(threads) == 1


def _start_afresh(workspace: Workspace, own: Mapping[str, str]) -> int:
    command = [sys.executable, "-m", "finetune_trainer", "worker", "--plan", str(workspace.plan)]
    return os.posix_spawn(sys.executable, command, {**os.environ, **own}, setsigmask=STOP_SIGNALS)


def _train(plan: RunPlan, own: Mapping[str, str]) -> int:
    from finetune_trainer.main import start_log

    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OWN)
    os.environ.update(own)
    start_log(os.environ)
    return training_process()(plan)


class Family:
    """The training processes of one pod: when one fails or the pod is asked to stop, all are, and then killed."""

    def __init__(self, pids: Mapping[int, int], grace: float) -> None:
        self._living, self._grace = dict(pids), grace
        self._ends: dict[int, int] = {}
        self._stopping = False

    def wait(self) -> dict[int, int]:
        """By rank, exit code or negative signal of each, once all have ended. Signals must be blocked."""
        self._reap()
        while self._living:
            number = signal.sigwait(AWAITED)
            if number in STOP_SIGNALS:
                self._stop()
            elif number == signal.SIGALRM:
                self._send(signal.SIGKILL)
            # Signals of the same kind that come together are one.
            self._reap()
        return self._ends

    def _reap(self) -> None:
        while self._living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid in self._living:
                self._ends[self._living.pop(pid)] = code
                if code:
                    self._stop()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._send(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, max(self._grace, 0.001))

    def _send(self, number: signal.Signals) -> None:
        for pid in self._living:
            os.kill(pid, number)
