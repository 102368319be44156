"""Names ranks that compute slower than the others, which all of them wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from finetune_api.progress import MAX_STRAGGLERS, Straggler

# Slower than this many times the median, and by so many seconds a step: less is noise.
_RATIO = 1.5
_SECONDS = 0.02
_EVERY_STEPS = 20

SumOverRanks = Callable[..., list[float]]


def find_stragglers(seconds: Sequence[float]) -> tuple[Straggler, ...]:
    """Ranks whose own part of a step takes much longer than the median, slowest first.

    Args:
        seconds: by rank, the time of the forward passes of a step.
    """
    usual = median(seconds)
    slow = [(rank, value) for rank, value in enumerate(seconds) if value > _RATIO * usual and value - usual > _SECONDS]
    slow.sort(key=lambda item: -item[1])
    return tuple(Straggler(rank=rank, ratio=f"{value / max(usual, 1e-6):.1f}") for rank, value in slow[:MAX_STRAGGLERS])


class Pace:
    """How long this rank computes by itself, compared with the others now and then.

    What is measured are forward passes: a backward pass waits for the other ranks. Below ZeRO stage 3 nobody waits in
    them; on GPUs they are asynchronous, so that only what delays the host shows.
    """

    def __init__(self, rank: int, world_size: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rank, self._world_size, self._clock = rank, world_size, clock
        self._seconds, self._steps = 0.0, 0
        self.stragglers: tuple[Straggler, ...] = ()

    @contextmanager
    def own_work(self) -> Iterator[None]:
        """Around work that waits for nobody."""
        started = self._clock()
        yield
        self._seconds += self._clock() - started

    def end_step(self, sum_over_ranks: SumOverRanks) -> None:
        """Ends a step; every 20th compares the ranks. Collective."""
        self._steps += 1
        if self._world_size == 1 or self._steps % _EVERY_STEPS:
            return
        mine = self._seconds / _EVERY_STEPS
        self._seconds = 0.0
        seconds = sum_over_ranks(*(mine if rank == self._rank else 0.0 for rank in range(self._world_size)))
        self.stragglers = find_stragglers(seconds)
