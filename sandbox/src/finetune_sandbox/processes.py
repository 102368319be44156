"""Processes: who they are, whether they live, how they end (Linux, through /proc)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# In the environment of every process of a sandbox, so that one whose parent is gone can still be found.
MARKER = "FINETUNE_SANDBOX_STATE_DIR"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Identity:
    """A process for good: a recycled pid has another start time (clock ticks since boot)."""

    pid: int
    start_time: int

    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not, unless it has threads that still hold its files."""
        stat = _stat(self.pid)
        return stat is not None and stat.start_time == self.start_time and (stat.state not in "ZX" or stat.threads > 1)

    def send(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    threads: int
    start_time: int


def identify(pid: int) -> Identity | None:
    """The identity of a process, or None when there is none with this pid."""
    stat = _stat(pid)
    return None if stat is None else Identity(pid, stat.start_time)


def spawn(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path, death_signal: int
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own that gets ``death_signal`` when its parent dies, whatever kills that.

    Must be called from the main thread: the kernel ties the signal to the thread that forked.
    """
    parent = os.getpid()

    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=before_exec,
        )


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process rather than of init."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def ended_child() -> int | None:
    """The pid of a child that has ended and waits to be collected, or None."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def descendants(pid: int) -> list[Identity]:
    """All processes below ``pid``, parents first."""
    children: dict[int, list[Identity]] = {}
    for candidate in _all_pids():
        stat = _stat(candidate)
        if stat is not None:
            children.setdefault(stat.parent, []).append(Identity(candidate, stat.start_time))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += [child.pid for child in below]
    return found


def marked(state_dir: Path) -> list[Identity]:
    """Every process of this user that carries the marker of the sandbox in ``state_dir``, except this one."""
    wanted = f"{MARKER}={state_dir}".encode()
    return [
        identity
        for pid in _all_pids()
        if pid != os.getpid() and wanted in _environment(pid) and (identity := identify(pid)) is not None
    ]


def end(processes: Iterable[Identity], grace_seconds: float = 0.0) -> None:
    """End processes: SIGTERM and a wait of ``grace_seconds`` when that is not 0, then SIGKILL, until all are gone."""
    remaining = list(processes)
    if grace_seconds > 0:
        for process in remaining:
            process.send(signal.SIGTERM)
        # A stopped process handles SIGTERM only once it is continued.
        for process in remaining:
            process.send(signal.SIGCONT)
        wait(remaining, grace_seconds)
    for process in remaining:
        process.send(signal.SIGKILL)
    wait(remaining, 10.0)


def wait(processes: Iterable[Identity], seconds: float) -> bool:
    """Wait until all are gone; False when some still live after ``seconds``."""
    deadline = time.monotonic() + seconds
    remaining = list(processes)
    while remaining := [process for process in remaining if process.alive()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty for other users' processes and for gone ones."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _stat(pid: int) -> _Stat | None:
    """State, parent, number of threads and start time: fields 3, 4, 20 and 22 of proc_pid_stat(5)."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name (field 2) is in parentheses and may itself contain spaces and parentheses.
    fields = content[content.rindex(b")") + 2 :].split()
    return _Stat(fields[0].decode(), int(fields[1]), int(fields[17]), int(fields[19]))
