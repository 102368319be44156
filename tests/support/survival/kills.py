"""A job whose ranks are killed again and again: what that costs, and whether the result is the same."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from finetune_trainer.training.heartbeat import Phase
from support.survival.scene import PROCESSES, Scene, Steps, steps_of

INTERVAL_STEPS = 3
# Mean time between two kills, in checkpoint intervals.
MEAN_INTERVALS = 20
# torchrun lets ranks whose peer is gone end by themselves; these know it within a second.
_GRACE_SECONDS = 10.0
_TRAINING = (Phase.FIRST_STEP, Phase.STEP)


def ideal_ratio(mean_intervals: float) -> float:
    """Share of the steps that count when each failure loses half an interval: Young 1974, first order."""
    return mean_intervals / (mean_intervals + 0.5)


@dataclass(frozen=True)
class Kill:
    """One kill: how many steps its attempt has begun by then, which rank, and how many seconds into that step."""

    steps: int
    rank: int
    seconds: float


@dataclass
class Costs:
    """What the attempts of a job did."""

    attempts: int = 0
    executed: int = 0
    starting: float = 0.0
    lost: list[int] = field(default_factory=list)
    last: int = 0

    def add(self, steps: Steps | None) -> None:
        """An attempt is over, and it did something."""
        assert steps
        self.attempts += 1
        self.executed += steps.last - steps.first
        if self.attempts > 1:
            self.lost.append(self.last - steps.first)
        self.last = steps.last


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Kills a random rank ``count`` times, at steps of an exponential distribution, and lets the job come to its end.

    Raises:
        AssertionError: an attempt that was killed was a success, or the weights are not those of the undisturbed run.
    """
    kills = _kills(Random(seed), count)
    total = sum(kill.steps for kill in kills) + MEAN_INTERVALS * INTERVAL_STEPS
    options = {"maxSteps": total, "globalBatchSize": 2, "micro_batch_size": 1, "held_out": False, "stage": 1}
    scene = Scene(folder, **options, checkpoint={"everySteps": INTERVAL_STEPS})
    started = time.monotonic()
    with scene.attempt("undisturbed", 1) as gang:
        assert gang.end() == [0] * PROCESSES, gang.tail()
    undisturbed, started = time.monotonic() - started, time.monotonic()
    print(f"undisturbed: {total} steps in {undisturbed:.0f} s", file=sys.stderr, flush=True)
    costs = Costs()
    for kill in kills:
        _killed(scene, costs, kill)
    with scene.attempt("robbed", costs.attempts + 1) as gang:
        assert gang.end() == [0] * PROCESSES, gang.tail()
        costs.add(steps_of(gang.log.read_text()))
    assert scene.weights("robbed") == scene.weights("undisturbed"), "the weights differ"
    seconds = {"secondsUndisturbed": round(undisturbed), "secondsDisturbed": round(time.monotonic() - started)}
    return {"kills": count, "steps": total, "sameWeights": True} | _figures(costs, total) | seconds


def _kills(random: Random, count: int) -> list[Kill]:
    mean = MEAN_INTERVALS * INTERVAL_STEPS
    return [
        Kill(int(random.expovariate(1 / mean)), random.randrange(PROCESSES), random.uniform(0, 0.02))
        for _ in range(count)
    ]


def _figures(costs: Costs, total: int) -> dict[str, Any]:
    ratio, ideal = total / costs.executed, ideal_ratio(MEAN_INTERVALS)
    return {
        "attempts": costs.attempts,
        "stepsExecuted": costs.executed,
        "lostPerKill": round(sum(costs.lost) / len(costs.lost), 2),
        "lostAtMost": max(costs.lost),
        "ratio": round(ratio, 4),
        "ideal": round(ideal, 4),
        "ratioOfIdeal": round(ratio / ideal, 4),
        "secondsPerStart": round(costs.starting / costs.attempts, 2),
    }


def _killed(scene: Scene, costs: Costs, kill: Kill) -> None:
    """One attempt, which a kill ends."""
    with scene.attempt("robbed", costs.attempts + 1) as gang:
        begun = time.monotonic()
        first = gang.wait_for(lambda beat: beat.phase in _TRAINING)
        assert first, gang.tail()
        costs.starting += time.monotonic() - begun
        assert gang.wait_for(lambda beat: beat.step >= first.step + kill.steps), gang.tail()
        time.sleep(kill.seconds)
        gang.signal(kill.rank, signal.SIGKILL)
        codes = gang.end(_GRACE_SECONDS)
        assert codes[kill.rank] == -signal.SIGKILL, f"{codes}\n{gang.tail()}"
        assert 0 not in codes, f"attempt {costs.attempts + 1}: {codes}"
        costs.add(steps_of(gang.log.read_text()))
    if costs.attempts % 10 == 0:
        print(f"{costs.attempts} kills, at step {costs.last}", file=sys.stderr, flush=True)
