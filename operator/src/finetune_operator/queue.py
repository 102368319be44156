"""A work queue: each key is worked on by one task at a time, failures come back later and later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from finetune_operator.errors import OperatorError

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 60.0


def backoff_seconds(failures: int) -> float:
    """Wait after a number of failures in a row: 0.5 s doubling up to 60 s."""
    return min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), _LONGEST_BACKOFF_SECONDS)


class WorkQueue(Generic[K]):
    """Runs ``work(key)`` for every key that was added; several adds before it starts are one.

    A key added while it is being worked on is worked on again afterwards: nothing that happened meanwhile is missed.
    """

    def __init__(self, work: Callable[[K], Awaitable[timedelta | None]], workers: int) -> None:
        self._work = work
        self._slots = asyncio.Semaphore(workers)
        self._dirty: set[K] = set()
        self._active: dict[K, asyncio.Task[None]] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Asks for a key to be worked on."""
        self._dirty.add(key)
        if key not in self._active:
            task = asyncio.create_task(self._run(key))
            self._active[key] = task
            task.add_done_callback(lambda _: self._done(key))

    def add_after(self, key: K, seconds: float) -> None:
        """Asks for a key to be worked on after a while; the earlier of two times counts."""
        due = asyncio.get_running_loop().time() + max(0.0, seconds)
        known = self._timers.get(key)
        if known and not known.cancelled() and known.when() <= due:
            return
        if known:
            known.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._fire, key)

    @property
    def waiting(self) -> int:
        """Keys that are to be worked on as soon as it is their turn."""
        return len(self._dirty)

    @property
    def failing(self) -> int:
        """Keys whose last work failed."""
        return len(self._failures)

    async def close(self) -> None:
        """Forgets all timers and ends the work under way."""
        for timer in self._timers.values():
            timer.cancel()
        self._dirty.clear()
        tasks = tuple(self._active.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _done(self, key: K) -> None:
        self._active.pop(key, None)
        if key in self._dirty:
            self.add(key)

    async def _run(self, key: K) -> None:
        async with self._slots:
            self._dirty.discard(key)
            try:
                again = await self._work(key)
            except OperatorError as error:
                self._retry(key, str(error))
            except Exception:
                # A defect in one job's handling must not end the service of all others.
                logger.exception("%s: unexpected error", key)
                self._retry(key, "unexpected error")
            else:
                self._failures.pop(key, None)
                if again is not None:
                    self.add_after(key, again.total_seconds())

    def _retry(self, key: K, problem: str) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = backoff_seconds(failures)
        logger.warning("%s: %s; again in %.1f s", key, problem, delay)
        self.add_after(key, delay)
