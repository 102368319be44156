"""When a rank counts as stuck, who is named, and how it is ended."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_api.layout import diagnostics_prefix
from finetune_trainer.errors import Hung
from finetune_trainer.training.heartbeat import Beat, Phase, read_beat
from finetune_trainer.training.watchdog import Stall, Watchdog, find_stall
from finetune_trainer.workspace import Workspace

NOW = 10_000.0


def _beat(rank: int, phase: Phase = Phase.STEP, lasting: float = 1.0, **changes: Any) -> Beat:
    values: dict[str, Any] = {"step": 5, "limit": 15.0, "alive": NOW} | changes
    return Beat(rank=rank, pid=rank, phase=phase, since=NOW - lasting, **values)


SILENT = {"alive": NOW - 6}
STALLS: dict[str, tuple[list[Beat], Stall | None]] = {
    "nobody has begun": ([], None),
    "all work": ([_beat(0), _beat(1)], None),
    "all are within their limits": ([_beat(0, lasting=14.9), _beat(1, Phase.EVALUATE, 900, limit=3600.0)], None),
    "one is frozen, the other waits": (
        [_beat(0, lasting=16), _beat(1, lasting=16, **SILENT)],
        Stall((0, 1), (1,), "no progress in step 6 for 16 s: rank 1 gives no sign of life"),
    ),
    "one does not run yet, but nobody is late": ([_beat(0), _beat(1, **SILENT)], None),
    "one is behind": (
        [_beat(2, lasting=16), _beat(3, lasting=16, step=4)],
        Stall((2, 3), (3,), "no progress in step 5 for 16 s: rank 3 is behind the others"),
    ),
    "all wait for somebody": (
        [_beat(0, lasting=16), _beat(1, lasting=17)],
        Stall((0, 1), (), "no progress in step 6 for 17 s: ranks 0, 1 wait for another one"),
    ),
    "one is frozen on its way into an evaluation, where the others are": (
        [_beat(0, Phase.EVALUATE, 12, limit=3600.0), _beat(1, lasting=16, **SILENT)],
        Stall((1,), (1,), "no progress in step 6 for 16 s: rank 1 gives no sign of life"),
    ),
    "the first step has time": (
        [_beat(0, Phase.FIRST_STEP, 900, limit=1800.0), _beat(1, Phase.LOAD, 900, limit=3600.0)],
        None,
    ),
    "all evaluate for long": ([_beat(rank, Phase.EVALUATE, 3000, limit=3600.0) for rank in (0, 1)], None),
    "saving takes too long": (
        [_beat(0, Phase.SAVE, 3700, limit=3600.0), _beat(1, lasting=90)],
        Stall((0, 1), (), "no progress in save for 3700 s: ranks 0, 1 wait for another one"),
    ),
    "publishing may take long": ([_beat(0, Phase.PUBLISH, 99_999, limit=float("inf"))], None),
    "frozen while it publishes": (
        [_beat(0, Phase.PUBLISH, 200, limit=float("inf"), alive=NOW - 130)],
        Stall((0,), (0,), "no progress in publish for 200 s: rank 0 gives no sign of life"),
    ),
}


@pytest.mark.parametrize("case", STALLS)
def test_stall(case: str) -> None:
    beats, expected = STALLS[case]
    assert find_stall(beats, NOW) == expected


def test_many_ranks_are_not_all_named() -> None:
    stall = find_stall([_beat(rank, lasting=20) for rank in range(16)], NOW)
    assert stall
    assert "ranks 0, 1, 2, 3, 4, 5, 6, 7, … wait" in stall.message


RANK = """
import sys, time
from pathlib import Path
from finetune_trainer.training.heartbeat import Pulse, write_stacks_on_signal
from finetune_trainer.workspace import Workspace
workspace, rank, steps = Workspace(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
write_stacks_on_signal(workspace.stacks(rank))
pulse = Pulse(workspace.heartbeat(rank), 2.0)
for step in range(steps):
    pulse.step(step)
    time.sleep(0.005)
def waits_here():
    print("ready", flush=True)
    time.sleep(600)
waits_here()
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "outcomes").mkdir()
    return Workspace(tmp_path)


Ranks = list[subprocess.Popen[str]]


@pytest.fixture
def ranks(workspace: Workspace) -> Iterator[Ranks]:
    """Two processes that stop making progress after some steps."""
    started: Ranks = []
    for rank in (0, 1):
        command = [sys.executable, "-c", RANK, str(workspace.root), str(rank), "10"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_frozen_rank_is_named_its_stacks_are_kept_and_all_are_ended(workspace: Workspace, ranks: Ranks) -> None:
    kept: dict[str, bytes] = {}
    ranks[1].send_signal(signal.SIGSTOP)
    time.sleep(6)
    with Watchdog(workspace, (0, 1), "s3://bucket/diagnostics", kept.update) as watchdog:
        assert [process.wait(60) for process in ranks] == [-signal.SIGKILL] * 2
    with pytest.raises(Hung, match=r"no progress in step 10 .* rank 1 gives no sign of life") as error:
        watchdog.check()
    assert "s3://bucket/diagnostics" in error.value.remedy
    assert sorted(kept) == ["rank-0.txt", "rank-1.txt"]
    assert all(b"waits_here" in content for content in kept.values())
    assert kept["rank-1.txt"].startswith(b"rank 1, STEP after 9 steps")


def test_store_that_fails_does_not_keep_the_ranks_alive(workspace: Workspace, ranks: Ranks) -> None:
    def refuse(files: Mapping[str, bytes]) -> None:
        raise OSError("no store")

    with Watchdog(workspace, (0, 1), "s3://bucket/diagnostics", refuse) as watchdog:
        assert [process.wait(60) for process in ranks] == [-signal.SIGKILL] * 2
    with pytest.raises(Hung, match="ranks 0, 1 wait for another one"):
        watchdog.check()


def test_stacks_are_kept_when_another_pod_finds_the_stall_first(workspace: Workspace, ranks: Ranks) -> None:
    kept: dict[str, bytes] = {}
    limit = 15.0
    for rank in (0, 1):
        beat = read_beat(workspace.heartbeat(rank), rank)
        assert beat
        assert beat.limit == 2.0
        _lengthen(workspace.heartbeat(rank), limit)
    with Watchdog(workspace, (0, 1), "s3://bucket/diagnostics", kept.update) as watchdog:
        deadline = time.monotonic() + 60
        while not all(workspace.stacks(rank).read_bytes() for rank in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for process in ranks:
            process.kill()
            process.wait()
    watchdog.check()
    assert sorted(kept) == ["rank-0.txt", "rank-1.txt"]
    assert all(b"waits_here" in content for content in kept.values())


def _lengthen(path: Path, limit: float) -> None:
    """Writes another limit into the heartbeat of a process that writes nothing any more but signs of life."""
    with path.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("=d", limit))


def test_ranks_that_work_are_left_alone(workspace: Workspace) -> None:
    command = [sys.executable, "-c", RANK, str(workspace.root), "0", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        kept: dict[str, bytes] = {}
        with Watchdog(workspace, (0, 1), "s3://bucket/diagnostics", kept.update) as watchdog:
            time.sleep(3)
        watchdog.check()
        assert kept == {}
        assert process.poll() is None
        process.kill()


def test_diagnostics_lie_beside_the_artifact() -> None:
    place = diagnostics_prefix("s3://bucket/results", "team-a", "haiku", "r-1", 3)
    assert str(place) == "s3://bucket/results/team-a/haiku/r-1/diagnostics/attempt-3"
