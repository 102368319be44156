"""Ranks that wait while rank 0 writes: as many meetings as it takes, and none that the other side does not come to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from finetune_trainer.artifact.weights import Target
from finetune_trainer.storage.interface import Writer
from finetune_trainer.training import lead
from finetune_trainer.training.heartbeat import NoPulse, Phase
from finetune_trainer.training.lead import Lead

CPU = torch.device("cpu")
# Far more than a meeting takes.
BOUND_SECONDS = 30


class _Meetings:
    """Sums over two ranks that are threads; one that nobody else comes to breaks."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=BOUND_SECONDS)
        self._values: list[float] = []
        self.count = 0

    def total(self, value: float, device: torch.device) -> float:
        self._values.append(value)
        self._barrier.wait()
        found = sum(self._values)
        if self._barrier.wait() == 0:
            self._values.clear()
            self.count += 1
        self._barrier.wait()
        return found


class _Counted(NoPulse):
    def __init__(self) -> None:
        self.entered = 0

    def enter(self, phase: Phase) -> None:
        assert phase is Phase.EXPORT
        self.entered += 1


class _Memory:
    """Takes weights into memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @contextmanager
    def writing(self, name: str, size: int) -> Iterator[Writer]:
        content = bytearray()

        class Into:
            def write(self, piece: bytes | memoryview, /) -> int:
                content.extend(piece)
                return len(piece)

        yield Into()
        self.files[name] = bytes(content)


@pytest.fixture
def meetings(monkeypatch: pytest.MonkeyPatch) -> _Meetings:
    meetings = _Meetings()
    monkeypatch.setattr(lead, "total", meetings.total)
    monkeypatch.setattr(lead, "_PIECE_BYTES", 10)
    return meetings


def _together(leader: Callable[[Lead], None], other: Callable[[Lead], None]) -> tuple[_Counted, _Counted]:
    """Both sides to their end, each with what it said to its watchdog."""
    pulses = _Counted(), _Counted()
    leads = Lead(True, pulses[0], CPU), Lead(False, pulses[1], CPU)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(leader, leads[0]), pool.submit(other, leads[1])]:
            done.result()
    return pulses


@pytest.mark.parametrize(
    ("sizes", "met"),
    [
        ([], 1),
        ([3], 2),
        ([10], 3),
        # Each of three full pieces is told of, what is left over with the next one.
        ([35], 5),
        ([4, 4, 4, 35, 1], 10),
    ],
)
def test_others_wait_as_long_as_pieces_come(meetings: _Meetings, sizes: list[int], met: int) -> None:
    memory, contents = _Memory(), [bytes([number]) * size for number, size in enumerate(sizes)]

    def leader(own: Lead) -> None:
        target = own.paced(Target(Path(), memory))
        with target.weights.writing("file", sum(sizes)) as output:
            for content in own.turns(contents):
                assert output.write(memoryview(content)) == len(content)
        own.turn()

    def other(own: Lead) -> None:
        assert list(own.turns(contents)) == contents
        own.turn()

    pulses = _together(leader, other)
    assert memory.files == {"file": b"".join(contents)}
    assert meetings.count == met
    # Each meeting is a sign of life of both.
    assert [pulse.entered for pulse in pulses] == [met, met]


def test_what_is_written_after_the_last_item_is_waited_for_too(meetings: _Meetings) -> None:
    """As where weights are computed from others: they are gathered first, and then written."""
    memory = _Memory()

    def leader(own: Lead) -> None:
        gathered = b"".join(own.turns([b"12", b"34"]))
        with own.paced(Target(Path(), memory)).weights.writing("file", 40) as output:
            output.write(gathered * 10)
        own.turn()

    _together(leader, lambda own: (list(own.turns([b"12", b"34"])), own.turn())[1])
    assert memory.files == {"file": b"1234" * 10}
    assert meetings.count == 2 + 4 + 1


def test_a_leader_that_fails_meets_nobody(meetings: _Meetings) -> None:
    def leader(own: Lead) -> None:
        with own.paced(Target(Path(), _Memory())).weights.writing("file", 1):
            raise OSError("no store")

    with pytest.raises(OSError, match="no store"):
        leader(Lead(True, _Counted(), CPU))
    assert meetings.count == 0
