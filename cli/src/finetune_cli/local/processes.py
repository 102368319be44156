"""Processes of the trainer on this machine: started in sessions of their own, ended with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.outcomes import Stage, StageOutcome
from finetune_api.plan import NODE_RANK_VARIABLE, TERMINATION_LOG_VARIABLE, WORKSPACE_VARIABLE

TRAINER = (sys.executable, "-m", "finetune_trainer")
# Marks every process of one run, so that those that outlive their parent are found and ended too.
RUN_VARIABLE = "FINETUNE_LOCAL_RUN"
# What a trainer gets to leave a step and say why, as in a pod.
GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class NodeProcess:
    """One trainer process, which stands for one pod."""

    node: int
    process: subprocess.Popen[bytes]
    termination_log: Path
    log: Path

    @property
    def exit_code(self) -> int | None:
        """Exit code; negative for a signal; None while it runs."""
        return self.process.poll()

    def outcome(self) -> StageOutcome | None:
        """What the process said of its stage, or None if it said nothing readable."""
        try:
            return StageOutcome.model_validate_json(self.termination_log.read_bytes())
        except (OSError, ValidationError):
            return None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of what the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start_node(
    stage: Stage,
    node: int,
    run: str,
    plan_file: Path,
    workdir: Path,
    environment: Mapping[str, str],
    trainer: Sequence[str] = TRAINER,
) -> NodeProcess:
    """Starts the trainer for one stage and node; its workspace and log are below ``workdir``."""
    folder = workdir / f"{stage.value}-{node}"
    folder.mkdir(parents=True, exist_ok=True)
    termination_log, log = workdir / f"{folder.name}.outcome.json", workdir / f"{folder.name}.log"
    own = {
        RUN_VARIABLE: run,
        NODE_RANK_VARIABLE: str(node),
        TERMINATION_LOG_VARIABLE: str(termination_log),
        WORKSPACE_VARIABLE: str(folder),
        "PYTHONUNBUFFERED": "1",
        # Helpers of the trainer (ninja) live beside the interpreter.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath))),
    }
    termination_log.write_bytes(b"")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*trainer, stage.value, "--plan", str(plan_file)],
            cwd=folder,
            env={**environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return NodeProcess(node, process, termination_log, log)


def stop_nodes(nodes: Iterable[NodeProcess], run: str, grace: float = GRACE_SECONDS) -> None:
    """Ends processes: SIGTERM, then after ``grace`` seconds SIGKILL, also to whatever they left behind."""
    running = [node.process for node in nodes if node.exit_code is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace
    try:
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    finally:
        kill_run(run)
        for process in running:
            process.wait()


def kill_run(run: str) -> None:
    """Kills every process of a run, again until none is left. Where there is no /proc, nothing is found."""
    while pids := _processes_of(run):
        for pid in pids:
            _kill(pid)
        time.sleep(_POLL_SECONDS)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _processes_of(run: str) -> list[int]:
    """Living processes whose environment names the run; dead ones have no environment any more."""
    marker = f"{RUN_VARIABLE}={run}".encode()
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if marker in _environment(entry).split(b"\0")]


def _environment(entry: Path) -> bytes:
    """Environment of a process; empty if it is gone or another user's."""
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""
