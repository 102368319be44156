"""SIGTERM and SIGINT: the pod is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune_trainer.errors import Preempted
from finetune_trainer.outcome import STOP_SIGNALS, Terminated


def preempted() -> Preempted:
    """The failure of a process that was asked to stop."""
    return Preempted("the pod was asked to stop before training was done", "nothing: it is started again")


class StopRequest:
    """Turns the first signal into :class:`Terminated`, raised in the main thread wherever it is."""

    def __init__(self) -> None:
        self.received = False
        self._deferred = False

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)
        # The process that started this one may have held them back until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        if first and not self._deferred:
            raise Terminated

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While in it, a signal is only noted in ``received``: whoever is in there looks at it at places of its own.

        Raises:
            Terminated: on the way out, when a signal arrived too late to be looked at.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:
            raise Terminated
