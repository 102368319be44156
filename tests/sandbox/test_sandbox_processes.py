"""Finding and ending processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_sandbox import processes
from finetune_sandbox.processes import MARKER, Identity

Start = Callable[..., Identity]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python programs and kills them at the end; returns once they have printed a line."""
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str, **environment: str) -> Identity:
        code = textwrap.dedent(program)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | environment)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        identity = processes.identify(process.pid)
        assert identity is not None
        return identity

    yield run
    for process in started:
        process.kill()
        process.communicate()


SLEEP = "import time; print(flush=True); time.sleep(600)"
STUBBORN = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(flush=True)
    time.sleep(600)
"""
POLITE = """
    import pathlib, signal, sys, time
    def leave(*_):
        pathlib.Path({path!r}).touch()
        sys.exit()
    signal.signal(signal.SIGTERM, leave)
    print(flush=True)
    time.sleep(600)
"""
PARENT = f"""
    import subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
    time.sleep(600)
"""


def test_a_recycled_pid_is_another_process(start: Start) -> None:
    running = start(SLEEP)
    recycled = Identity(running.pid, running.start_time + 1)
    assert running.alive()
    assert not recycled.alive()
    processes.end([recycled])
    assert running.alive()


def test_ended_processes_are_gone_even_as_zombies(start: Start) -> None:
    running = start(SLEEP)
    processes.end([running])
    assert not running.alive()


def test_who_handles_sigterm_is_given_time_for_it(start: Start, tmp_path: Path) -> None:
    running = start(POLITE.format(path=str(tmp_path / "cleaned")))
    processes.end([running], grace_seconds=20)
    assert (tmp_path / "cleaned").exists()


def test_stopped_processes_handle_sigterm_too(start: Start, tmp_path: Path) -> None:
    running = start(POLITE.format(path=str(tmp_path / "cleaned")))
    os.kill(running.pid, signal.SIGSTOP)
    processes.end([running], grace_seconds=20)
    assert (tmp_path / "cleaned").exists()


def test_who_ignores_sigterm_is_killed(start: Start) -> None:
    running = start(STUBBORN)
    processes.end([running], grace_seconds=0.2)
    assert not running.alive()


def test_marked_processes_are_found_by_their_state_directory(start: Start, tmp_path: Path) -> None:
    mine = start(SLEEP, **{MARKER: str(tmp_path / "mine")})
    start(SLEEP, **{MARKER: str(tmp_path / "mine-too")})
    assert processes.marked(tmp_path / "mine") == [mine]


def test_descendants_are_found_through_generations(start: Start) -> None:
    parent = start(PARENT)
    children = processes.descendants(parent.pid)
    assert len(children) == 1
    assert {parent, *children} <= set(processes.descendants(os.getpid()))
    processes.end([parent, *children])


def test_spawned_processes_die_with_their_parent(start: Start, tmp_path: Path) -> None:
    program = f"""
        import pathlib, signal, sys, time
        from finetune_sandbox import processes
        argv = [sys.executable, "-c", {SLEEP!r}]
        child = processes.spawn(argv, {{}}, pathlib.Path("/"), pathlib.Path({str(tmp_path / "log")!r}), signal.SIGKILL)
        print(flush=True)
        time.sleep(600)
    """
    parent = start(program)
    children = processes.descendants(parent.pid)
    assert len(children) == 1
    os.kill(parent.pid, signal.SIGKILL)
    assert processes.wait(children, 20)


def test_nobody_is_identified_by_a_free_pid() -> None:
    assert processes.identify(2**22 + 1) is None
