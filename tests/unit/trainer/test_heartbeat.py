"""What a training process tells the watchdog, and the limits that follow from it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_trainer.training import heartbeat
from finetune_trainer.training.heartbeat import Beat, NoPulse, Phase, Pulse, read_beat, step_limit
from finetune_trainer.training.watchdog import find_stall


class _Clock:
    """Stands in for the time module: a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


def _read(path: Path) -> Beat:
    beat = read_beat(path, 3)
    assert beat
    return beat


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [([0.1], 15.0), ([4.0] * 10, 15.0), ([10.0] * 10, 30.0), ([1.0] * 98 + [20.0] * 2, 60.0), ([1.0] * 99 + [8.0], 24)],
)
def test_limit_of_a_step(seconds: list[float], limit: float) -> None:
    assert step_limit(seconds, 15.0) == limit


def test_each_phase_has_its_own_limit(tmp_path: Path, clock: _Clock) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    limits = {}
    for phase in set(Phase) - {Phase.STEP, Phase.FIRST_STEPS}:
        pulse.enter(phase)
        limits[phase] = _read(tmp_path / "beat").limit
    assert limits[Phase.PUBLISH] == float("inf")
    assert all(limit >= 1800 for limit in limits.values())


def test_steps_are_judged_by_those_before(tmp_path: Path, clock: _Clock) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    seen = []
    for step in range(6):
        pulse.step(step)
        seen.append(_read(tmp_path / "beat"))
        clock.now += 600.0 if step == 0 else 10.0
    assert [beat.phase for beat in seen] == [Phase.FIRST_STEPS] * 3 + [Phase.STEP] * 3
    assert [beat.limit for beat in seen[:3]] == [1800.0] * 3
    assert [beat.limit for beat in seen[3:]] == [1800.0, 30.0, 30.0], "the first steps say nothing of the others"
    assert (seen[5].rank, seen[5].step, seen[5].since) == (3, 5, 1640.0)


def test_what_is_not_a_step_does_not_count_as_one(tmp_path: Path, clock: _Clock) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    for step in range(10):
        pulse.step(step)
        clock.now += 1.0
        pulse.enter(Phase.EVALUATE)
        clock.now += 500.0
        pulse.step(step)
        clock.now += 1.0
    assert _read(tmp_path / "beat").limit == 15.0


def test_ten_thousand_fast_steps_with_evaluations_and_saves_raise_no_alarm(tmp_path: Path, clock: _Clock) -> None:
    """Steps of 10 ms, some of them slow, a watchdog that looks at every instant, and long phases between."""
    pulse, path = Pulse(tmp_path / "beat", 15.0), tmp_path / "beat"
    for step in range(10_000):
        pulse.step(step)
        clock.now += 14.0 if step % 97 == 0 else 0.01
        _assert_quiet(path, clock)
        if step % 50 == 49:
            pulse.enter(Phase.EVALUATE if step % 100 == 49 else Phase.SAVE)
            clock.now += 300.0
            _assert_quiet(path, clock)


def _assert_quiet(path: Path, clock: _Clock) -> None:
    beat = _read(path)
    # The ticker of the process under test runs by the real clock.
    current = Beat(beat.rank, beat.pid, beat.phase, beat.step, beat.since, beat.limit, clock.now)
    assert find_stall([current], clock.now) is None


def test_a_process_gives_signs_of_life_by_itself(tmp_path: Path) -> None:
    Pulse(tmp_path / "beat", 15.0)
    first = _read(tmp_path / "beat").alive
    deadline = time.monotonic() + 60
    while _read(tmp_path / "beat").alive == first:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("content", [None, b"", bytes(10), bytes(56)])
def test_process_that_has_not_said_anything(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "beat").write_bytes(content)
    assert read_beat(tmp_path / "beat", 0) is None


def test_process_that_was_stopped_while_it_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    Pulse(tmp_path / "beat", 15.0).step(7)
    content = bytearray((tmp_path / "beat").read_bytes())
    content[0] += 1
    (tmp_path / "copy").write_bytes(content)
    assert _read(tmp_path / "copy").step == 7


STUCK = """
import sys, time
from pathlib import Path
from finetune_trainer.training.heartbeat import STACKS_SIGNAL, write_stacks_on_signal
write_stacks_on_signal(Path(sys.argv[1]))
def stuck_in_here():
    print("ready", flush=True)
    time.sleep(600)
stuck_in_here()
"""


def test_stacks_are_written_on_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUCK, str(tmp_path / "stacks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(heartbeat.STACKS_SIGNAL)
        deadline = time.monotonic() + 60
        while "stuck_in_here" not in (tmp_path / "stacks").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()


def test_where_nobody_watches_nothing_is_written(tmp_path: Path) -> None:
    NoPulse().enter(Phase.LOAD)
    NoPulse().step(1)
    assert list(tmp_path.iterdir()) == []
