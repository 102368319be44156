"""Whole pods, with their launcher, that are asked to stop before any rank trains: while they import, fetch, prepare."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from finetune_api.outcomes import ExitCode, FailureClass
from finetune_api.plan import RunPlan, store_uses
from support.survival.ranks import BOUND_SECONDS, in_child
from support.survival.scene import Scene
from support.training_runs import BUCKET, start_pod

_STAGE_OF_PHASE = {"prepare": "prepare", "import and download": "train"}
_TRAINS = "spec.method.objective = "
_HANDLED = re.compile(r"^SigCgt:\s+([0-9a-f]+)$", re.MULTILINE)


class Pods:
    """Pods of one job; each phase is gone through once undisturbed, to know how long it takes."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._seconds, self._stopped = scene, dict[str, float](), 0
        in_child(lambda: _write_data(scene.store))
        for phase in _STAGE_OF_PHASE:
            self._seconds[phase] = self._undisturbed(phase)

    def stop(self, phase: str, share: float) -> bool:
        """Stops a pod after a share of the time that its phase takes; False when that was over already.

        Raises:
            AssertionError: it ended otherwise than a preempted one does.
        """
        self._stopped += 1
        folder = self._scene.folder / f"pod-{self._stopped}"
        pod, begun = self._start(phase, folder)
        # On a machine that has become faster the phase may be over before.
        _until(lambda: time.monotonic() - begun > share * self._seconds[phase] or _over(folder))
        in_time = not _over(folder)
        pod.send_signal(signal.SIGTERM)
        code, log, message = pod.wait(BOUND_SECONDS), (folder / "log").read_text(), folder / "termination-log"
        if code == ExitCode.SUCCESS and phase == "prepare":
            assert json.loads(message.read_text())["prepared"]
            return False
        assert code == ExitCode.PREEMPTED, f"{phase} ended with {code}\n{log[-4000:]}"
        # Before the trainer's own code is there, nobody can leave a message; the exit code says it all.
        if message.exists():
            assert json.loads(message.read_text())["failure"]["class"] == FailureClass.PREEMPTED.value
        return in_time

    def _undisturbed(self, phase: str) -> float:
        """Seconds that a phase takes; a train pod is ended then."""
        folder = self._scene.folder / f"first {phase}"
        pod, begun = self._start(phase, folder)
        try:
            _until(lambda: pod.poll() is not None or _over(folder))
            seconds = time.monotonic() - begun
        finally:
            pod.send_signal(signal.SIGTERM)
            code = pod.wait(BOUND_SECONDS)
        assert code == (ExitCode.SUCCESS if phase == "prepare" else ExitCode.PREEMPTED), (folder / "log").read_text()
        return seconds

    def _start(self, phase: str, folder: Path) -> tuple[subprocess.Popen[str], float]:
        """A pod, and since when it can be stopped: the first process of a container gets no signal before."""
        stage = _STAGE_OF_PHASE[phase]
        plan = self._scene.plan("pods")
        pod = start_pod(plan if stage == "train" else _without_data(plan), folder, stage=stage)
        _until(lambda: _hears(pod.pid))
        return pod, time.monotonic()


def _hears(pid: int) -> bool:
    """Whether a process handles SIGTERM."""
    handled = _HANDLED.search(Path(f"/proc/{pid}/status").read_text())
    return bool(handled and int(handled[1], 16) >> (signal.SIGTERM - 1) & 1)


def _over(folder: Path) -> bool:
    """Whether a pod has told how it ended, or trains."""
    return (folder / "termination-log").exists() or _TRAINS in (folder / "log").read_text()


def _without_data(plan: RunPlan) -> RunPlan:
    access = plan.stores["output"]
    return plan.model_copy(update={"prepared": None, "stores": dict.fromkeys(store_uses(plan.spec), access)})


def _write_data(store: Path) -> None:
    from support.tiny_model import write_chat_rows

    for split in ("train", "validation"):
        write_chat_rows(store / BUCKET / "data" / f"{split}.jsonl", 40)


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)
