"""Where each training process is and how long that may last, in a small file that the pod's watchdog reads.

The process writes at every step and change of phase, into memory that it shares with the reader: that costs a
microsecond, and the reader needs nothing of a process that does not answer any more.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

# Sent by the watchdog: every thread's stack is appended to the process's file, even when the interpreter is stuck.
STACKS_SIGNAL = signal.SIGUSR1
# Seconds between two signs of life of a process, from a thread that does nothing else.
TICK_SECONDS = 1.0
_REMEMBERED_STEPS = 512
# In the first step kernels are compiled and memory is found: with so many known, it says nothing of the others.
_TELLING_STEPS = 3
# sequence, pid, phase, step; begin of the phase, its limit, and the last sign of life.
_LAYOUT = struct.Struct("=4q3d")
_SEQUENCE = struct.Struct("=q")
_ALIVE = struct.Struct("=d")
_ALIVE_AT = _LAYOUT.size - _ALIVE.size
_READS = 10


class Phase(IntEnum):
    """What a training process is doing."""

    START = 0
    LOAD = 1
    FIRST_STEP = 2
    STEP = 3
    EVALUATE = 4
    SAVE = 5
    EXPORT = 6
    PUBLISH = 7


# Seconds. What is known of steps says nothing of the others. Publishing has no collectives and its own time limits.
_LIMITS = {
    Phase.START: 1800.0,
    Phase.LOAD: 3600.0,
    Phase.FIRST_STEP: 1800.0,
    Phase.EVALUATE: 3600.0,
    Phase.SAVE: 3600.0,
    Phase.EXPORT: 3600.0,
    Phase.PUBLISH: float("inf"),
}


def step_limit(seconds: Sequence[float], least: float) -> float:
    """How long a step may take: three times the 99th percentile of the last ones, and at least ``least`` seconds.

    Of up to 50 steps that percentile is the slowest.
    """
    ordered = sorted(seconds)
    return max(3.0 * ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))], least)


@dataclass(frozen=True)
class Beat:
    """What a process said last. Times are those of the machine's monotonic clock, in seconds."""

    rank: int
    pid: int
    phase: Phase
    step: int
    since: float
    limit: float
    alive: float


class StepTimes:
    """How long the last steps took, and from that, how long the next one may take."""

    def __init__(self, least: float) -> None:
        """``least`` is the shortest limit, in seconds."""
        self._least, self._known = least, 0
        self._recent: deque[float] = deque(maxlen=_REMEMBERED_STEPS)

    def add(self, seconds: float) -> None:
        """A step is over."""
        self._recent.append(seconds)
        self._known += 1
        if self._known == _TELLING_STEPS:
            self._recent.popleft()

    @property
    def next(self) -> tuple[Phase, float]:
        """What comes now and its limit in seconds: the first step, or one that can be compared with others."""
        if not self._recent:
            return Phase.FIRST_STEP, _LIMITS[Phase.FIRST_STEP]
        return Phase.STEP, step_limit(self._recent, self._least)


class Pulse:
    """The writer, in the process that trains."""

    def __init__(self, path: Path, least: float) -> None:
        self._times, self._in_step = StepTimes(least), False
        self._phase, self._step, self._since, self._sequence = Phase.START, 0, time.monotonic(), 0
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.enter(Phase.START)
        threading.Thread(target=self._tick, name="pulse", daemon=True).start()

    def enter(self, phase: Phase) -> None:
        """A phase begins; steps are told by :meth:`step`."""
        self._end_step()
        self._begin(phase, _LIMITS[phase])

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A phase that ends with the ``with`` block; then comes the way to the next step, or what was before."""
        outer = self._phase
        self.enter(phase)
        yield
        if outer in (Phase.FIRST_STEP, Phase.STEP):
            self._begin(*self._times.next)
        else:
            self._begin(outer, _LIMITS[outer])

    def step(self, done: int) -> None:
        """A step begins, after ``done`` optimizer steps."""
        self._end_step()
        self._step, self._in_step = done, True
        self._begin(*self._times.next)

    def _end_step(self) -> None:
        if self._in_step:
            self._times.add(time.monotonic() - self._since)
        self._in_step = False

    def _begin(self, phase: Phase, limit: float) -> None:
        self._phase, self._since = phase, time.monotonic()
        self._write(limit)

    def _write(self, limit: float) -> None:
        # An odd sequence number: what follows is being written.
        _SEQUENCE.pack_into(self._memory, 0, self._sequence + 1)
        self._sequence += 2
        values = (0, os.getpid(), self._phase, self._step, self._since, limit, time.monotonic())
        self._memory[_SEQUENCE.size :] = _LAYOUT.pack(*values)[_SEQUENCE.size :]
        _SEQUENCE.pack_into(self._memory, 0, self._sequence)

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            _ALIVE.pack_into(self._memory, _ALIVE_AT, time.monotonic())


class NoPulse:
    """Takes its place where nobody watches."""

    def enter(self, phase: Phase) -> None:
        """Does nothing."""

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Does nothing."""
        yield

    def step(self, done: int) -> None:
        """Does nothing."""


AnyPulse = Pulse | NoPulse


def read_beat(path: Path, rank: int) -> Beat | None:
    """What a process said last; None before it has said anything."""
    for _ in range(_READS):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if len(content) < _LAYOUT.size:
            return None
        sequence, pid, phase, step, since, limit, alive = _LAYOUT.unpack(content)
        # One that was stopped in the middle of writing is read as it is.
        if sequence % 2 == 0 and path.read_bytes()[: _SEQUENCE.size] == content[: _SEQUENCE.size]:
            break
    return Beat(rank, pid, Phase(phase), step, since, limit, alive) if pid else None


def write_stacks_on_signal(path: Path) -> None:
    """From here on ``STACKS_SIGNAL`` appends the stacks of all threads to a file."""
    # Open for as long as the process lives: a signal handler cannot open anything.
    file = path.open("a", encoding="utf-8")
    faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True)
