"""A job that is asked to stop again and again, in every phase: what each stop costs, and that none is a success."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
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
from support.survival.windows import Windows

JOB = "stopped"
# Phases of a rank in which it is struck. A step has four micro-batches.
RANK_PHASES = {
    "load": Phase.LOAD,
    "first step": Phase.FIRST_STEP,
    "step and accumulation": Phase.STEP,
    "evaluation": Phase.EVALUATE,
    "save": Phase.SAVE,
    "export": Phase.EXPORT,
    "publish": Phase.PUBLISH,
}
# What a pod does in processes of its own before its ranks train.
POD_PHASES = ("prepare", "import and download")
# These come after the last step: they are struck when all other stops are done.
_AT_THE_END = ("export", "publish")
_EVALUATION_STEPS, _SAVE_STEPS = 10, 7
# A stop waits for its phase, which comes after so many steps at the latest on average.
_STEPS_PER_STOP = 6
# A phase may be over when the stop comes: then its instant is drawn again, so often at most. Each time it is a bit
# earlier, since the machine may have become faster than it was in the undisturbed run.
_DRAWS, _EARLIER = 20, 0.9


@dataclass(frozen=True)
class Stop:
    """One stop: the phase it is meant for, and the chance that draws its instants, as shares of the phase."""

    phase: str
    random: Random


@dataclass
class Tally:
    """What became of the stops.

    Attributes:
        by_phase: how many struck, by the phase that they were meant for.
        too_late: how many came when that phase was over, and were drawn again.
        lost: of each stop of ranks, how many finished steps the next attempt did again.
    """

    by_phase: Counter[str] = field(default_factory=Counter)
    too_late: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
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
        AssertionError: a stop was reported as anything but a preemption, cost more than a step, or changed the weights;
            or no stop came in time for its phase.
    """
    stops, tally = _stops(seed, count), Tally()
    scene = Scene(
        folder,
        maxSteps=20 + _STEPS_PER_STOP * count,
        globalBatchSize=8,
        micro_batch_size=1,
        checkpoint={"everySteps": _SAVE_STEPS, "keepAfterSuccess": True},
        evaluation={"everySteps": _EVALUATION_STEPS},
    )
    windows = _undisturbed(scene)
    _stop_pods(scene, tally, [stop for stop in stops if stop.phase in POD_PHASES])
    for stop in sorted((stop for stop in stops if stop.phase in RANK_PHASES), key=_at_the_end):
        _strike(tally, stop, partial(_stop_ranks, scene, tally, stop.phase, windows.seconds(RANK_PHASES[stop.phase])))
    with scene.attempt(JOB, tally.attempts + 1) as gang:
        assert gang.end() == [0] * PROCESSES, gang.tail()
        tally.resumed(steps_of(gang.log.read_text()))
    assert scene.weights(JOB) == scene.weights("undisturbed"), "the weights differ"
    return {
        "stops": tally.by_phase.total(),
        "byPhase": dict(tally.by_phase),
        "tooLate": dict(tally.too_late),
        "stepsLostAtMost": max(tally.lost, default=0),
        "sameWeights": True,
    }


def _stops(seed: int, count: int) -> list[Stop]:
    phases = (*RANK_PHASES, *POD_PHASES)
    # Each has a chance of its own: how often one is drawn again, which the machine decides, changes no other.
    return [Stop(phases[number % len(phases)], Random(f"{seed} {number}")) for number in range(count)]


def _at_the_end(stop: Stop) -> bool:
    return stop.phase in _AT_THE_END


def _undisturbed(scene: Scene) -> Windows:
    windows = Windows()
    with scene.attempt("undisturbed", 1) as gang:
        gang.wait_for(windows.look)
        assert gang.end() == [0] * PROCESSES, gang.tail()
        windows.end(gang.told_at())
    return windows


def _strike(tally: Tally, stop: Stop, strike: Callable[[float], bool]) -> None:
    """Strikes at a random share of a phase, again and again until the phase is not over by then."""
    for draw in range(_DRAWS):
        if strike(stop.random.random() * _EARLIER**draw):
            tally.by_phase[stop.phase] += 1
            return
        tally.too_late[stop.phase] += 1
    raise AssertionError(f"{stop.phase} was over each time")


def _stop_pods(scene: Scene, tally: Tally, stops: list[Stop]) -> None:
    if not stops:
        return
    pods = Pods(scene)
    for stop in stops:
        _strike(tally, stop, partial(pods.stop, stop.phase))
    print(f"{len(stops)} pods stopped", file=sys.stderr, flush=True)


def _stop_ranks(scene: Scene, tally: Tally, phase: str, window: float, share: float) -> bool:
    """Stops an attempt after a share of the ``window`` seconds of a phase; False when the phase was over by then."""
    with scene.attempt(JOB, tally.attempts + 1) as gang:
        struck = _struck(gang, phase, tally.last.last, share * window)
        codes = gang.end()
        tally.resumed(steps_of(gang.log.read_text()))
        if codes == [0] * PROCESSES:
            assert phase in _AT_THE_END, f"{phase} was a success\n{gang.tail()}"
            assert scene.published(JOB)
            return False
        _check_preempted(gang, phase, codes)
    if tally.attempts % 10 == 0:
        print(f"{tally.attempts} attempts, at step {tally.last.last}", file=sys.stderr, flush=True)
    return struck


def _struck(gang: Gang, phase: str, first: int, seconds: float) -> bool:
    """Stops all ranks so long after a phase began; whether it was not over by then.

    On a busy machine the last phases may go by unseen: then nobody is left to be stopped.
    """
    seen = gang.wait_for(partial(_is_time, phase, first))
    if seen:
        time.sleep(max(0.0, seen.since + seconds - time.monotonic()))
    beat = gang.beat()
    for rank in range(PROCESSES):
        gang.signal(rank, SIGTERM)
    return bool(seen and beat and beat.phase is RANK_PHASES[phase])


def _is_time(phase: str, first: int, beat: Beat) -> bool:
    """Whether a rank is in the phase, or was: on a busy machine one that is over in a moment may go by unseen."""
    return beat.phase is RANK_PHASES[phase] or (phase not in _AT_THE_END and beat.step > first + _EVALUATION_STEPS)


def _check_preempted(gang: Gang, phase: str, codes: list[int]) -> None:
    """Rank 0 publishes alone: by then the others have ended well."""
    outcome = gang.outcome()
    told = f"{phase}: {codes}, {outcome}\n{gang.tail()}"
    assert codes[0] == ExitCode.PREEMPTED, told
    assert set(codes[1:]) <= ({ExitCode.PREEMPTED, 0} if phase in _AT_THE_END else {ExitCode.PREEMPTED}), told
    assert outcome, told
    assert outcome.failure, told
    assert outcome.failure.failure_class is FailureClass.PREEMPTED, told
