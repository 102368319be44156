"""Training processes that are forked from this one, which has imported all they need: an attempt starts in a second."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune_api.outcomes import StageOutcome
from finetune_api.plan import RunPlan
from finetune_trainer.main import log_format
from finetune_trainer.training.heartbeat import Beat, read_beat
from finetune_trainer.workspace import Workspace
from support.training_runs import BUCKET, free_port

_SETTINGS = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "FINETUNE_COLLECTIVE_TIMEOUT": "60",
    "TRANSFORMERS_VERBOSITY": "error",
}
# Far more than anything here takes.
BOUND_SECONDS = 300.0
_LOOK_SECONDS = 0.002


def import_everything() -> None:
    """Imports what ranks need. No tensor may be computed with in this process: threads do not survive a fork."""
    os.environ.update(_SETTINGS)
    importlib.import_module("support.preloaded")


def in_child(work: Callable[[], object]) -> None:
    """Runs something in a forked process.

    Raises:
        AssertionError: it failed; what it printed says why.
    """
    pid = os.fork()
    if pid == 0:
        _leave(lambda: int(work() is None) * 0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"a child ended with {os.waitstatus_to_exitcode(status)}"


def _leave(work: Callable[[], int]) -> None:
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Patience:
    """Bounds how long nothing may change: far more than any step takes, so that only a hang exceeds it."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()

    def left(self, beat: Beat | None) -> bool:
        """Whether something has changed lately."""
        seen = (beat.phase, beat.step) if beat else None
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since < BOUND_SECONDS


class Gang:
    """The ranks of one attempt on one node. Leaving its ``with`` block ends them."""

    def __init__(self, plan: RunPlan, folder: Path, store: Path) -> None:
        self.workspace, self.log = Workspace(folder / "workspace"), folder / "log"
        self.workspace.outcomes.mkdir(parents=True)
        for name, source in (("model", "model"), ("data", "prepared")):
            (self.workspace.root / name).symlink_to(store / BUCKET / source)
        port = free_port()
        self.codes: dict[int, int] = {}
        self._pids = [self._fork(plan, rank, port) for rank in range(plan.world.size)]

    def _fork(self, plan: RunPlan, rank: int, port: int) -> int:
        pid = os.fork()
        if pid == 0:
            _leave(lambda: self._work(plan, rank, port))
        return pid

    def _work(self, plan: RunPlan, rank: int, port: int) -> int:
        size = str(plan.world.size)
        places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(places | meeting | {"FINETUNE_WORKSPACE": str(self.workspace.root)})
        output = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=log_format(os.environ), force=True)
        from finetune_trainer.training import worker

        return worker.main(plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rank in range(len(self._pids)):
            self.signal(rank, signal.SIGKILL)
        self._reap(wait=True)

    def beat(self, rank: int = 0) -> Beat | None:
        """What a rank is doing."""
        return read_beat(self.workspace.heartbeat(rank), rank)

    def outcome(self, rank: int = 0) -> StageOutcome | None:
        """How a rank says that it ended."""
        path = self.workspace.outcome(rank)
        return StageOutcome.model_validate_json(path.read_bytes()) if path.exists() else None

    def told_at(self, rank: int = 0) -> float:
        """When a rank said how it ended, by the monotonic clock; its end may take longer.

        Raises:
            FileNotFoundError: it has not.
        """
        ago = time.time() - self.workspace.outcome(rank).stat().st_mtime
        return time.monotonic() - ago

    def wait_for(self, reached: Callable[[Beat], bool]) -> Beat | None:
        """What rank 0 does as soon as that is so; None when it ended before, or another failed.

        While rank 0 publishes, the others are done.
        """
        patience = Patience()
        while 0 not in self._reap() and not any(self.codes.values()):
            beat = self.beat()
            if beat and reached(beat):
                return beat
            assert patience.left(beat), self.tail()
            time.sleep(_LOOK_SECONDS)
        return None

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to a rank that still runs."""
        if rank not in self.codes:
            os.kill(self._pids[rank], number)

    def end(self, grace: float = BOUND_SECONDS) -> list[int]:
        """Exit codes when all have ended; as torchrun does, the first failure has the others end too.

        They are killed after ``grace`` seconds from then; codes are those of :func:`os.waitstatus_to_exitcode`.
        """
        patience, told = Patience(), 0.0
        while len(self.codes) < len(self._pids):
            if not told and any(self._reap().values()):
                told = time.monotonic()
                self._signal_all(signal.SIGTERM)
            if (told and time.monotonic() - told > grace) or not patience.left(self.beat()):
                self._signal_all(signal.SIGKILL)
            self._reap()
            time.sleep(_LOOK_SECONDS)
        return [self.codes[rank] for rank in range(len(self._pids))]

    def _signal_all(self, number: int) -> None:
        for rank in range(len(self._pids)):
            self.signal(rank, number)

    def _reap(self, wait: bool = False) -> dict[int, int]:
        for rank, pid in enumerate(self._pids):
            if rank not in self.codes:
                found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
                if found:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return self.codes

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else "no log"
