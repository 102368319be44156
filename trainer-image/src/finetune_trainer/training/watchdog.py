"""Finds training processes that make no progress, from a thread of the pod's main process.

A rank that stops makes all others wait for it. Each pod watches its own ranks; where one of them has stopped to give
signs of life, or is behind the others, it is named. The stacks of all ranks are saved before they are ended.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from finetune_trainer.errors import Hung
from finetune_trainer.training.heartbeat import STACKS_SIGNAL, TICK_SECONDS, Beat, Phase, read_beat
from finetune_trainer.workspace import Workspace

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
# A process without a sign of life for so long does not run at all.
_SILENT_SECONDS = 5 * TICK_SECONDS
# Whatever it is doing: nothing keeps the interpreter from switching threads for so long.
_DEAD_SECONDS = 120.0
# By then the stacks are written: another pod may find the stall first, and its end would take these ranks with it.
_SUSPICIOUS_SHARE = 0.6
# Another pod lets a stopped rank run on while it saves its stacks, and then ends it.
_REMEMBERED_SECONDS = 60.0
# What every rank has time for, before the first of them is ended: writing its stacks.
_STACKS_SECONDS = 2.0
# Ranks that only wait are ended later than the one they wait for, so that the pod with the cause says it first.
_WAITING_SECONDS = 5.0
_UPLOAD_SECONDS = 20.0
_REMEDY = "look at the stacks of all ranks in {place} and at the nodes of the ranks that are named"

Upload = Callable[[Mapping[str, bytes]], None]


@dataclass(frozen=True)
class Stall:
    """Ranks of one pod that exceeded a limit.

    Attributes:
        named: those that are the cause as far as this pod can tell; empty when all of them only wait.
        message: what is known, in words.
    """

    ranks: tuple[int, ...]
    named: tuple[int, ...]
    message: str


def find_stall(beats: Sequence[Beat], now: float, share: float = 1.0) -> Stall | None:
    """Whether ranks of a pod have exceeded their limits, or a share of them.

    No rank waits in a step for one that loads, evaluates or saves: ranks leave these phases together.
    """
    late = [beat for beat in beats if now - beat.since > share * beat.limit or now - beat.alive > _DEAD_SECONDS]
    if not late:
        return None
    silent = [beat for beat in beats if now - beat.alive > _SILENT_SECONDS]
    behind = [beat for beat in late if beat.step < max(other.step for other in beats)]
    named = silent or behind
    seconds = max(now - beat.since for beat in late)
    words = _words(named, silent) if named else f"{_names(late)} wait for another one"
    phase = min(late, key=lambda beat: beat.step)
    where = f"step {phase.step + 1}" if phase.phase is Phase.STEP else phase.phase.name.lower().replace("_", " ")
    message = f"no progress in {where} for {seconds:.0f} s: {words}"
    return Stall(tuple(beat.rank for beat in late), tuple(beat.rank for beat in named), message)


def _words(named: Sequence[Beat], silent: Sequence[Beat]) -> str:
    if silent:
        return f"{_names(silent)} gives no sign of life"
    return f"{_names(named)} is behind the others"


def _names(beats: Sequence[Beat]) -> str:
    ranks = ", ".join(str(beat.rank) for beat in beats[:8])
    return f"rank{'s' if len(beats) > 1 else ''} {ranks}{', …' if len(beats) > 8 else ''}"


def _no_upload(files: Mapping[str, bytes]) -> None:
    """For places without a store."""


class Watchdog:
    """Watches the ranks of one pod while its ``with`` block runs, and ends them when they are stuck."""

    def __init__(self, workspace: Workspace, ranks: Sequence[int], place: str, upload: Upload = _no_upload) -> None:
        self._workspace, self._ranks, self._upload = workspace, tuple(ranks), upload
        self._place = place
        self._stop = threading.Event()
        self._found: Stall | None = None
        self._suspects: list[Beat] = []
        self._suspected = 0.0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # The stacks are worth the wait: the pods are ending anyway.
        self._thread.join(_UPLOAD_SECONDS if self._found else None)
        if self._suspects and not self._found:
            self._keep(self._suspects)

    def check(self) -> None:
        """Says why the ranks have ended, if the watchdog has ended them.

        Raises:
            Hung: they made no progress.
        """
        if self._found:
            raise Hung(self._found.message, _REMEDY.format(place=self._place))

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            # Who will have exceeded a limit at the next look is found now, not half a second late.
            beats, now = self._beats(), time.monotonic() + _LOOK_SECONDS
            if stall := find_stall(beats, now):
                self._end(stall, beats)
                return
            self._suspect(beats, now)

    def _suspect(self, beats: list[Beat], now: float) -> None:
        """Has the stacks written once in the course of what may become a stall, and remembers that for a while."""
        if find_stall(beats, now, _SUSPICIOUS_SHARE):
            if not self._suspects:
                self._suspects = beats
                for beat in beats:
                    _signal(beat.pid, STACKS_SIGNAL)
            self._suspected = now
        elif now - self._suspected > _REMEMBERED_SECONDS:
            self._suspects = []

    def _beats(self) -> list[Beat]:
        found = [read_beat(self._workspace.heartbeat(rank), rank) for rank in self._ranks]
        # Ranks other than 0 end while it publishes.
        return [beat for beat in found if beat and _signal(beat.pid, 0)]

    def _end(self, stall: Stall, beats: Sequence[Beat]) -> None:
        logger.error("%s; the stacks of this pod's ranks follow", stall.message)
        for beat in beats:
            _signal(beat.pid, STACKS_SIGNAL)
            # One that was stopped writes its stacks only when it runs again; what it does then does not matter.
            _signal(beat.pid, signal.SIGCONT)
        time.sleep(_STACKS_SECONDS)
        self._keep(beats)
        if not stall.named and self._stop.wait(_WAITING_SECONDS):
            return
        self._found = stall
        for beat in beats:
            _signal(beat.pid, signal.SIGKILL)

    def _keep(self, beats: Sequence[Beat]) -> None:
        files = {f"rank-{beat.rank}.txt": self._report(beat) for beat in beats}
        for name, content in files.items():
            logger.error("%s\n%s", name, content.decode(errors="replace"))
        # A store that does not answer must not keep the ranks alive.
        sender = threading.Thread(target=self._send, args=(files,), name="diagnostics", daemon=True)
        sender.start()
        sender.join(_UPLOAD_SECONDS)

    def _report(self, beat: Beat) -> bytes:
        seconds = time.monotonic() - beat.since
        head = (
            f"rank {beat.rank}, {beat.phase.name} after {beat.step} steps, for {seconds:.1f} s of {beat.limit:.1f} s\n"
        )
        path = self._workspace.stacks(beat.rank)
        return head.encode() + (path.read_bytes() if path.exists() else b"it left no stacks\n")

    def _send(self, files: Mapping[str, bytes]) -> None:
        try:
            self._upload(files)
        except Exception:
            logger.exception("the stacks could not be uploaded; they are in this log")


def _signal(pid: int, number: int) -> bool:
    """Sends a signal; False when there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
