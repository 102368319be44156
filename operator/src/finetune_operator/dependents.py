"""Who waits for whom: a job that changes concerns those that need its result. In memory, since looking at every job
after a start fills it again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Dependents(Generic[K]):
    """Jobs that wait, each with the jobs that it needs."""

    def __init__(self) -> None:
        self._needs: dict[K, frozenset[K]] = {}

    def set(self, key: K, needs: Iterable[K]) -> None:
        """Replaces what a job is known to need; nothing forgets it."""
        known = frozenset(needs)
        if known:
            self._needs[key] = known
        else:
            self._needs.pop(key, None)

    def of(self, key: K) -> tuple[K, ...]:
        """Jobs that need this one."""
        return tuple(job for job, needs in self._needs.items() if key in needs)
