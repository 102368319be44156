"""Ranks that the others wait for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from finetune_trainer.training.stragglers import Pace, find_stragglers


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        ([1.0, 1.0, 1.0, 1.0], []),
        ([1.0, 1.4, 1.0, 1.0], []),
        ([1.0, 1.0, 2.1, 1.0], [(2, "2.1")]),
        ([1.0, 1.0, 1.0, 3.0, 5.0], [(4, "5.0"), (3, "3.0")]),
        ([0.001, 0.001, 0.015], []),
        ([0.0, 0.0, 0.5], [(2, "500000.0")]),
        ([1.0, 4.0], [(1, "1.6")]),
        ([1.0] * 20 + [9.0] * 12, [(rank, "9.0") for rank in range(20, 28)]),
    ],
)
def test_stragglers(seconds: list[float], named: list[tuple[int, str]]) -> None:
    assert [(found.rank, found.ratio) for found in find_stragglers(seconds)] == named


class _Ranks:
    """Three ranks in step, each with a clock of its own."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.sums = seconds, 0
        self.now = [0.0] * len(seconds)
        self.paces = [Pace(rank, len(seconds), self._clock(rank)) for rank in range(len(seconds))]

    def _clock(self, rank: int) -> Callable[[], float]:
        return lambda: self.now[rank]

    def step(self) -> None:
        given: list[list[float]] = []
        for rank, pace in enumerate(self.paces):
            with pace.own_work():
                self.now[rank] += self.seconds[rank]
            pace.end_step(lambda *values: given.append(list(values)) or list(values))
        if given:
            self.sums += 1
            together = [sum(column) for column in zip(*given, strict=True)]
            for pace in self.paces:
                pace.stragglers = find_stragglers(together)


def test_ranks_are_compared_every_twenty_steps() -> None:
    ranks = _Ranks([0.1, 0.1, 0.3])
    for _ in range(45):
        ranks.step()
    assert ranks.sums == 2
    assert [(found.rank, found.ratio) for found in ranks.paces[0].stragglers] == [(2, "3.0")]
    ranks.seconds[2] = 0.1
    for _ in range(35):
        ranks.step()
    assert ranks.paces[0].stragglers == ()


def test_one_process_has_nobody_to_compare_with() -> None:
    pace = Pace(0, 1)

    def never(*values: float) -> list[float]:
        raise AssertionError("nothing is summed")

    for _ in range(50):
        with pace.own_work():
            pass
        pace.end_step(never)
    assert pace.stragglers == ()
