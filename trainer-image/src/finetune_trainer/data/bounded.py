"""Runs what a stranger wrote, such as a chat template, for a limited time and with limited memory."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path
from types import FrameType

SECONDS = 10.0
BYTES = 1 << 30
# What was raised may be caught by the code that it is to end: then again, and again.
_AGAIN_SECONDS = 0.5
_AT_ONCE = 0.001


class TookTooLong(Exception):
    """The time was over."""


class Bounded:
    """A ``with`` block in which at most ``seconds`` pass and about ``extra`` bytes are allocated.

    Memory is that which the process has when this is made, and ``extra`` beyond it. Beyond the main thread there are no
    limits, since neither would tell who has exceeded it.

    Raises:
        TookTooLong: in the block, when its time is over.
        MemoryError: in the block.
    """

    def __init__(self, seconds: float = SECONDS, extra: int = BYTES) -> None:
        self._seconds, self._armed = seconds, threading.current_thread() is threading.main_thread()
        self._usual = resource.getrlimit(resource.RLIMIT_DATA)
        soft, hard = self._usual
        wanted = _data_bytes() + extra
        self._limit = (wanted if soft == resource.RLIM_INFINITY else min(wanted, soft), hard)

    def __enter__(self) -> None:
        if self._armed:
            resource.setrlimit(resource.RLIMIT_DATA, self._limit)
            self._handler, self._begun = signal.signal(signal.SIGALRM, _end), time.monotonic()
            self._former = signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_SECONDS)

    def renew(self) -> None:
        """Gives what follows in the block all of its time: much cheaper than another block."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_SECONDS)

    def __exit__(self, *_: object) -> None:
        if not self._armed:
            return
        resource.setrlimit(resource.RLIMIT_DATA, self._usual)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, self._handler)
            left, interval = self._former
            if left:
                # Somebody else's timer goes on where it was.
                left = max(left - (time.monotonic() - self._begun), _AT_ONCE)
                signal.setitimer(signal.ITIMER_REAL, left, interval)


def _end(number: int, frame: FrameType | None) -> None:
    raise TookTooLong(f"it takes longer than {SECONDS:.0f} s")


def _data_bytes() -> int:
    """Memory that counts against RLIMIT_DATA, in bytes: see proc_pid_statm(5), setrlimit(2)."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()
