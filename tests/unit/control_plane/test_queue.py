"""The work queue: one task per key, nothing missed, and patience with failures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from finetune_operator.errors import KubeError
from finetune_operator.queue import WorkQueue, backoff_seconds


class _Work:
    """Work that waits until it is let go, and tells who is at it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.active: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers: list[timedelta | Exception | None] = []

    async def __call__(self, key: str) -> timedelta | None:
        self.calls.append(key)
        self.active[key] += 1
        self.most[key] = max(self.most[key], self.active[key])
        self.most["all"] = max(self.most["all"], sum(self.active.values()))
        try:
            await self.gate.wait()
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.active[key] -= 1


@pytest.fixture
async def work() -> _Work:
    return _Work()


@pytest.fixture
async def queue(work: _Work) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue(work, workers=2)
    yield queue
    await queue.close()


async def _until(true: Callable[[], bool]) -> None:
    """Lets others run until something holds; the test's own timeout ends a vain wait."""
    while not true():
        await asyncio.sleep(0)


async def _idle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_key_is_worked_on(queue: WorkQueue[str], work: _Work) -> None:
    queue.add("a")
    await _until(lambda: work.calls == ["a"])
    await _idle()
    assert work.calls == ["a"]


async def test_adds_before_it_starts_are_one(queue: WorkQueue[str], work: _Work) -> None:
    for _ in range(5):
        queue.add("a")
    await _idle()
    assert work.calls == ["a"]


async def test_key_that_was_added_meanwhile_is_worked_on_once_more(queue: WorkQueue[str], work: _Work) -> None:
    work.gate.clear()
    queue.add("a")
    await _until(lambda: work.active["a"] == 1)
    for _ in range(5):
        queue.add("a")
    await _idle()
    assert work.calls == ["a"]
    work.gate.set()
    await _idle()
    assert work.calls == ["a", "a"]
    assert work.most["a"] == 1


async def test_keys_run_beside_each_other_up_to_the_number_of_workers(queue: WorkQueue[str], work: _Work) -> None:
    work.gate.clear()
    for key in "abcd":
        queue.add(key)
    await _idle()
    assert sorted(work.calls) == ["a", "b"]
    work.gate.set()
    await _until(lambda: len(work.calls) == 4)
    assert work.most["all"] == 2


async def test_key_comes_back_after_the_time_it_asked_for(queue: WorkQueue[str], work: _Work) -> None:
    work.answers = [timedelta(milliseconds=5), None]
    queue.add("a")
    await _until(lambda: len(work.calls) == 2)
    await _idle()
    assert work.calls == ["a", "a"]


async def test_zero_means_at_once(queue: WorkQueue[str], work: _Work) -> None:
    work.answers = [timedelta(0)]
    queue.add("a")
    await _until(lambda: len(work.calls) == 2)
    assert work.calls == ["a", "a"]


class _Clock:
    """Stands in for the timers of the loop: calls are kept, and fired by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)
        self.pending: list[_Timer] = []

    def _call_at(self, due: float, call: Callable[[str], None], key: str) -> _Timer:
        timer = _Timer(due, call, key)
        self.pending.append(timer)
        return timer

    def waits(self) -> list[float]:
        return [round(timer.due - self.now, 6) for timer in self.pending if not timer.is_cancelled]

    def advance(self) -> None:
        """To the next timer, and fires it."""
        timer = min((timer for timer in self.pending if not timer.is_cancelled), key=lambda timer: timer.due)
        self.pending.remove(timer)
        self.now = timer.due
        timer.call(timer.key)


class _Timer:
    def __init__(self, due: float, call: Callable[[str], None], key: str) -> None:
        self.due, self.call, self.key, self.is_cancelled = due, call, key, False

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Clock]:
    with monkeypatch.context() as patch:
        yield _Clock(patch)


@pytest.mark.parametrize(
    "error", [KubeError(500, "InternalError", "etcd is away"), ValueError("a defect")], ids=["refused", "defect"]
)
async def test_failures_come_back_later_and_later(clock: _Clock, work: _Work, error: Exception) -> None:
    queue = WorkQueue(work, workers=1)
    work.answers = [error] * 9
    queue.add("a")
    waits = []
    for _ in range(9):
        await _idle()
        waits += clock.waits()
        clock.advance()
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    await _idle()
    assert clock.waits() == []


async def test_success_forgets_the_failures(clock: _Clock, work: _Work) -> None:
    queue = WorkQueue(work, workers=1)
    broken = KubeError(500, "InternalError", "away")
    work.answers = [broken, broken, None, broken]
    queue.add("a")
    await _idle()
    clock.advance()
    await _idle()
    assert clock.waits() == [1]
    clock.advance()
    await _idle()
    queue.add("a")
    await _idle()
    assert clock.waits() == [0.5]


async def test_failing_key_does_not_hold_up_others(clock: _Clock, work: _Work) -> None:
    queue = WorkQueue(work, workers=1)
    work.answers = [ValueError("a defect"), None]
    queue.add("a")
    queue.add("b")
    await _idle()
    assert work.calls == ["a", "b"]


@pytest.mark.parametrize(("times", "left"), [((9, 5), [5]), ((5, 9), [5]), ((5, 5), [5]), ((-1,), [0])])
async def test_earlier_of_two_times_counts(
    clock: _Clock, work: _Work, times: tuple[float, ...], left: list[int]
) -> None:
    queue = WorkQueue(work, workers=1)
    for seconds in times:
        queue.add_after("a", seconds)
    assert clock.waits() == left
    clock.advance()
    await _idle()
    assert work.calls == ["a"]
    assert clock.waits() == []


async def test_close_ends_work_and_timers(work: _Work, clock: _Clock) -> None:
    queue = WorkQueue(work, workers=1)
    work.gate.clear()
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 5)
    await _idle()
    await queue.close()
    assert clock.waits() == []
    assert work.active["a"] == 0
    work.gate.set()
    await _idle()
    assert work.calls == ["a"]


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1), (7, 32), (8, 60), (10_000, 60)])
def test_backoff(failures: int, seconds: float) -> None:
    assert backoff_seconds(failures) == seconds


async def test_sizes_tell_what_waits_and_what_fails(clock: _Clock, work: _Work) -> None:
    queue: WorkQueue[str] = WorkQueue(work, workers=1)
    assert (queue.waiting, queue.failing) == (0, 0)
    queue.add("a")
    assert queue.waiting == 1
    await queue.close()
    assert queue.waiting == 0
