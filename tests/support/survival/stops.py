"""A job that is asked to stop again and again, in every phase: what each stop costs, and that none is a success."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGTERM
from typing import Any

from finetune_api.outcomes import ExitCode, FailureClass
from finetune_trainer.training.heartbeat import Beat, Phase
from support.survival.pods import Pods
from support.survival.ranks import Gang
from support.survival.scene import PROCESSES, Scene, Steps, steps_of

JOB = "stopped"
# Phases of a rank in which it is struck, with how many seconds into the phase a stop comes at the latest. A step has
# four micro-batches; a stop that comes when the phase is over strikes the one that follows it.
RANK_PHASES = {
    "load": (Phase.LOAD, 0.8),
    "first step": (Phase.FIRST_STEP, 0.1),
    "step and accumulation": (Phase.STEP, 0.1),
    "evaluation": (Phase.EVALUATE, 0.1),
    "save": (Phase.SAVE, 0.02),
    "export": (Phase.EXPORT, 0.05),
    "publish": (Phase.PUBLISH, 0.15),
}
# What a pod does in processes of its own before its ranks train.
POD_PHASES = ("prepare", "import and download")
# These come after the last step: they are struck when all other stops are done.
_AT_THE_END = ("export", "publish")
_EVALUATION_STEPS, _SAVE_STEPS = 10, 7
# A stop waits for its phase, which comes after so many steps at the latest on average.
_STEPS_PER_STOP = 6


@dataclass
class Tally:
    """What became of the stops of ranks.

    Attributes:
        by_phase: how many struck, by the phase that they were meant for.
        lost: of each stop, how many finished steps the next attempt did again.
        too_late: stops that came when the artifact was published already.
    """

    by_phase: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    too_late: int = 0
    attempts: int = 0
    last: Steps = field(default_factory=lambda: Steps(0, 0))

    def resumed(self, steps: Steps | None) -> None:
        """An attempt is over."""
        self.attempts += 1
        if steps:
            self.lost.append(self.last.last - steps.first)
            assert self.lost[-1] <= 1, f"{self.lost[-1]} steps were lost"
            self.last = steps


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Stops one job ``count`` times, in turn in each phase at a random instant, and lets it come to its end.

    Raises:
        AssertionError: a stop was reported as anything but a preemption, cost more than a step, or changed the weights.
    """
    stops, tally = list(_stops(Random(seed), count)), Tally()
    scene = Scene(
        folder,
        maxSteps=20 + _STEPS_PER_STOP * count,
        globalBatchSize=8,
        micro_batch_size=1,
        checkpoint={"everySteps": _SAVE_STEPS, "keepAfterSuccess": True},
        evaluation={"everySteps": _EVALUATION_STEPS},
    )
    with scene.attempt("undisturbed", 1) as gang:
        assert gang.end() == [0] * PROCESSES, gang.tail()
    _stop_pods(scene, tally, [stop for stop in stops if stop[0] in POD_PHASES])
    for phase, seconds in sorted((stop for stop in stops if stop[0] in RANK_PHASES), key=_at_the_end):
        _stop_ranks(scene, tally, phase, seconds)
    with scene.attempt(JOB, tally.attempts + 1) as gang:
        assert gang.end() == [0] * PROCESSES, gang.tail()
        tally.resumed(steps_of(gang.log.read_text()))
    assert scene.weights(JOB) == scene.weights("undisturbed"), "the weights differ"
    return {
        "stops": tally.by_phase.total(),
        "byPhase": dict(tally.by_phase),
        "tooLate": tally.too_late,
        "stepsLostAtMost": max(tally.lost, default=0),
        "sameWeights": True,
    }


def _stops(random: Random, count: int) -> Iterator[tuple[str, float]]:
    """Phase of each stop, and how far into it: seconds in a rank's, a share of the time in a pod's."""
    phases = (*RANK_PHASES, *POD_PHASES)
    for number in range(count):
        phase = phases[number % len(phases)]
        yield phase, random.uniform(0, RANK_PHASES[phase][1] if phase in RANK_PHASES else 1)


def _at_the_end(stop: tuple[str, float]) -> bool:
    return stop[0] in _AT_THE_END


def _stop_pods(scene: Scene, tally: Tally, stops: list[tuple[str, float]]) -> None:
    if not stops:
        return
    pods = Pods(scene)
    for number, (phase, share) in enumerate(stops):
        struck = pods.stop(f"pod-{number}", phase, share)
        tally.by_phase[phase] += struck
        tally.too_late += not struck
    print(f"{len(stops)} pods stopped", file=sys.stderr, flush=True)


def _stop_ranks(scene: Scene, tally: Tally, phase: str, seconds: float) -> None:
    with scene.attempt(JOB, tally.attempts + 1) as gang:
        assert gang.wait_for(partial(_is_time, phase, tally.last.last)), f"no {phase}\n{gang.tail()}"
        time.sleep(seconds)
        for rank in range(PROCESSES):
            gang.signal(rank, SIGTERM)
        codes = gang.end()
        tally.resumed(steps_of(gang.log.read_text()))
        if codes == [0] * PROCESSES:
            assert phase == "publish", f"{phase} was a success\n{gang.tail()}"
            assert scene.published(JOB)
            tally.too_late += 1
            return
        _check_preempted(gang, phase, codes)
        tally.by_phase[phase] += 1
    if tally.attempts % 10 == 0:
        print(f"{tally.attempts} ranks stopped, at step {tally.last.last}", file=sys.stderr, flush=True)


def _is_time(phase: str, first: int, beat: Beat) -> bool:
    """Whether a rank is in the phase, or was: on a busy machine one that is over in a moment may go by unseen."""
    return beat.phase is RANK_PHASES[phase][0] or (phase not in _AT_THE_END and beat.step > first + _EVALUATION_STEPS)


def _check_preempted(gang: Gang, phase: str, codes: list[int]) -> None:
    """Rank 0 publishes alone: by then the others have ended well."""
    outcome = gang.outcome()
    told = f"{phase}: {codes}, {outcome}\n{gang.tail()}"
    assert codes[0] == ExitCode.PREEMPTED, told
    assert set(codes[1:]) <= ({ExitCode.PREEMPTED, 0} if phase in _AT_THE_END else {ExitCode.PREEMPTED}), told
    assert outcome, told
    assert outcome.failure, told
    assert outcome.failure.failure_class is FailureClass.PREEMPTED, told
