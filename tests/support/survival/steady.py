"""A job that trains thousands of steps with evaluations and saves, undisturbed: its watchdog must say nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from finetune_trainer.training.heartbeat import Beat, Phase
from finetune_trainer.training.watchdog import Watchdog
from support.survival.ranks import Gang
from support.survival.scene import PROCESSES, Scene

_EVALUATION_STEPS, _SAVE_STEPS = 50, 20
_TOLD_STEPS = 1000


class _Closest:
    """How near steps came to their limits, in shares of these."""

    def __init__(self) -> None:
        self.share, self._told = 0.0, 0

    def look(self, beat: Beat) -> bool:
        """Looks at a rank; False, since it waits for nothing."""
        if beat.phase is Phase.STEP:
            self.share = max(self.share, (time.monotonic() - beat.since) / beat.limit)
        if beat.step >= self._told + _TOLD_STEPS:
            self._told = beat.step
            print(f"step {beat.step}", file=sys.stderr, flush=True)
        return False


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Trains ``count`` steps under a watchdog.

    Raises:
        AssertionError: the job did not come to its end.
        Hung: the watchdog has ended it.
    """
    scene = Scene(
        folder,
        maxSteps=count,
        globalBatchSize=2,
        micro_batch_size=1,
        seed=seed,
        checkpoint={"everySteps": _SAVE_STEPS},
        evaluation={"everySteps": _EVALUATION_STEPS},
    )
    closest, started = _Closest(), time.monotonic()
    with scene.attempt("steady", 1) as gang, Watchdog(gang.workspace, range(PROCESSES), str(folder)) as watching:
        _watch(gang, closest)
    watching.check()
    assert scene.published("steady"), gang.tail()
    return {
        "steps": count,
        "evaluations": 2 + (count - 1) // _EVALUATION_STEPS,
        "saves": gang.log.read_text().count(" is saved as "),
        "falseAlarms": 0,
        "closestToLimit": round(closest.share, 3),
        "seconds": round(time.monotonic() - started),
    }


def _watch(gang: Gang, closest: _Closest) -> None:
    gang.wait_for(closest.look)
    assert gang.end() == [0] * PROCESSES, gang.tail()
