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
    for phase in set(Phase) - {Phase.STEP, Phase.FIRST_STEP}:
        pulse.enter(phase)
        limits[phase] = _read(tmp_path / "beat").limit
    assert limits[Phase.PUBLISH] == float("inf")
    assert all(limit >= 1800 for limit in limits.values())


LIMITS: dict[str, tuple[list[float], Phase, float]] = {
    "nothing is known yet": ([], Phase.FIRST_STEP, 1800.0),
    "a short first step": ([0.2], Phase.STEP, 15.0),
    "the first step is all that is known": ([600.0], Phase.STEP, 1800.0),
    "the slower of two": ([20.0, 6.0], Phase.STEP, 60.0),
    "the first step says nothing of the others": ([600.0, 10.0, 9.0], Phase.STEP, 30.0),
    "the slowest of a few": ([600.0, 10.0, 9.0, 12.0], Phase.STEP, 36.0),
    "a slow second step is no first one": ([600.0, 300.0, 9.0, 12.0], Phase.STEP, 900.0),
    "one of many is an exception": ([600.0, *[1.0] * 199, 300.0], Phase.STEP, 15.0),
    "those of long ago are forgotten": ([600.0, *[100.0] * 300, *[1.0] * 512], Phase.STEP, 15.0),
}


@pytest.mark.parametrize("case", LIMITS)
def test_steps_are_judged_by_those_before(tmp_path: Path, clock: _Clock, case: str) -> None:
    seconds, phase, limit = LIMITS[case]
    pulse = Pulse(tmp_path / "beat", 15.0)
    for step, lasting in enumerate(seconds):
        pulse.step(step)
        clock.now += lasting
    pulse.step(len(seconds))
    beat = _read(tmp_path / "beat")
    assert (beat.phase, beat.limit) == (phase, limit)
    assert (beat.rank, beat.step, beat.since) == (3, len(seconds), clock.now)


@pytest.mark.parametrize("phase", [Phase.EVALUATE, Phase.SAVE, Phase.EXPORT])
def test_the_way_to_and_from_a_phase_has_the_limit_of_a_step(tmp_path: Path, clock: _Clock, phase: Phase) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    for step in range(3):
        pulse.step(step)
        clock.now += 10.0
        with pulse.during(phase):
            clock.now += 300.0
            inside = _read(tmp_path / "beat")
        after = _read(tmp_path / "beat")
        clock.now += 7.0
        assert (inside.phase, inside.limit) == (phase, 3600.0)
        # The step before the phase counts, however many phases come between; the way after it does not.
        assert (after.phase, after.limit, after.since) == (Phase.STEP, 30.0, inside.since + 300.0)


def test_before_the_first_step_a_phase_leads_back_to_what_was_before(tmp_path: Path, clock: _Clock) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    pulse.enter(Phase.LOAD)
    with pulse.during(Phase.EVALUATE), pulse.during(Phase.SAVE):
        pass
    assert _read(tmp_path / "beat").phase is Phase.LOAD


def test_a_phase_within_another_leads_back_to_that(tmp_path: Path, clock: _Clock) -> None:
    pulse = Pulse(tmp_path / "beat", 15.0)
    pulse.step(0)
    with pulse.during(Phase.EVALUATE):
        with pulse.during(Phase.SAVE):
            clock.now += 5.0
        beat = _read(tmp_path / "beat")
    assert (beat.phase, beat.since) == (Phase.EVALUATE, clock.now)
    assert _read(tmp_path / "beat").phase is Phase.STEP


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
            with pulse.during(Phase.EVALUATE if step % 100 == 49 else Phase.SAVE):
                clock.now += 300.0
                _assert_quiet(path, clock)
            clock.now += 10.0
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
    with NoPulse().during(Phase.SAVE):
        pass
    assert list(tmp_path.iterdir()) == []
