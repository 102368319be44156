"""How long each phase of a rank lasts on this machine, seen in a run that nobody disturbs."""

from __future__ import annotations

import statistics
from collections import defaultdict

from finetune_trainer.training.heartbeat import Beat, Phase


class Windows:
    """Takes in what a rank does, beat by beat. Each step, evaluation and save is a phase of its own."""

    def __init__(self) -> None:
        self._now: tuple[Phase, int] | None = None
        self._since = 0.0
        self._seconds = defaultdict[Phase, list[float]](list)

    def look(self, beat: Beat) -> bool:
        """Looks at a rank; False, since it waits for nothing."""
        self._change((beat.phase, beat.step), beat.since)
        return False

    def end(self, at: float) -> None:
        """The rank has ended, at a time of the monotonic clock."""
        self._change(None, at)

    def _change(self, now: tuple[Phase, int] | None, since: float) -> None:
        if now == self._now:
            return
        if self._now:
            self._seconds[self._now[0]].append(since - self._since)
        self._now, self._since = now, since

    def seconds(self, phase: Phase) -> float:
        """The median of how long a phase lasted.

        Raises:
            AssertionError: it was never seen.
        """
        assert phase in self._seconds, f"no {phase.name} was seen"
        return statistics.median(self._seconds[phase])
