"""How long prepare pods have said nothing: in memory, by a clock that nobody sets.

What a new operator does not know of cannot be held against a pod: silence counts from when it first saw the pod run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

Name = tuple[str, str]


@dataclass(frozen=True)
class Silence:
    """How long nothing was heard of a pod that runs, and whether anything ever was."""

    lasting: timedelta
    spoken: bool


@dataclass(frozen=True)
class _Heard:
    born: datetime
    at: float
    spoken: bool


class Hearing:
    """When each prepare pod was last heard of. A pod is known by its job and by when it was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._clock = clock
        self._last: dict[Name, _Heard] = {}

    def heard(self, name: Name, born: datetime) -> None:
        """A pod said that it goes on; an older one than is known counts no more."""
        known = self._last.get(name)
        if known is None or known.born <= born:
            self._last[name] = _Heard(born, self._clock(), spoken=True)

    def missed(self, name: Name) -> None:
        """Somebody said something, and who it was could not be found out."""
        if known := self._last.get(name):
            self._last[name] = replace(known, at=self._clock())

    def silence(self, name: Name, born: datetime | None) -> Silence | None:
        """Of the pod that is seen running and was made at ``born``; None while none runs."""
        if born is None:
            self.forget(name)
            return None
        known = self._last.get(name)
        if known is None or known.born != born:
            known = self._last[name] = _Heard(born, self._clock(), spoken=False)
        return Silence(timedelta(seconds=self._clock() - known.at), known.spoken)

    def forget(self, name: Name) -> None:
        """There is no such job, or no pod of it prepares."""
        self._last.pop(name, None)
