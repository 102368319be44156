"""Ranks that are frozen at random instants of several phases: how long until that is found, and who is named."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finetune_trainer.errors import Hung
from finetune_trainer.settings import COLLECTIVE_TIMEOUT_VARIABLE, hang_limit
from finetune_trainer.training import watchdog
from finetune_trainer.training.heartbeat import Beat, Phase
from finetune_trainer.training.watchdog import Watchdog
from support.survival.ranks import Gang
from support.survival.scene import PROCESSES, Scene

# Phases in which a rank is struck, with how many seconds into the phase a freeze comes at the latest. One that comes
# when the phase is over strikes the one that follows it, but for steps: those are struck until one is hit.
_PHASES = {
    "step": (Phase.STEP, 1.0),
    "evaluation": (Phase.EVALUATE, 0.05),
    "save": (Phase.SAVE, 0.02),
    "first step": (Phase.FIRST_STEP, 0.05),
    "load": (Phase.LOAD, 0.5),
}
# Only steps have a limit of seconds: of four freezes three are meant for them, the fourth for the others in turn.
_OTHERS = tuple(_PHASES)[1:]
_EVALUATION_STEPS, _SAVE_STEPS = 10, 7
# As in production: what waits for the frozen one must not give up before it is found.
_COLLECTIVE_SECONDS = "600"


@dataclass(frozen=True)
class Freeze:
    """One freeze: the phase that it is meant for, which rank, and how many seconds into the phase."""

    phase: str
    rank: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """A freeze that was found.

    Attributes:
        phase: in which the rank really was.
        seconds: from the freeze until it was found.
        lasting: from the begin of the phase, which is what the limit counts from.
        limit: seconds that the watchdog gave the rank: three times the 99th percentile of its steps, or the least.
    """

    phase: Phase
    seconds: float
    lasting: float
    limit: float


class _Listener(logging.Handler):
    """Notes when the watchdog of this process says for the first time that ranks are stuck."""

    found: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.found is None and record.levelno >= logging.ERROR:
            self.found = time.monotonic()


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Freezes a random rank in each of ``count`` gangs, and has the pod's watchdog find it.

    Raises:
        AssertionError: it was not found, or another rank was named.
    """
    os.environ[COLLECTIVE_TIMEOUT_VARIABLE] = _COLLECTIVE_SECONDS
    scene = Scene(
        folder,
        maxSteps=1_000_000,
        globalBatchSize=2,
        micro_batch_size=1,
        checkpoint={"everySteps": _SAVE_STEPS},
        evaluation={"everySteps": _EVALUATION_STEPS},
    )
    found = []
    for number, freeze in enumerate(_freezes(Random(seed), count)):
        found.append(_frozen(scene, f"frozen-{number}", freeze))
        print(f"{freeze} was found: {found[-1]}", file=sys.stderr, flush=True)
    steps = [one for one in found if one.phase is Phase.STEP]
    return {
        "freezes": len(found),
        "leastLimit": hang_limit(os.environ),
        "byPhase": _by_phase(found),
        "overLimitAtMost": round(max((one.lasting - one.limit for one in steps), default=0.0), 2),
    }


def _freezes(random: Random, count: int) -> list[Freeze]:
    phases = ["step" if number % 4 != 3 else _OTHERS[number // 4 % len(_OTHERS)] for number in range(count)]
    return [Freeze(phase, random.randrange(PROCESSES), random.uniform(0, _PHASES[phase][1])) for phase in phases]


def _frozen(scene: Scene, name: str, freeze: Freeze) -> Found:
    """One gang, of which a rank is frozen; it is over when the watchdog has ended it."""
    listener = _Listener()
    with scene.attempt(name, 1) as gang:
        assert gang.wait_for(lambda beat: beat.phase is _PHASES[freeze.phase][0]), gang.tail()
        watchdog.logger.addHandler(listener)
        try:
            with Watchdog(gang.workspace, range(PROCESSES), str(gang.workspace.root)) as watching:
                struck, since = _strike(gang, freeze)
                gang.end()
            _check_named(watching, freeze.rank)
        finally:
            watchdog.logger.removeHandler(listener)
    assert listener.found is not None
    return Found(since.phase, listener.found - struck, listener.found - since.since, since.limit)


def _strike(gang: Gang, freeze: Freeze) -> tuple[float, Beat]:
    """Freezes the rank; when that was, and what it was doing."""
    while True:
        time.sleep(freeze.seconds)
        gang.signal(freeze.rank, signal.SIGSTOP)
        struck, beat = time.monotonic(), gang.beat(freeze.rank)
        assert beat, gang.tail()
        if freeze.phase != "step" or beat.phase is Phase.STEP:
            return struck, beat
        gang.signal(freeze.rank, signal.SIGCONT)


def _check_named(watching: Watchdog, rank: int) -> None:
    with pytest.raises(Hung, match=f"rank {rank} gives no sign of life"):
        watching.check()


def _by_phase(found: list[Found]) -> dict[str, dict[str, float]]:
    """Of each phase how many freezes struck it, and the seconds until they were found."""
    seconds = defaultdict(list)
    for one in found:
        seconds[one.phase.name.lower()].append(one.seconds)
    return {
        phase: {
            "count": len(all_of),
            "secondsOnAverage": round(sum(all_of) / len(all_of), 1),
            "secondsAtMost": round(max(all_of), 1),
        }
        for phase, all_of in seconds.items()
    }
