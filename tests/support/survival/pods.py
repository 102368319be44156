"""Whole pods, with their launcher, that are asked to stop before any rank trains: while they import, fetch, prepare."""

from __future__ import annotations

import json
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


class Pods:
    """Pods of one job; each phase is gone through once undisturbed, to know how long it takes."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._seconds = scene, dict[str, float]()
        in_child(lambda: _write_data(scene.store))
        for phase in _STAGE_OF_PHASE:
            self._seconds[phase] = self._undisturbed(phase)

    def stop(self, name: str, phase: str, share: float) -> bool:
        """Stops a pod after a share of the time that its phase takes; False when it was done already.

        Raises:
            AssertionError: it ended otherwise than a preempted one does.
        """
        folder = self._scene.folder / name
        pod, begun = self._start(phase, folder), time.monotonic()
        # On a machine that has become faster the phase may be over before.
        _until(lambda: time.monotonic() - begun > share * self._seconds[phase] or _trains(folder))
        pod.send_signal(signal.SIGTERM)
        code, log = pod.wait(BOUND_SECONDS), (folder / "log").read_text()
        if code == ExitCode.SUCCESS and phase == "prepare":
            assert json.loads((folder / "termination-log").read_text())["prepared"]
            return False
        assert code == ExitCode.PREEMPTED, f"{phase} ended with {code}\n{log[-4000:]}"
        message = folder / "termination-log"
        # Before the trainer's own code is there, nobody can leave a message; the exit code says it all.
        if message.exists():
            assert json.loads(message.read_text())["failure"]["class"] == FailureClass.PREEMPTED.value
        return True

    def _undisturbed(self, phase: str) -> float:
        """Seconds that a phase takes; a train pod is ended then."""
        folder, started = self._scene.folder / f"first {phase}", time.monotonic()
        pod = self._start(phase, folder)
        try:
            _until(lambda: pod.poll() is not None or _trains(folder))
            seconds = time.monotonic() - started
        finally:
            pod.send_signal(signal.SIGTERM)
            code = pod.wait(BOUND_SECONDS)
        assert code == (ExitCode.SUCCESS if phase == "prepare" else ExitCode.PREEMPTED), (folder / "log").read_text()
        return seconds

    def _start(self, phase: str, folder: Path) -> subprocess.Popen[str]:
        stage = _STAGE_OF_PHASE[phase]
        plan = self._scene.plan("pods")
        return start_pod(plan if stage == "train" else _without_data(plan), folder, stage=stage)


def _trains(folder: Path) -> bool:
    return _TRAINS in (folder / "log").read_text()


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
        time.sleep(0.02)
