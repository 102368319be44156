"""Has all ranks wait while rank 0 writes weights, for as long as it gets on.

A collective waits for minutes and the watchdog for an hour, but weights of any size may be on their way to a store that
is slow. So rank 0 says after each piece that more is to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from finetune_trainer.artifact.weights import Target, Weights
from finetune_trainer.storage.interface import Writer
from finetune_trainer.training.collectives import total
from finetune_trainer.training.heartbeat import AnyPulse, Phase

_PIECE_BYTES = 64 * 1024**2
_T = TypeVar("_T")


class Lead:
    """What rank 0 and the others do meanwhile."""

    def __init__(self, leads: bool, pulse: AnyPulse, device: torch.device) -> None:
        """``leads`` on rank 0 only."""
        self._leads, self._pulse, self._device = leads, pulse, device

    def turn(self) -> None:
        """Rank 0 has written what there was; the others wait for that. Collective."""
        while self._more(0.0) and not self._leads:
            pass

    def turns(self, items: Iterable[_T]) -> Iterator[_T]:
        """Items that all ranks take together, each with a turn before the next one. Collective."""
        for item in items:
            yield item
            self.turn()

    def paced(self, target: Target) -> Target:
        """A target on rank 0 that tells the others, who are in their turn, of each piece that it has taken."""
        return Target(target.folder, _Paced(target.weights, self._moved))

    def _moved(self) -> None:
        self._more(1.0)

    def _more(self, value: float) -> bool:
        # Whatever was waited for has come: the time limit of the phase begins anew.
        self._pulse.enter(Phase.EXPORT)
        return total(value, self._device) > 0


class _Paced:
    def __init__(self, weights: Weights, moved: Callable[[], None]) -> None:
        self._weights, self._moved = weights, moved

    @contextmanager
    def writing(self, name: str, size: int) -> Iterator[Writer]:
        with self._weights.writing(name, size) as writer:
            yield _PacedWriter(writer, self._moved)


class _PacedWriter:
    def __init__(self, writer: Writer, moved: Callable[[], None]) -> None:
        self._writer, self._moved = writer, moved
        self._untold = 0

    def write(self, content: bytes | memoryview, /) -> int:
        view = memoryview(content)
        for begin in range(0, len(view), _PIECE_BYTES):
            self._untold += self._writer.write(view[begin : begin + _PIECE_BYTES])
            if self._untold >= _PIECE_BYTES:
                self._moved()
                self._untold = 0
        return len(view)
